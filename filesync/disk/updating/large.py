"""Files whose content arrives in pieces."""

import errno
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from filesync.digest import Digest, short
from filesync.disk.content import PIECE_BYTES, read_buffer, write_all, write_sparse
from filesync.disk.handles import shown
from filesync.disk.updating.trailing import BESIDE_BYTES, TrailingHash
from filesync.disk.updating.work import storing
from filesync.disk.updating.write import Data, NewFile
from filesync.errors import ContentCorrupt, StoreError

_KERNEL_BYTES: Final = 4 << 20
"""Copied at once: what was copied is hashed meanwhile, and whoever cancels waits for it."""
_BLOCK_BYTES: Final = 512
"""What ``st_blocks`` counts."""
_SHARED_BYTES: Final = 4096
"""Whole blocks of this size file systems can share, from one such border to another."""
_PROBE_EVERY: Final = 64 << 10
_ZEROS: Final = bytes(64)
"""Looking for these costs a twentieth of the copying."""


class BasisFile(NamedTuple):
    """An old file that may share content with a new one.

    Attributes:
        fd: open for reading; the ``LargeFile``'s own, closed at its end.
        size: its bytes.
        digest: of what it should hold; None where nobody knows.
    """

    fd: int
    size: int
    digest: Digest | None = None


