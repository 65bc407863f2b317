"""A file that can be read from its start while it still comes."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol

from filesync.disk.handles import READ_FLAGS
from filesync.disk.updating.large import BasisFile, LargeFile
from filesync.disk.updating.update import TreeUpdate, WantedFile
from filesync.transfer.wire import Buffer
from worker.moving.errors import CameOtherwise
from worker.moving.prefix import Prefix


class ComingFile:
    """Reads a file of ``size`` bytes that an update writes, and that then is at ``path``.

    One thread reads; another writes, by ``ComingUpdate``. What is read is not verified yet.
    """

    def __init__(self, path: Path, size: int, *, on_begun: Callable[[], object]) -> None:
        """``on_begun`` is called, from the thread that writes, when there is something to read."""
        self._path = path
        self._size = size
        self._on_begun = on_begun
        self._changed = threading.Condition()
        self._fd = -1
        self._at = 0
        self._come = Prefix()
        self._is_over = False
        self._is_broken = False

    # --- for who reads ------------------------------------------------------------------------

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most ``size``; waits for them. None at the end only.

        Raises:
            CameOtherwise: the file came to be another.
        """
        with self._changed:
            while self._at == self._come.end < self._size and not self._is_over:
                self._changed.wait()
            if self._is_broken:
                raise CameOtherwise(f"{self._path.name} comes no more, or came anew")
            if self._fd < 0:
                self._open()
            left = self._come.end - self._at
        if self._at == self._size:
            return b""
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._at)
        if not data:
            raise CameOtherwise(f"{self._path.name} did not come to its end")
        self._at += len(data)
        return data

    def stop(self) -> None:
        """Have the reader fail at once; for any thread."""
        with self._changed:
            self._is_broken = self._is_over = True
            self._changed.notify_all()

    @property
    def came_anew(self) -> bool:
        """Whether what was read is not what came in the end, or may not be."""
        return self._is_broken

    def rewind(self) -> None:
        """Begin again, with the file as it has come."""
        with self._changed:
            self._at, self._is_broken = 0, False

    def close(self) -> None:
        """Close the file; nobody reads any more. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        """Open what needed no writing in pieces: it is under its name."""
        try:
            self._fd = os.open(self._path, READ_FLAGS)
        except OSError as exc:
            raise CameOtherwise(f"{self._path.name} did not come") from exc
        self._come.end = min(os.fstat(self._fd).st_size, self._size)

    # --- for who writes -----------------------------------------------------------------------

    def begin(self, fd: int) -> None:
        """Read from ``fd``, which is dupped, what is noted from now on."""
        with self._changed:
            if self._fd >= 0:
                os.close(self._fd)
                self._is_broken = self._at > 0
            self._fd, self._come = os.dup(fd), Prefix()
            self._changed.notify_all()
        self._on_begun()

    def note(self, offset: int, length: int) -> None:
        """Take note that these bytes are written; each is once."""
        with self._changed:
            self._come.note(offset, length)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will be written. Idempotent; for any thread."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


class Told(Protocol):
    """Who is told, by the thread that writes it, how a file comes."""

    def begin(self, fd: int) -> None:
        """It is written to ``fd``, from nothing on."""

    def note(self, offset: int, length: int) -> None:
        """These bytes are written; each is once."""


class ComingUpdate:
    """An update that tells others of the large files that it writes."""

    def __init__(
        self,
        update: TreeUpdate,
        telling: Callable[[WantedFile], AbstractContextManager[Sequence[Told]]],
    ) -> None:
        """``telling`` gives who is told of a file while its block runs, in the thread that writes."""
        self._update = update
        self._telling = telling
        self.prepare = update.prepare
        self.wanted = update.wanted
        self.read_basis = update.read_basis
        self.write_small = update.write_small
        self.content_at = update.content_at
        self.pass_over = update.pass_over
        self.finish = update.finish
        self.abort = update.abort

    def open_large(self, wanted: WantedFile) -> "_Coming":
        """Return the file, to be written in pieces."""
        return _Coming(self._update.open_large(wanted), self._telling(wanted))


class _Coming:
    def __init__(
        self, large: LargeFile, telling: AbstractContextManager[Sequence[Told]]
    ) -> None:
        self._large = large
        self._stack = ExitStack()
        self._told = self._stack.enter_context(telling)
        for one in self._told:
            one.begin(large.fileno())

    @property
    def bases(self) -> Sequence[BasisFile]:
        return self._large.bases

    def write(self, offset: int, data: Buffer) -> None:
        self._large.write(offset, data)
        self._tell(offset, len(data))

    def copy(self, offset: int, *, basis: int, basis_offset: int, length: int) -> None:
        self._large.copy(offset, basis=basis, basis_offset=basis_offset, length=length)
        self._tell(offset, length)

    def finish(self) -> None:
        with self._stack:
            self._large.finish()

    def abort(self) -> None:
        with self._stack:
            self._large.abort()

    def _tell(self, offset: int, length: int) -> None:
        for one in self._told:
            one.note(offset, length)
