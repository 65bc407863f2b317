"""Recipes: a content as the ordered list of its content-defined chunks.

Both ends cut alike (``chunking``), so that bytes they share give chunks they share wherever they
stand.

So that a large content that hardly changed costs no long list, chunks are grouped: a *segment*
ends after a chunk whose name says so, one in 64, which is a boundary by content again. A segment
is named by the hash of its chunks' names. Whoever has the segment has all of its chunks.

Names are 16 bytes of BLAKE3: enough for nobody to make two contents of one name, and whatever is
put together by names is verified as a whole by its full digest.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from operator import sub
from struct import Struct
from typing import Final, NamedTuple

from blake3 import blake3

from filesync.errors import MalformedMessage
from filesync.transfer.wire import Buffer, Level

MIN_CHUNK_BYTES: Final = 4 << 10
AVG_CHUNK_BYTES: Final = 16 << 10
MAX_CHUNK_BYTES: Final = 64 << 10

NAME_BYTES: Final = 16
SEGMENT_MASK: Final = 0x3F
"""A chunk whose name's last byte has none of these bits ends a segment."""
MAX_SEGMENT_CHUNKS: Final = 256
MAX_SEGMENT_BYTES: Final = MAX_SEGMENT_CHUNKS * MAX_CHUNK_BYTES

MAX_RECIPE_BYTES: Final = 2 << 30
"""Of larger contents no recipe is kept: memory must not depend on their size."""
PAGE_PARTS: Final = 32_768
"""Chunks or segments in one ``Recipes`` at most: 640 kB of payload."""
PAGE_BYTES: Final = 256 << 20
"""Content that is read for one ``Recipes`` at most: a fifth of a second of work."""
_PART: Final = Struct(f">I{NAME_BYTES}s")
_NAME: Final = Struct(f"{NAME_BYTES}s")
_COUNT: Final = Struct(">I")


class Part(NamedTuple):
    """A chunk, or a segment: ``length`` bytes of content."""

    length: int
    name: bytes


def name_of(data: Buffer) -> bytes:
    """Return the name of a chunk."""
    return blake3(data).digest(NAME_BYTES)


class Recipe:
    """The chunks of a stretch of content, or its segments, in 24 bytes each.

    There are thousands: what can be done with all of them at once is, and a ``Part`` is made of
    one only where it is looked at.

    Attributes:
        start: where the stretch begins.
        ends: where each chunk ends.
        names: of all chunks, one after another.
    """

    def __init__(self, start: int, parts: Iterable[Part] = ()) -> None:
        self.start = start
        self.ends = array("Q")
        self.names = bytearray()
        self._numbers: dict[bytes, int] | None = None
        for length, name in parts:
            self.add(length, name)

    def __len__(self) -> int:
        """Return how many chunks there are."""
        return len(self.ends)

    def __iter__(self) -> Iterator[Part]:
        """Yield the chunks."""
        return map(Part, self.lengths(), self.each_name())

    @property
    def end(self) -> int:
        """Where the last chunk ends."""
        return self.ends[-1] if self.ends else self.start

    def lengths(self) -> Iterator[int]:
        """Yield the length of each chunk."""
        return map(sub, self.ends, chain((self.start,), self.ends))

    def each_name(self) -> Iterator[bytes]:
        """Yield the name of each chunk."""
        return chain.from_iterable(_NAME.iter_unpack(self.names))

    def is_at(self, offset: int, name: bytes) -> bool:
        """Say whether a chunk of this name begins at ``offset``."""
        number = self._border(offset)
        return number is not None and self.names.startswith(name, number * NAME_BYTES)

    def find(self, name: bytes, likely: int) -> int | None:
        """Return the number of a chunk of this name, of several of the one at ``likely``.

        Do not add any after it.
        """
        if self._numbers is None:
            # The first of several, as of a run of zeros: the others follow it.
            names = [*self.each_name()]
            self._numbers = dict(zip(reversed(names), reversed(range(len(self))), strict=True))
        number = self._numbers.get(name)
        return (
            number if number is None or not self.is_at(likely, name) else self._border(likely)
        )

    def add(self, length: int, name: bytes) -> None:
        """Add the chunk that comes next."""
        self.ends.append(self.end + length)
        self.names += name

    def extend(self, following: "Recipe") -> None:
        """Add the chunks of ``following``, which come next, wherever they were in it."""
        if moved := self.end - following.start:
            self.ends.extend([end + moved for end in following.ends])
        else:
            self.ends += following.ends
        self.names += following.names

    def sliced(self, first: int, last: int) -> "Recipe":
        """Return the chunks from the number ``first`` to before ``last``."""
        some = Recipe(self.ends[first - 1] if first else self.start)
        some.ends = self.ends[first:last]
        some.names = self.names[first * NAME_BYTES : last * NAME_BYTES]
        return some

    def between(self, offset: int, end: int) -> "Recipe | None":
        """Return the chunks from ``offset`` to ``end``; None if it has not just these."""
        first, last = self._border(offset), self._border(end)
        if first is None or last is None or first >= last:
            return None
        return self.sliced(first, last)

    def beginning(self, limit: int, size: int) -> "Recipe":
        """Return ``limit`` chunks at most, and none after those that have ``size`` bytes."""
        enough = bisect_left(self.ends, self.start + size) + 1
        return self.sliced(0, min(limit, enough))

    def segments(self) -> "Recipe":
        """Return the segments of the chunks, which begin where a segment does."""
        found = Recipe(self.start)
        names = memoryview(self.names)
        first = 0
        for number, last in enumerate(self.names[NAME_BYTES - 1 :: NAME_BYTES], 1):
            is_full = number - first == MAX_SEGMENT_CHUNKS or number == len(self)
            if is_full or not last & SEGMENT_MASK:
                found.ends.append(self.ends[number - 1])
                found.names += name_of(names[first * NAME_BYTES : number * NAME_BYTES])
                first = number
        return found

    def packed(self) -> bytes:
        """Return it as bytes, for this kind of machine alone."""
        return self.ends.tobytes() + self.names

    @classmethod
    def unpacked(cls, data: Buffer) -> "Recipe | None":
        """Return the whole recipe of which ``data`` is made; None if it can be none."""
        recipe = cls(0)
        count = len(data) // (recipe.ends.itemsize + NAME_BYTES)
        recipe.ends.frombytes(data[: count * recipe.ends.itemsize])
        recipe.names += data[count * recipe.ends.itemsize :]
        if not all(0 < length <= MAX_CHUNK_BYTES for length in recipe.lengths()):
            return None
        return recipe

    def _border(self, offset: int) -> int | None:
        """Return how many chunks there are before ``offset``, if one ends there."""
        if offset == self.start:
            return 0
        at = bisect_left(self.ends, offset)
        return at + 1 if at < len(self.ends) and self.ends[at] == offset else None


