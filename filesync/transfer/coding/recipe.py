"""Recipes: a content as the ordered list of its content-defined chunks.

Both ends cut with FastCDC 2020 by the same parameters, so that bytes they share give chunks they
share wherever they stand. A cut depends only on what follows the cut before it; a recipe can
therefore be made from any chunk's first byte on, and neither end keeps a state for it.

So that a large content that hardly changed costs no long list, chunks are grouped: a *segment*
ends after a chunk whose name says so, one in 64, which is a boundary by content again. A segment
is named by the hash of its chunks' names. Whoever has the segment has all of its chunks.

Names are 16 bytes of BLAKE3: enough for nobody to make two contents of one name, and whatever is
put together by names is verified as a whole by its full digest.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain, count
from operator import sub
from struct import Struct
from typing import Final, NamedTuple

from blake3 import blake3
from pyfastcdc import FastCDC

from filesync.errors import MalformedMessage
from filesync.transfer.wire import Buffer, Level

MIN_CHUNK_BYTES: Final = 4 << 10
AVG_CHUNK_BYTES: Final = 16 << 10
MAX_CHUNK_BYTES: Final = 64 << 10
# Part of the protocol: two ends that cut by other rules share no chunk. Level 2 is that of the
# remote execution API's test vectors; pyfastcdc's own default is another.
_NORMALIZATION: Final = 2

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
READ_BYTES: Final = 4 << 20

Read = Callable[[int, int], Buffer]
"""(offset, length) -> up to ``length`` bytes; fewer only at the end. Good until the next call."""


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

    def find(self, name: bytes) -> int | None:
        """Return the number of a chunk of this name. Do not add any after it."""
        if self._numbers is None:
            self._numbers = dict(zip(self.each_name(), count()))
        return self._numbers.get(name)

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


# --- cutting ------------------------------------------------------------------------------------


class Cutter:
    """Cuts a content that comes block by block.

    With the recipe of an ``old`` content it first tries whether what stood there next comes next
    here, too. A cut depends on nothing but the bytes from the cut before it, so an equal name
    shows the place of the cut, and FastCDC need not look for it: of a content that hardly changed
    that saves 75 ms of 170 for 256 MiB.

    Attributes:
        recipe: of what was cut so far.
    """

    def __init__(self, start: int = 0, *, old: Recipe | None = None) -> None:
        """Begin at ``start``, where a chunk begins."""
        self.recipe = Recipe(start)
        self._fast = FastCDC(
            AVG_CHUNK_BYTES,
            min_size=MIN_CHUNK_BYTES,
            max_size=MAX_CHUNK_BYTES,
            normalized_chunking=_NORMALIZATION,
        )
        self._tail = b""
        self._old = Recipe(0) if old is None else old
        self._next = 0  # of the old chunks, the one to try

    def cut(self, block: Buffer) -> None:
        """Find the chunks that are known now. Does not keep ``block``."""
        view = memoryview(block)
        start = 0
        if self._tail:
            joined = memoryview(self._tail + view[:MAX_CHUNK_BYTES])
            done = self._cut(joined, len(self._tail))
            if done < len(self._tail):
                self._tail = bytes(joined[done:])
                return
            start = done - len(self._tail)
        view = view[start:]
        self._tail = bytes(view[self._cut(view, len(view)) :])

    def end(self) -> None:
        """Find the last chunks: no more blocks come."""
        tail, self._tail = memoryview(self._tail), b""
        for piece in self._fast.cut_buf(tail) if tail else ():
            name = name_of(tail[piece.offset : piece.offset + piece.length])
            self.recipe.add(piece.length, name)

    def _cut(self, view: memoryview, until: int) -> int:
        """Find the chunks that begin before ``until``; return where they end.

        What comes after ``view`` could move a cut this near its end.
        """
        until = min(until, len(view) - MAX_CHUNK_BYTES + 1)
        done = 0
        while done < until:
            done += self._follow(view[done:], until - done)
            for piece in self._fast.cut_buf(view[done:]) if done < until else ():
                if done >= until:
                    break
                name = name_of(view[done : done + piece.length])
                self.recipe.add(piece.length, name)
                done += piece.length
                if (at := self._old.find(name)) is not None:
                    self._next = at + 1
                    break
        return done

    def _follow(self, view: memoryview, until: int) -> int:
        """Find the chunks that are the old ones that are to be tried; return where they end."""
        old, first = self._old, self._next
        ends, names = old.ends, old.names
        begin = done = ends[first - 1] if first else old.start
        number = first
        # Not the last of the old: its end was the content's, and no cut.
        while number < len(ends) - 1 and done - begin < until:
            end = ends[number]
            expected = names[number * NAME_BYTES : (number + 1) * NAME_BYTES]
            if name_of(view[done - begin : end - begin]) != expected:
                self._next = len(ends)
                break
            done = end
            number += 1
        else:
            self._next = number
        if number > first:
            self.recipe.extend(old.sliced(first, number))
        return done - begin


def cut(read: Read, offset: int, end: int, *, enough: int | None = None) -> Recipe:
    """Return the chunks of the bytes from ``offset``, where a chunk begins, to ``end``.

    There are fewer where ``read`` has no more, or where those have ``enough`` bytes.
    """
    cutter = Cutter(offset)
    made = cutter.recipe
    while offset < end:
        if enough is not None and made.end - made.start >= enough:
            return made
        block = read(offset, min(READ_BYTES, end - offset))
        if not len(block):
            break
        offset += len(block)
        cutter.cut(block)
    cutter.end()
    return made


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


# --- matching -----------------------------------------------------------------------------------


class Copy(NamedTuple):
    """``length`` bytes of the basis number ``basis``, at ``start`` in it, belong at ``offset``."""

    offset: int
    basis: int
    start: int
    length: int


class Index:
    """Which chunks and segments some old files have, and where.

    Bounded: about 8 GiB of content and 80 MB of memory; what lies beyond is not looked for.
    """

    MAX_CHUNKS: Final = 1 << 19

    def __init__(self, bases: Sequence[tuple[Recipe, int]]) -> None:
        """Note ``bases``, each given by its chunks and its size."""
        self.sizes = [size for _, size in bases]
        self._recipes: list[Recipe] = []
        room = self.MAX_CHUNKS
        for chunks, _ in bases:
            self._recipes.append(chunks if len(chunks) <= room else chunks.sliced(0, room))
            room -= len(self._recipes[-1])
        self._segments = _places([chunks.segments() for chunks in self._recipes])

    @cached_property
    def _chunks(self) -> dict[bytes, tuple[int, int]]:
        # Of a content that is there in whole segments no chunk is ever looked for.
        return _places(self._recipes)

    def chunks(self, copy: "Copy") -> Recipe | None:
        """Return the chunks of what ``copy`` takes, if they are known."""
        return self._recipes[copy.basis].between(copy.start, copy.start + copy.length)

    def places(self, level: Level) -> Mapping[bytes, tuple[int, int]]:
        """Return, by the name of each chunk or segment, (number, offset) of a basis that has it."""
        return self._chunks if level is Level.CHUNKS else self._segments


def _places(recipes: Sequence[Recipe]) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for number, recipe in enumerate(recipes):
        starts = chain((recipe.start,), recipe.ends)
        for name, start in zip(recipe.each_name(), starts, strict=False):
            found.setdefault(name, (number, start))
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
    """Return what of ``parts`` is in ``index``."""
    found = Match([], [])
    missing = 0  # how many parts before this one are
    offset = parts.start
    places = map(index.places(level).get, parts.each_name())
    for number, (place, end) in enumerate(zip(places, parts.ends, strict=True)):
        if place is None:
            missing += 1
        else:
            if missing:
                found.misses.append(parts.sliced(number - missing, number))
                missing = 0
            _add(found.copies, offset, *place, end - offset)
        offset = end
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


def _add(copies: list[Copy], offset: int, basis: int, start: int, length: int) -> None:
    if copies:
        before = copies[-1]
        if (
            before.start + before.length == start
            and before.basis == basis
            and before.offset + before.length == offset
        ):
            copies[-1] = Copy(before.offset, basis, before.start, before.length + length)
            return
    copies.append(Copy(offset, basis, start, length))
