"""Where a pull's bytes come down: units cut into files, files written to the disk."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from blake3 import blake3

from filesync.digest import Digest
from filesync.disk.content import reading
from filesync.disk.updating.update import BasisFile, WantedFile
from filesync.errors import ContentCorrupt, MalformedMessage
from filesync.process.entropy import random_bits
from filesync.process.wanted import check_wanted
from filesync.transfer.coding import delta, edit
from filesync.transfer.coding.chunking import Read, cut
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.matching import Copy, Index
from filesync.transfer.coding.recipe import AVG_CHUNK_BYTES, Recipe, name_of
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.coding.remains import Remains, copies_of
from filesync.transfer.receive.units import Based, Batch, CopyRanges, Gap, Piece, Work
from filesync.transfer.threads import CUTTING
from filesync.transfer.wire import Buffer

EDITED_AT_ONCE: Final = 16
"""Files that are held in memory, of at most 128 KiB each, and their old contents."""


class LargeFile(Protocol):
    """One file whose content arrives in pieces (``filesync.disk.updating.large.LargeFile``)."""

    @property
    def bases(self) -> Sequence[BasisFile]:
        """Old files that may share something with it."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write ``data`` at ``offset``."""

    def copy(self, offset: int, *, basis: int, basis_offset: int, length: int) -> None:
        """Copy ``length`` bytes of an old file."""

    def finish(self) -> None:
        """Verify the whole content, then put it in place."""

    def abort(self) -> None:
        """End without putting it in place."""


class Update(Protocol):
    """What a pull writes to (``filesync.disk.updating.update.TreeUpdate``)."""

    def prepare(self) -> object:
        """Do all that needs no content from elsewhere."""

    def wanted(self) -> Iterator[WantedFile]:
        """Yield what must be fetched, each content once."""

    def read_basis(self, wanted: WantedFile, limit: int) -> bytes | None:
        """Return old content that may share something with it."""

    def write_small(self, batch: Sequence[tuple[WantedFile, Buffer]]) -> None:
        """Verify and write whole files."""

    def open_large(self, wanted: WantedFile) -> LargeFile:
        """Return a file to be written in pieces."""

    def content_at(self, path: bytes) -> Digest | None:
        """Return what a file is to hold that may be passed over."""

    def pass_over(self, wanted: WantedFile) -> None:
        """Leave a file as it is."""

    def finish(self) -> object:
        """Put links, copies and directories' metadata in place."""

    def abort(self) -> None:
        """Remove temporary files."""


