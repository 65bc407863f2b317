"""The digest of a file that is being written, in any order: hashed as far as it is there."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from blake3 import blake3

from filesync.digest import Digest
from filesync.disk.content import PIECE_BYTES, hash_file, reading

BESIDE_BYTES: Final = 8 << 20
"""Files from this size on are read again by a thread, while more of them is written."""
Buffer = bytes | bytearray | memoryview
_MAX_AHEAD: Final = 4096
"""Bound on runs that came before what stands in front of them; beyond it all is read again."""


class TrailingHash:
    """BLAKE3 of a file, taken from its start on while it is written by one thread at a time.

    What was written must not change after it. If it does, or bytes are told of twice, all is read
    again in the end.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Begin; nothing of the ``size`` bytes that ``fd`` shall have is there."""
        self._fd = fd
        self._read = reading(fd)
        self._size = size
        self._hasher = blake3()
        self._done = 0
        self._begun = 0
        self._told = 0
        # Runs behind the first gap: where each begins and ends, and the other way round.
        self._ends: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self._is_void = False
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._trailing: Future[None] | None = None

    def write(self, offset: int, data: Buffer) -> None:
        """Take note of ``data`` that was just written; where it is next, nobody reads it again."""
        if not self._begin(offset, data):
            self.note(offset, len(data))
            return
        self._told += len(data)
        self._hasher.update(data)
        self._done += len(data)
        self._follow()

    def copied(self, offset: int, data: memoryview) -> None:
        """As ``write``, of ``data`` that was copied here, as more will be at once.

        A thread reads it again meanwhile: to read and hash it takes half as long as to write it.
        """
        if self._size < BESIDE_BYTES:
            self.write(offset, data)
        else:
            self.note(offset, len(data))

    def note(self, offset: int, length: int) -> None:
        """Take note of what is in the file, and is to be read when all before it is there."""
        self._told += length
        with self._lock:
            if offset < self._begun or len(self._ends) >= _MAX_AHEAD:
                self._is_void = True
            if self._is_void:
                return
            start = self._starts.pop(offset, offset)
            self._ends[start] = offset + length
            self._starts[offset + length] = start
        self._follow()

    def digest(self) -> Digest:
        """Return the digest of the file, which is complete.

        Raises:
            OSError: it cannot be read.
        """
        if (trailing := self._trailing) is not None:
            trailing.result()
        # With none told of twice, none was hashed that was written over.
        if self._done == self._told == self._size and not self._is_void:
            return Digest(self._hasher.digest())
        return hash_file(self._fd, self._size)

    def close(self) -> None:
        """Return when nobody reads the file any more. Idempotent."""
        self._is_closed = True
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    # --- inside -----------------------------------------------------------------------------

    def _begin(self, offset: int, data: Buffer) -> bool:
        """Say whether ``data`` comes next; it is the caller's then, who hashes it now."""
        with self._lock:
            if offset != self._begun or self._trailing is not None or self._is_void:
                return False
            self._begun += len(data)
            return True

    def _follow(self) -> None:
        if self._size < BESIDE_BYTES:
            self._trail()
            return
        with self._lock:
            if self._trailing is not None or self._begun not in self._ends:
                return
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="filesync-hash")
            self._trailing = self._thread.submit(self._trail)

    def _trail(self) -> None:
        """Hash what is there behind what was hashed, until there is a gap."""
        while (end := self._next()) is not None:
            while (at := self._done) < end and not self._is_closed:
                data = self._read(at, min(end - at, PIECE_BYTES))
                if not data:
                    self._is_void = True  # it has become shorter; reading it again will show
                    break
                self._hasher.update(data)
                self._done += len(data)

    def _next(self) -> int | None:
        """Return where the next run ends, which is hashed from now on."""
        with self._lock:
            end = None if self._is_void else self._ends.pop(self._begun, None)
            if end is None or self._is_closed:
                self._trailing = None
                return None
            self._starts.pop(end, None)  # gone already if another run that ends here had it
            self._begun = end
            return end
