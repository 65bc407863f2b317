"""Contents that a scan copies as it reads them: they may change before they are sent.

A copy is a file without a name, so that nothing is left of it, however this process ends. What it
holds is what was hashed, and the scan has found that nothing changed meanwhile.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.disk.content import write_all
from filesync.process.descriptors import Quota

MAX_BYTES: Final = 1 << 30
"""Of all copies of this process together: they take the disk's room, and whoever may read can ask for them."""
_SHARE: Final = 8
"""All of them take no more than this part of what the process may have open."""


_ROOM: Final = Quota(_SHARE, MAX_BYTES)


class Copies:
    """Those of one scan, by digest. For several threads at once."""

    def __init__(self, directory: Path) -> None:
        """Keep them on the file system of ``directory``, which need not be there yet."""
        with suppress(OSError):  # then none is made
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()
        self._made: dict[Digest, Copy] = {}
        self._is_closed = False

    def beside(self, size: int) -> "Copy | None":
        """Return who copies a file of ``size`` bytes that is read now, if there is room."""
        if not size or not _ROOM.take(size):
            return None
        try:
            fd = os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # not on this file system, no descriptor left, or no directory
            _ROOM.give_back(size)
            return None
        return Copy(self, fd, size)

    def keep(self, digest: Digest, content: bytes) -> None:
        """Copy a whole content, if there is room."""
        if one := self.beside(len(content)):
            one.begin(memoryview(content))
            one.finish()
            one.end(digest)

    def open(self, digest: Digest) -> int | None:
        """Return a descriptor of the copy of a content, for the caller to close, if there is one.

        All of one copy have one position: read by offsets.

        Raises:
            OSError: there is none left.
        """
        with self._lock:
            one = self._made.get(digest)
            return None if one is None else os.dup(one.fd)

    def add(self, digest: Digest, one: "Copy") -> None:
        """Take a copy that is whole."""
        with self._lock:
            if self._is_closed or digest in self._made:
                one.close()
            else:
                self._made[digest] = one

    def close(self) -> None:
        """Keep nothing any more. Idempotent."""
        with self._lock:
            self._is_closed = True
            for one in self._made.values():
                one.close()
            self._made.clear()


class Copy:
    """One that is being made; a ``filesync.disk.scanning.watcher.Beside``.

    Attributes:
        fd: its file.
    """

    def __init__(self, copies: Copies, fd: int, size: int) -> None:
        self.fd = fd
        self._copies = copies
        self._size = size
        self._at = 0
        self._block = memoryview(b"")
        self._is_good = True

    def begin(self, block: memoryview) -> None:
        """Take the block; it is written when it has been hashed."""
        self._block = block

    def finish(self) -> None:
        """Write the block."""
        block, self._block = self._block, memoryview(b"")
        self._is_good &= self._at + len(block) <= self._size
        if self._is_good:
            try:
                write_all(self.fd, block, self._at)
            except OSError:  # the disk is full: it is sent from where it is
                self._is_good = False
        self._at += len(block)

    def end(self, digest: Digest | None) -> None:
        """Keep the copy, if it is one of ``digest``."""
        if digest is not None and self._is_good:
            self._copies.add(digest, self)
        else:
            self.close()

    def close(self) -> None:
        """Let go of it."""
        with suppress(OSError):
            os.close(self.fd)
        _ROOM.give_back(self._size)
