"""Matching: which of a content's chunks and segments some old files have, and where."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Final, NamedTuple

from filesync.transfer.coding.recipe import Recipe
from filesync.transfer.wire import Level


class Copy(NamedTuple):
    """``length`` bytes of the basis number ``basis``, at ``start`` in it, belong at ``offset``."""

    offset: int
    basis: int
    start: int
    length: int


class Index:
    """Which chunks and segments some old files have, and where.

    Bounded: about 8 GiB of content and 80 MB of memory; what lies beyond is not looked for.

    Attributes:
        sizes: of the files.
        repeated: the names of those that were found more than once.
    """

    MAX_CHUNKS: Final = 1 << 19

    def __init__(self, bases: Sequence[tuple[Recipe, int]]) -> None:
        """Note ``bases``, each given by its chunks and its size."""
        self.sizes = [size for _, size in bases]
        self._recipes: list[Recipe] = []
        self.repeated: set[bytes] = set()
        room = self.MAX_CHUNKS
        for chunks, _ in bases:
            self._recipes.append(chunks if len(chunks) <= room else chunks.sliced(0, room))
            room -= len(self._recipes[-1])
        self._segmented = [chunks.segments() for chunks in self._recipes]
        self._segments = _places(self._segmented, self.repeated)

    @cached_property
    def _chunks(self) -> dict[bytes, tuple[int, int]]:
        # Of a content that is there in whole segments no chunk is ever looked for.
        return _places(self._recipes, self.repeated)

    def chunks(self, copy: Copy) -> Recipe | None:
        """Return the chunks of what ``copy`` takes, if they are known."""
        return self._recipes[copy.basis].between(copy.start, copy.start + copy.length)

    def places(self, level: Level) -> Mapping[bytes, tuple[int, int]]:
        """Return, by the name of each chunk or segment, (number, offset) of a basis that has it."""
        return self._chunks if level is Level.CHUNKS else self._segments

    def has(self, level: Level, name: bytes, basis: int, offset: int) -> bool:
        """Say whether the basis has a chunk or segment of this name at ``offset``."""
        recipes = self._recipes if level is Level.CHUNKS else self._segmented
        return recipes[basis].is_at(offset, name)


def _places(recipes: Sequence[Recipe], repeated: set[bytes]) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for number, recipe in enumerate(recipes):
        starts = chain((recipe.start,), recipe.ends)
        for name, start in zip(recipe.each_name(), starts, strict=False):
            place = number, start
            if found.setdefault(name, place) is not place:
                repeated.add(name)
    return found


class Match(NamedTuple):
    """What of a stretch of content the bases have. Ascending, neighbours joined.

    Attributes:
        copies: what they have.
        misses: each run of parts that they have not.
    """

    copies: list[Copy]
    misses: list[Recipe]


def match(parts: Recipe, level: Level, index: Index) -> Match:
    """Return what of ``parts`` is in ``index``.

    What the bases have more than once, as zeros, is taken from as far behind the last copy as it
    is here, if it is there: so a run of it is one copy, and a gap replaces what is beside it.
    """
    found = Match([], [])
    missing = 0  # how many parts before this one are
    offset = parts.start
    # What is being copied: where it belongs, and where in which basis it begins and ends so far.
    to = basis = start = 0
    stop = -1  # nothing yet
    places = index.places(level)
    for number, (name, end) in enumerate(zip(parts.each_name(), parts.ends, strict=True)):
        place = places.get(name)
        if place is not None and place[0] == basis and name in index.repeated:
            likely = start + offset - to
            place = (basis, likely) if index.has(level, name, basis, likely) else place
        if place is None:
            missing += 1
        elif not missing and place[1] == stop and place[0] == basis:
            stop += end - offset
        else:
            if stop > start:
                found.copies.append(Copy(to, basis, start, stop - start))
            if missing:
                found.misses.append(parts.sliced(number - missing, number))
                missing = 0
            to, (basis, start) = offset, place
            stop = start + end - offset
        offset = end
    if stop > start:
        found.copies.append(Copy(to, basis, start, stop - start))
    if missing:
        found.misses.append(parts.sliced(len(parts) - missing, len(parts)))
    return found


def sliced(copies: Iterable[Copy], limit: int) -> Iterator[list[Copy]]:
    """Yield ``copies`` again, cut where need be into lists of at most ``limit`` bytes each."""
    some: list[Copy] = []
    room = limit
    for offset, basis, start, length in copies:
        done = 0
        while done < length:
            part = min(room, length - done)
            some.append(Copy(offset + done, basis, start + done, part))
            done += part
            room -= part
            if not room:
                yield some
                some, room = [], limit
    if some:
        yield some