# --- on the wire --------------------------------------------------------------------------------


def pack(parts: Recipe) -> bytes:
    """Return what a ``Recipes`` says of one item: a count, then 20 bytes a part."""
    return _COUNT.pack(len(parts)) + b"".join(
        map(_PART.pack, parts.lengths(), parts.each_name())
    )


def unpack(payload: Buffer, asked: Sequence[tuple[int, int, Level]]) -> list[Recipe]:
    """Return the parts of each item in ``payload``.

    Args:
        payload: of a ``Recipes``.
        asked: for each item that was asked for, where it begins, where its content ends, and
            what was asked for. Items at the end may have come to nothing.

    Raises:
        MalformedMessage: the parts do not fit, or have lengths that the rules cannot give.
    """
    view = memoryview(payload)
    found: list[Recipe] = []
    while len(view):
        if len(view) < _COUNT.size or len(found) == len(asked):
            raise MalformedMessage("a recipe with something after its end")
        count = _COUNT.unpack_from(view)[0]
        size = count * _PART.size
        if not 1 <= count <= PAGE_PARTS or len(view) - _COUNT.size < size:
            raise MalformedMessage(f"a recipe of {count} parts in {len(view)} bytes")
        offset, end, level = asked[len(found)]
        lengths, names = zip(
            *_PART.iter_unpack(view[_COUNT.size : _COUNT.size + size]), strict=True
        )
        _check(lengths, end - offset, level)
        found.append(Recipe(offset))
        found[-1].ends.extend(list(accumulate(lengths, initial=offset))[1:])
        found[-1].names += b"".join(names)
        view = view[_COUNT.size + size :]
    if not found:
        raise MalformedMessage("a recipe of nothing")
    return found


def _check(lengths: Sequence[int], room: int, level: Level) -> None:
    largest = MAX_CHUNK_BYTES if level is Level.CHUNKS else MAX_SEGMENT_BYTES
    size = sum(lengths)
    if max(lengths) > largest or size > room:
        raise MalformedMessage("a recipe's parts are larger than they can be")
    # Only a content's last chunk may be short.
    *others, last = lengths
    smallest = 1 if size == room else MIN_CHUNK_BYTES
    if last < smallest or min(others, default=MIN_CHUNK_BYTES) < MIN_CHUNK_BYTES:
        raise MalformedMessage("a recipe's part is smaller than it can be")
