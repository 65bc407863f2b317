"""Files whose content arrives in pieces."""

import os
from collections.abc import Callable

from blake3 import blake3

from filesync.digest import Digest, short
from filesync.disk.content import PIECE_BYTES, hash_file, read_piece, write_sparse
from filesync.disk.handles import shown
from filesync.disk.work import storing
from filesync.disk.write import NewFile
from filesync.errors import ContentCorrupt


class LargeFile:
    """One file whose content arrives in pieces, in any order, each byte once.

    For one thread at a time. Ends with ``finish`` or ``abort``.

    Attributes:
        basis_fd: the file that it replaces, open for reading; None if there is none. It is
            this object's and is closed at its end.
    """

    def __init__(
        self,
        new: NewFile,
        basis_fd: int | None,
        *,
        place: Callable[[NewFile], None],
        discard: Callable[[NewFile], None],
    ) -> None:
        self.basis_fd = basis_fd
        self._new = new
        self._place = place
        self._discard = discard
        self._hasher = blake3()
        self._hashed_bytes = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` at ``offset``; pages of it that are all zero become holes.

        Does not keep ``data``.

        Raises:
            ContentCorrupt: it reaches past the end.
            StoreError: this disk.
        """
        if offset < 0 or offset + len(data) > self._new.entry.size:
            raise ContentCorrupt(
                f"{shown(self._new.entry.name)}: bytes past its end of {self._new.entry.size}"
            )
        # In order, which is usual, hashing here saves reading everything again at the end.
        if offset == self._hashed_bytes:
            self._hasher.update(data)
            self._hashed_bytes += len(data)
        with storing(self._new.entry.name):
            write_sparse(self._new.fd, memoryview(data), offset)

    def copy(self, offset: int, *, basis_offset: int, length: int) -> None:
        """Write ``length`` bytes that the basis has at ``basis_offset`` at ``offset``.

        Raises:
            ContentCorrupt: there is no basis, or it ends before, or this file does.
            StoreError: this disk.
        """
        if self.basis_fd is None:
            raise ContentCorrupt(f"{shown(self._new.entry.name)} replaces nothing")
        while length > 0:
            with storing(self._new.entry.name):
                data = read_piece(self.basis_fd, basis_offset, min(length, PIECE_BYTES))
            if not data:
                raise ContentCorrupt(f"{shown(self._new.entry.name)}: its basis ends before")
            self.write(offset, data)
            offset += len(data)
            basis_offset += len(data)
            length -= len(data)

    def finish(self) -> None:
        """Verify the whole content, then put the file in place.

        Raises:
            ContentCorrupt: it is not what was wanted. What was written is removed, and the
                content is still wanted: ``open_large`` may be called again.
            StoreError: this disk.
        """
        entry = self._new.entry
        try:
            with storing(entry.name):
                if self._hashed_bytes == entry.size:
                    actual = Digest(self._hasher.digest())
                else:
                    actual = hash_file(self._new.fd, entry.size)
            if actual != entry.digest:
                raise ContentCorrupt(
                    f"{shown(entry.name)} has the digest {short(actual)}, "
                    f"not {short(entry.digest)}"
                )
            self._close_basis()
            self._place(self._new)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove what has been written. Idempotent; does nothing after ``finish``."""
        self._close_basis()
        if self._new.fd >= 0:
            self._discard(self._new)

    def _close_basis(self) -> None:
        if self.basis_fd is not None:
            os.close(self.basis_fd)
            self.basis_fd = None