class Landing:
    """Writes what the sessions of one pull bring.

    All methods block. ``find_in_bases`` and ``sign`` may run beside the others, which take turns.
    """

    def __init__(self, update: Update, recipes: RecipeCache) -> None:
        """Write to ``update``. ``recipes`` are of what was put together here, or is now."""
        self._update = update
        self._recipes = recipes
        self._large: dict[int, LargeFile] = {}

    def store_batch(self, batch: Batch, parts: Sequence[Buffer]) -> None:
        """Write a batch's files, which ``parts`` hold one after another.

        Raises:
            ContentCorrupt: one does not have its digest; nothing was written then.
            StoreError: this disk.
        """
        view = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        files: list[tuple[WantedFile, Buffer]] = []
        at = 0
        for file in batch.files:
            files.append((file, view[at : at + file.size]))
            at += file.size
        self._update.write_small(files)

    def store_pieces(self, pieces: Sequence[tuple[Piece, Buffer]]) -> None:
        """Write pieces of large files."""
        for piece, data in pieces:
            self._opened(piece.work).write(piece.offset, data)

    def find_in_bases(self, work: Work) -> Based:
        """Open a large file, and return what its old files have.

        An old file is not read if it was put together here lately, or if it was said what remains of it.

        Raises:
            StoreError: this disk.
        """
        bases = self._opened(work).bases
        if not bases:
            return Based(work, None)
        if work.remains is not None and (copies := _remaining(work.remains, work, bases)):
            return Based(work, Index([(Recipe(0), bases[0].size)]), copies)
        return Based(work, self._cut_bases(bases))

    def _cut_bases(self, bases: Sequence[BasisFile]) -> Index:
        found: list[tuple[Recipe, int]] = []
        room = Index.MAX_CHUNKS
        for basis in bases:
            found.append((self._chunks_of(basis, room), basis.size))
            room = max(room - len(found[-1][0]), 0)
        return Index(found)

    def _chunks_of(self, basis: BasisFile, room: int) -> Recipe:
        """Return the chunks of an old file; no more are read than ``room`` takes on average."""
        make = partial(_cut, reading(basis.fd), basis.size, room)
        if basis.digest is None:
            return make()
        return self._recipes.made(basis.digest, basis.size, make)

    def copy(self, effects: Sequence[CopyRanges]) -> None:
        """Copy from the old files. One that became shorter leaves zeros, which will show."""
        for effect in effects:
            large = self._opened(effect.work)
            for offset, basis, start, length in effect.copies:
                with suppress(ContentCorrupt):  # the whole file is verified at its end
                    large.copy(offset, basis=basis, basis_offset=start, length=length)

    def sign(self, gaps: Sequence[Gap]) -> tuple[int, list[delta.Pieces | None]]:
        """Return a fresh key, and for each gap the old bytes signed with it, if there are any."""
        key = random_bits(63)
        signed: list[delta.Pieces | None] = []
        for gap in gaps:
            data: bytes | None
            if gap.work is None:
                data = self._update.read_basis(gap.file, gap.old[0].end)
            else:
                bases = self._opened(gap.work).bases
                data = b"".join(
                    [os.pread(bases[n].fd, end - start, start) for n, start, end in gap.old]
                )
            with CUTTING:
                average = delta.piece_bytes(gap.size)
                signed.append(delta.cut(data, key, average=average) if data else None)
        return key, signed

    def rebuild(self, gaps: Sequence[Gap], data: Buffer) -> list[Gap]:
        """Apply deltas and write what is right; return the gaps that are not.

        Raises:
            MalformedMessage: what came are no deltas for these gaps. Nothing was written then.
            StoreError: this disk.
        """
        wrong: list[Gap] = []
        small: list[tuple[WantedFile, Buffer]] = []
        # All of them are fetched again if one is malformed, and each byte is written once.
        large: list[tuple[Work, int, bytes]] = []
        for gap, one in zip(gaps, delta.split(data, len(gaps)), strict=True):
            assert gap.pieces is not None
            made = delta.apply(one, gap.pieces, gap.size)
            if gap.work is None:
                small.append((gap.file, made))
            elif gap.is_passed_over:
                continue
            elif _is_right(gap, made):
                large.append((gap.work, gap.offset, made))
            else:
                wrong.append(gap)
        for work, offset, made in large:
            self._opened(work).write(offset, made)
        right = self._write_right(small)
        return wrong + [gap for gap in gaps if gap.work is None and gap.file not in right]

    def edit(
        self, files: Sequence[WantedFile], edits: Mapping[Digest, Edit]
    ) -> set[WantedFile]:
        """Write what ``edits`` make of the old contents of ``files``; return those that are right.

        Raises:
            StoreError: this disk.
        """
        done: set[WantedFile] = set()
        for at in range(0, len(files), EDITED_AT_ONCE):
            made: list[tuple[WantedFile, Buffer]] = []
            for file in files[at : at + EDITED_AT_ONCE]:
                old = self._update.read_basis(file, edit.MAX_BYTES) or b""
                with suppress(MalformedMessage):  # of another old content it makes nonsense
                    made.append((file, edit.apply(edits[file.digest], old)))
            done |= self._write_right(made)
        return done

    def pass_over(self, files: Sequence[WantedFile]) -> None:
        """Leave files as they are. What has come of one stays for whoever wants the same content."""
        for file in files:
            if large := self._large.pop(file.ticket, None):
                large.abort()
            self._update.pass_over(file)

    def finish(self, work: Work) -> None:
        """Verify a large file and put it in place.

        Raises:
            ContentCorrupt: it is not what was wanted, and is removed.
        """
        large = self._large.pop(work.file.ticket)
        digests = [basis.digest for basis in large.bases if basis.digest is not None]
        made = work.recipe()  # while a thread hashes what was written last
        try:
            large.finish()
        except ContentCorrupt:
            for digest in digests:
                self._recipes.forget(digest)
            raise
        if made is not None:
            self._recipes.note(work.file.digest, made)

    def abort(self) -> None:
        """End what is half written."""
        for large in self._large.values():
            large.abort()
        self._large.clear()

    def _write_right(self, files: Sequence[tuple[WantedFile, Buffer]]) -> set[WantedFile]:
        """Write those that hold what they should, and return them."""
        try:
            self._update.write_small(files)
        except ContentCorrupt:  # nothing was written
            files = [one for one in files if _is_content(*one)]
            self._update.write_small(files)
        return {file for file, _ in files}

    def _opened(self, work: Work) -> LargeFile:
        large = self._large.get(work.file.ticket)
        if large is None:
            large = self._large[work.file.ticket] = self._update.open_large(work.file)
        return large


def _remaining(remains: Remains, work: Work, bases: Sequence[BasisFile]) -> list[Copy]:
    """Return what is to be copied of the one old file; nothing if it is not the one that was told of.

    Nor if an update that was interrupted has left some of the new file, which is a basis, too.
    """
    old, *others = bases
    if others or old.digest != remains.old:
        return []
    return copies_of(remains.runs, work.file.size, old.size)


def _is_content(file: WantedFile, data: Buffer) -> bool:
    return len(data) == file.size and blake3(data).digest() == file.digest


def cut_ahead(recipes: RecipeCache, digest: Digest, opening: Callable[[], int]) -> None:
    """Put the recipe of what ``opening`` opens, which should hold ``digest``, into ``recipes``.

    Blocks, as long as anybody wants it.
    """
    fd = opening()
    read = reading(fd)

    def read_wanted(offset: int, length: int) -> memoryview:
        check_wanted()
        return read(offset, length)

    try:
        size = os.fstat(fd).st_size
        recipes.made(digest, size, lambda: _cut(read_wanted, size, Index.MAX_CHUNKS))
    finally:
        os.close(fd)


def _cut(read: Read, size: int, room: int) -> Recipe:
    return cut(read, 0, size, enough=room * AVG_CHUNK_BYTES)


def _is_right(gap: Gap, made: bytes) -> bool:
    view, at = memoryview(made), 0
    for length, name in gap.chunks:
        if name_of(view[at : at + length]) != name:
            return False
        at += length
    return True
