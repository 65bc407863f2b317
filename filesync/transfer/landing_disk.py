"""Where a session's bytes come down: frames cut into files, files written to the disk."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from filesync.disk.update import BasisFile, WantedFile
from filesync.transfer.receiver import Find, Piece, is_whole
from filesync.transfer.recipe import Basis, Chunk, CopyRange
from filesync.transfer.wire import Buffer


class LargeFile(Protocol):
    """One file whose content arrives in pieces (``filesync.disk.update.LargeFile``)."""

    @property
    def bases(self) -> Sequence[BasisFile]:
        """What it may be copied from, the likeliest first."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write ``data`` at ``offset``."""

    def copy(self, offset: int, *, basis: int, basis_offset: int, length: int) -> None:
        """Copy ``length`` bytes of ``bases[basis]``."""

    def finish(self) -> None:
        """Verify the whole content, then put it in place."""

    def abort(self) -> None:
        """Let go of it; what has been written may stay for the next update."""


class Update(Protocol):
    """What a pull writes to (``filesync.disk.update.TreeUpdate``)."""

    def prepare(self) -> object:
        """Do all that needs no content from elsewhere."""

    def wanted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched, each content once."""

    def write_small(self, batch: Sequence[tuple[WantedFile, Buffer]]) -> None:
        """Verify and write whole files."""

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return a file to be written in pieces."""

    def finish(self) -> object:
        """Put links, copies and directories' metadata in place."""

    def abort(self) -> None:
        """Remove temporary files."""


class Landing:
    """Writes one session's frames.

    All methods block. ``cut_bases`` may run beside the others, which take turns.

    The bases of a file have one space of offsets, in which ``CopyRange`` names them: one after
    another, a byte that is nobody's behind each, so that no range reaches from one into the next.
    """

    def __init__(self, update: Update) -> None:
        self._update = update
        self._large: dict[int, LargeFile] = {}
        self._partial: dict[int, bytearray] = {}

    def store(self, pieces: Sequence[Piece], data: Buffer) -> list[int]:
        """Write a frame's pieces, which ``data`` holds one after another.

        Returns the tickets of the files that are in place now.

        Raises:
            ContentCorrupt: a whole file does not have its digest.
            StoreError: this disk.
        """
        view = memoryview(data)
        batch: list[tuple[WantedFile, Buffer]] = []
        for file, offset, length in pieces:
            part, view = view[:length], view[length:]
            if not is_whole(file):
                self._opened(file).write(offset, part)
            elif length == file.size:
                batch.append((file, part))
            elif (joined := self._join(file, offset, part)) is not None:
                batch.append((file, memoryview(joined)))
        if batch:
            self._update.write_small(batch)
        return [file.ticket for file, _ in batch]

    def open_bases(self, file: WantedFile) -> Sequence[BasisFile]:
        """Open ``file``; return what it may be copied from, which stays its own."""
        return self._opened(file).bases

    @staticmethod
    def cut_bases(bases: Sequence[BasisFile]) -> Find:
        """Return what finds chunks in ``bases``, in the first that has one."""
        cuts = [(start, _cut(one)) for start, one in zip(_starts(bases), bases, strict=True)]

        def find(chunk: Chunk) -> int | None:
            for start, basis in cuts:
                if (place := basis.find(chunk)) is not None:
                    return start + place
            return None

        return find

    def copy(self, file: WantedFile, copies: Sequence[CopyRange]) -> None:
        """Copy from the bases."""
        large = self._opened(file)
        starts = _starts(large.bases)
        for offset, place, length in copies:
            basis = bisect_right(starts, place) - 1
            at = place - starts[basis]
            large.copy(offset, basis=basis, basis_offset=at, length=length)

    def finish(self, file: WantedFile) -> None:
        """Verify a large file and put it in place.

        Raises:
            ContentCorrupt: it is not what was wanted, and is removed.
        """
        self._large.pop(file.ticket).finish()

    def abort(self) -> None:
        """Let go of what is half written."""
        for large in self._large.values():
            large.abort()
        self._large.clear()
        self._partial.clear()

    def _opened(self, file: WantedFile) -> LargeFile:
        large = self._large.get(file.ticket)
        if large is None:
            large = self._large[file.ticket] = self._update.open_large(file)
        return large

    def _join(self, file: WantedFile, offset: int, part: memoryview) -> bytearray | None:
        partial = self._partial.setdefault(file.ticket, bytearray())
        partial += part
        if len(partial) < file.size:
            return None
        return self._partial.pop(file.ticket)


def _starts(bases: Sequence[BasisFile]) -> list[int]:
    """Return where each of a file's bases begins in their space of offsets."""
    return list(accumulate((size + 1 for _, size in bases[:-1]), initial=0))[: len(bases)]


def _cut(basis: BasisFile) -> Basis:
    fd, size = basis
    return Basis(lambda at, length: os.pread(fd, length, at), size)
