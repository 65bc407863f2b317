"""What a pull is made of: work for sessions to do, and effects for the disk to perform.

A session is handed a ``Unit`` to want or an ``Ask`` to put; an ``Effect`` says by which method of
``Fetch`` its outcome is told.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec

from filesync.disk.updating.update import WantedFile
from filesync.transfer.coding.delta import Pieces
from filesync.transfer.coding.matching import Copy, Index
from filesync.transfer.coding.recipe import MAX_RECIPE_BYTES, Part, Recipe
from filesync.transfer.coding.remains import Remains
from filesync.transfer.receive.gaps import Old
from filesync.transfer.wire import Buffer, Codec, Level


class Work:
    """A large file on its way.

    Attributes:
        guess: the directory that it is new in, if its old file is a mere guess.
        left: bytes that are not on disk yet.
        copied: bytes that were copied from old files.
        index: what its old files have; None while that is not known.
        pages: parts of its recipe that wait for the index.
        copies: what was found in old files, ascending.
        remains: what it was said to have of an old file; None where nobody has.
        givers: sessions that gave bytes of it.
        only: the one session that may give more of it; None for any.
        readers: effects under way that open it and read its old files beside all others.
        is_passed_over: nobody has its content any more. What is still under way of it counts for
            nothing, and nothing more is written.
    """

    __slots__ = (
        "_chunks",
        "_taken",
        "copied",
        "copies",
        "file",
        "givers",
        "guess",
        "index",
        "is_delta",
        "is_passed_over",
        "left",
        "only",
        "pages",
        "readers",
        "remains",
    )

    def __init__(
        self, file: WantedFile, *, is_delta: bool, remains: Remains | None = None
    ) -> None:
        self.file = file
        self.is_delta = is_delta
        self.guess = file.guess if remains is None else None
        self.left = file.size
        self.copied = 0
        self.index: Index | None = None
        self.pages: list[tuple[Stretch, Recipe]] = []
        self.copies: list[Copy] = []
        self.remains = remains
        self.givers = set[int]()
        self.only: int | None = None
        self.readers = 0
        self.is_passed_over = False
        self._chunks: list[Recipe] = []
        self._taken: list[Copy] = []

    def note_copies(self, copies: Sequence[Copy]) -> None:
        """Take note of neighbours that were found in old files; one at least."""
        at = bisect_left(self.copies, copies[0])
        self.copies[at:at] = copies

    def note(self, chunks: Recipe) -> None:
        """Take note of some of its chunks."""
        if self.file.size <= MAX_RECIPE_BYTES:
            self._chunks.append(chunks)

    def note_taken(self, copies: Iterable[Copy]) -> None:
        """Take note of what is taken from old files, whose chunks the index knows."""
        if self.file.size <= MAX_RECIPE_BYTES:
            self._taken += copies

    def recipe(self) -> Recipe | None:
        """Return the recipe of the whole content, if all its chunks were noted."""
        whole = Recipe(0)
        known: list[tuple[int, Recipe | None]] = [(one.start, one) for one in self._chunks]
        if self.index is not None:
            known += [(copy.offset, self.index.chunks(copy)) for copy in self._taken]
        for offset, chunks in sorted(known, key=itemgetter(0)):
            if chunks is None or offset != whole.end:
                return None
            whole.extend(chunks)
        return whole if whole.end == self.file.size else None


class Stretch(NamedTuple):
    """A stretch of a file of which the recipe is asked for."""

    work: Work
    offset: int
    end: int
    level: Level


class Based(NamedTuple):
    """What was found of the old files of ``work``.

    Attributes:
        has: what is in them; None when there are none after all.
        remaining: what is to be copied if what was said of them is so; else nothing, and the recipe
            is to be asked for.
    """

    work: Work
    has: Index | None
    remaining: Sequence[Copy] = ()


class Batch(msgspec.Struct, frozen=True):
    """Small files that are wanted whole, one after another."""

    files: tuple[WantedFile, ...]
    size: int


class Piece(NamedTuple):
    """A range of a large file."""

    work: Work
    offset: int
    size: int


Unit = Batch | Piece


class Gap(msgspec.Struct, eq=False):
    """A range that is asked for as a delta.

    Attributes:
        work: of a large file; None for a small one, of which the gap is all.
        chunks: what the range has to turn out to be; empty for a small file, and where nobody has
            said what.
        old: the old bytes that it is signed against.
        pieces: the old bytes, once they are signed.
    """

    file: WantedFile
    work: Work | None
    offset: int
    size: int
    chunks: Sequence[Part]
    old: tuple[Old, ...]
    pieces: Pieces | None = None

    @property
    def is_passed_over(self) -> bool:
        """The large file that it is a range of is passed over."""
        return self.work is not None and self.work.is_passed_over


class RecipeAsk(msgspec.Struct, frozen=True):
    """Ask for the recipes of ``stretches``; then call ``take_recipes``."""

    stretches: tuple[Stretch, ...]

    @property
    def size(self) -> int:
        """Bytes of content that the answer holds."""
        return 0


class DeltaAsk(msgspec.Struct, frozen=True):
    """Ask for ``gaps`` as deltas; then call ``take_deltas``."""

    key: int
    gaps: tuple[Gap, ...]

    @property
    def size(self) -> int:
        """Bytes of content that the answer holds at most."""
        return sum(gap.size for gap in self.gaps)


Ask = RecipeAsk | DeltaAsk


class Coded(NamedTuple):
    """A payload as it came: ``raw_bytes`` once it is decompressed."""

    codec: Codec
    payload: Buffer
    raw_bytes: int


class NeedFiles(msgspec.Struct, frozen=True):
    """Call ``add`` with more files."""


class StoreBatch(msgspec.Struct, frozen=True):
    """Write a batch, which ``parts`` hold one after another; then call ``stored``.

    If a file is not what it should be, ``session`` is to blame, and ``give_back`` the batch.
    """

    session: int
    batch: Batch
    parts: tuple[Coded, ...]


class StorePiece(msgspec.Struct, frozen=True):
    """Write ``data`` at ``piece.offset``; then call ``stored``."""

    session: int
    piece: Piece
    data: Coded


class CutBases(msgspec.Struct, frozen=True):
    """Open the large files, and cut the old files that they may share with; then call ``based``.

    An old file is not cut where ``Work.remains`` says what the new one has of it.
    """

    works: tuple[Work, ...]


class CopyRanges(msgspec.Struct, frozen=True):
    """Copy from old files; then call ``copied``."""

    work: Work
    copies: tuple[Copy, ...]

    @property
    def size(self) -> int:
        """Bytes that are copied."""
        return sum(copy.length for copy in self.copies)


class SignGaps(msgspec.Struct, frozen=True):
    """Read and sign what ``gaps`` replace; then call ``signed``."""

    gaps: tuple[Gap, ...]


class RebuildGaps(msgspec.Struct, frozen=True):
    """Apply deltas, prove and write what comes out; then call ``rebuilt``."""

    session: int
    gaps: tuple[Gap, ...]
    data: Coded


class PassOver(msgspec.Struct, frozen=True):
    """Leave files as they are, whose content is gone; then call ``passed_over``.

    Of a large one there may be effects left that were begun before: they write nothing of it.
    """

    files: tuple[WantedFile, ...]


class FinishFile(msgspec.Struct, frozen=True):
    """Verify a large file and put it in place; then call ``finished`` or ``corrupt``."""

    work: Work


Effect = (
    NeedFiles
    | StoreBatch
    | StorePiece
    | CutBases
    | CopyRanges
    | SignGaps
    | RebuildGaps
    | PassOver
    | FinishFile
)