class LargeFile:
    """One file whose content arrives in pieces, in any order, each byte once.

    For one thread at a time. Ends with ``finish`` or ``abort``.

    Where an earlier update was interrupted, what it has left of this very content is the first
    of ``bases``, and the file that is being written at once: what it has at its own offset
    costs no writing. What nobody has written yet reads as zeros there.

    Attributes:
        bases: what it may be copied from, the likeliest first; none of them is verified.
    """

    def __init__(
        self,
        new: NewFile,
        bases: Sequence[BasisFile],
        *,
        path: bytes,
        place: Callable[[NewFile], None],
        discard: Callable[[NewFile, bool], None],
    ) -> None:
        """Take ``new`` and the descriptors of ``bases`` over, whether this fails or not.

        Args:
            new: the file, empty or partly written.
            bases: other files than ``new``.
            path: what people know the file by.
            place: puts the file under its name.
            discard: closes it instead; told whether what is in it may be right.

        Raises:
            StoreError: no more files may be opened.
        """
        self._new = new
        self._path = path
        self._place = place
        self._discard = discard
        self._hash = TrailingHash(new.fd, new.entry.size)
        self._buffer = memoryview(b"")
        self._solid: dict[int, bool] = {}
        self._is_over_quota = False
        self.bases = tuple(bases)
        if new.extents:
            try:
                with storing(path):
                    own = BasisFile(os.dup(new.fd), new.extents[-1][1])
            except BaseException:
                self.abort()
                raise
            self.bases = (own, *self.bases)

    def write(self, offset: int, data: Data) -> None:
        """Write ``data`` at ``offset``; pages of it that are all zero become holes.

        Does not keep ``data``.

        Raises:
            ContentCorrupt: it reaches past the end.
            StoreError: this disk.
        """
        self._check(offset, len(data))
        with self._storing():
            self._write(offset, data)
            # In order, which is usual, hashing it now saves reading it again. Beside the writing,
            # by a thread, it takes as long on two cores: the sender needs the other one.
            self._hash.write(offset, data)

    def copy(self, offset: int, *, basis: int, basis_offset: int, length: int) -> None:
        """Write ``length`` bytes at ``offset`` that ``bases[basis]`` has at ``basis_offset``.

        Of a basis without holes the kernel copies them, or has both files share them; but for
        long runs of zeros, which become holes.

        Raises:
            ContentCorrupt: there is no such basis, or it ends before, or this file does.
            StoreError: this disk.
        """
        if not 0 <= basis < len(self.bases) or basis_offset < 0:
            raise ContentCorrupt(f"{shown(self._path)} has no basis {basis}")
        self._check(offset, length)
        with self._storing():
            if self._is_own(basis) and offset == basis_offset:
                self._hash.note(offset, length)
                return
            while length > 0:
                done = self._copy_some(basis, basis_offset, offset, length)
                offset += done
                basis_offset += done
                length -= done

    def fileno(self) -> int:
        """Return what is written to, open for reading too, until ``finish`` or ``abort``."""
        return self._new.fd

    def finish(self) -> None:
        """Verify the whole content, then put the file in place.

        Raises:
            ContentCorrupt: it is not what was wanted. What was written is removed, and the
                content is still wanted: ``open_large`` may be called again.
            StoreError: this disk.
        """
        entry = self._new.entry
        try:
            with storing(self._path):
                actual = self._hash.digest()
            if actual != entry.digest:
                self._close(keep=False)
                raise ContentCorrupt(
                    f"{shown(self._path)} has the digest {short(actual)}, "
                    f"not {short(entry.digest)}",
                    self._path,
                )
            self._place(self._new)
        finally:
            self._close(keep=True)

    def abort(self) -> None:
        """Let go of it. Idempotent; does nothing after ``finish``.

        What has been written stays for whoever wants the same content next, in this update or
        the one after it, unless this user may have no more.
        """
        self._close(keep=not self._is_over_quota)

    # --- inside -----------------------------------------------------------------------------

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            with storing(self._path):
                yield
        except StoreError as exc:
            # Of a full disk it shows by its size (``Partials.release``); of a quota nothing else does.
            cause = exc.__cause__
            self._is_over_quota = isinstance(cause, OSError) and cause.errno == errno.EDQUOT
            raise

    def _check(self, offset: int, length: int) -> None:
        size = self._new.entry.size
        if offset < 0 or length < 0 or offset + length > size:
            raise ContentCorrupt(f"{shown(self._path)}: bytes past its end of {size}")

    def _write(self, offset: int, data: Data) -> None:
        view = memoryview(data)
        at = offset
        for start, stop in self._left(offset, offset + len(view)):
            write_sparse(self._new.fd, view[at - offset : start - offset], at)
            write_all(self._new.fd, view[start - offset : stop - offset], start)
            at = stop
        write_sparse(self._new.fd, view[at - offset :], at)

    def _copy_some(self, basis: int, basis_offset: int, offset: int, length: int) -> int:
        """Copy as ``copy`` does, ``length`` bytes or fewer; return how many."""
        fd = self.bases[basis].fd
        count = min(length, PIECE_BYTES)
        if self._is_solid(basis):
            kernel, count = _by_kernel(fd, basis_offset, offset, length)
            with suppress(OSError):  # not on these file systems; or it fails below as well
                if kernel and (
                    done := os.copy_file_range(fd, self._new.fd, kernel, basis_offset, offset)
                ):
                    self._hash.note(offset, done)
                    return done
        data = self._read(fd, basis_offset, count)
        if not data:
            raise ContentCorrupt(f"{shown(self._new.entry.name)}: its basis ends before")
        if self._is_own(basis):
            self._blank(data, basis_offset)
        self._write(offset, data)
        self._hash.copied(offset, data)
        return len(data)

    def _is_own(self, basis: int) -> bool:
        """Say whether a basis is this file, as an earlier update has left it."""
        return basis == 0 and bool(self._new.extents)

    def _is_solid(self, basis: int) -> bool:
        """Say whether a basis is another file without holes, which the kernel would fill.

        And the new one so large that it is read again to be hashed.
        """
        if self._is_own(basis):
            return False
        if basis not in self._solid:
            status = os.fstat(self.bases[basis].fd)
            is_full = status.st_blocks * _BLOCK_BYTES >= status.st_size
            self._solid[basis] = is_full and self._new.entry.size >= BESIDE_BYTES
        return self._solid[basis]

    def _read(self, fd: int, offset: int, length: int) -> memoryview:
        if not self._buffer:
            size = min(self._new.entry.size, PIECE_BYTES)  # zeroing more would cost more
            self._buffer = read_buffer(size)
        return self._buffer[: os.preadv(fd, [self._buffer[:length]], offset)]

    def _blank(self, data: memoryview, offset: int) -> None:
        """Make zeros of what was a hole when this file was opened: it may be filled by now."""
        at, end = offset, offset + len(data)
        for start, stop in self._left(offset, end):
            data[at - offset : start - offset] = bytes(start - at)
            at = stop
        data[at - offset :] = bytes(end - at)

    def _left(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield where an earlier update has left bytes in a range: (start, end), ascending."""
        extents = self._new.extents
        for index in range(bisect_right(extents, offset, key=_end), len(extents)):
            start, stop = extents[index]
            if start >= end:
                return
            yield max(start, offset), min(stop, end)

    def _close(self, *, keep: bool) -> None:
        bases, self.bases = self.bases, ()
        self._hash.close()
        is_placed = self._new.fd < 0
        self._discard(self._new, keep)
        if is_placed and sum(basis.size for basis in bases) >= BESIDE_BYTES:
            # With its last descriptor the old file goes: 30 ms for 256 MiB, for nobody to wait.
            threading.Thread(target=_close_all, args=(bases,), name="filesync-close").start()
        else:
            _close_all(bases)


def _by_kernel(fd: int, start: int, to: int, length: int) -> tuple[int, int]:
    """Return how many bytes of a basis the kernel is to copy; if none, how many are to be read.

    Where both places are alike, from one border of blocks to another, so that they can be shared.
    """
    head = -to % _SHARED_BYTES
    if (start - to) % _SHARED_BYTES == 0 and head and head + _SHARED_BYTES <= length:
        return 0, head
    count = min(length, _KERNEL_BYTES)
    for at in range(0, count, _PROBE_EVERY):
        if os.pread(fd, len(_ZEROS), start + at) == _ZEROS:
            count = at
            break
    if count > _SHARED_BYTES:
        count -= (to + count) % _SHARED_BYTES
    return count, min(length, PIECE_BYTES)


def _close_all(files: Iterable[BasisFile]) -> None:
    for file in files:
        os.close(file.fd)


def _end(extent: tuple[int, int]) -> int:
    return extent[1]
