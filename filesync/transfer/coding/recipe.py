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
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import sub
from struct import Struct
from typing import Final, NamedTuple

import msgspec
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


class Cutter:
    """Cuts a content that comes block by block; its memory does not depend on its size.

    With the recipe of an ``old`` content it first tries whether what stood there next comes next
    here, too. A cut depends on nothing but the bytes from the cut before it, so an equal name
    shows the place of the cut, and FastCDC need not look for it: of a content that hardly changed
    that saves 75 ms of 170 for 256 MiB.
    """

    def __init__(self, old: "Recipe | None" = None) -> None:
        self._fast = FastCDC(
            AVG_CHUNK_BYTES,
            min_size=MIN_CHUNK_BYTES,
            max_size=MAX_CHUNK_BYTES,
            normalized_chunking=_NORMALIZATION,
        )
        self._tail = b""
        self._old = old
        self._next = 0  # of the old chunks, the one to try

    def cut(self, block: Buffer) -> list[Part]:
        """Return the chunks that are known now. Does not keep ``block``."""
        view = memoryview(block)
        found: list[Part] = []
        start = 0
        if self._tail:
            joined = memoryview(self._tail + view[:MAX_CHUNK_BYTES])
            done = self._cut(joined, len(self._tail), found)
            if done < len(self._tail):
                self._tail = bytes(joined[done:])
                return found
            start = done - len(self._tail)
        view = view[start:]
        self._tail = bytes(view[self._cut(view, len(view), found) :])
        return found

    def rest(self) -> list[Part]:
        """Return the last chunks: no more blocks come."""
        tail, self._tail = memoryview(self._tail), b""
        pieces = self._fast.cut_buf(tail) if tail else ()
        return [_part(tail[p.offset : p.offset + p.length]) for p in pieces]

    def _cut(self, view: memoryview, until: int, found: list[Part]) -> int:
        """Add the chunks that begin before ``until`` to ``found``; return where they end.

        What comes after ``view`` could move a cut this near its end.
        """
        done = 0
        while done < until and len(view) - done >= MAX_CHUNK_BYTES:
            if (part := self._followed(view[done : done + MAX_CHUNK_BYTES])) is not None:
                found.append(part)
                done += part.length
                continue
            for piece in self._fast.cut_buf(view[done:]):
                if done >= until or len(view) - done < MAX_CHUNK_BYTES:
                    return done
                part = _part(view[done : done + piece.length])
                found.append(part)
                done += part.length
                if self._finds(part):
                    break
        return done

    def _followed(self, view: memoryview) -> Part | None:
        """Return what begins ``view``, if it is the old chunk that is to be tried."""
        # Not the last of the old: its end was the content's, and no cut.
        if self._old is None or self._next >= len(self._old) - 1:
            return None
        expected = self._old[self._next]
        if name_of(view[: expected.length]) != expected.name:
            self._next = len(self._old)
            return None
        self._next += 1
        return expected

    def _finds(self, part: Part) -> bool:
        """Try what comes after ``part`` next, if it is an old chunk."""
        if self._old is None or (at := self._old.find(part.name)) is None:
            return False
        self._next = at + 1
        return True


def cut(read: Read, offset: int, end: int) -> Iterator[Part]:
    """Yield the chunks of the bytes from ``offset``, where a chunk begins, to ``end``.

    Stops early when ``read`` has no more.
    """
    cutter = Cutter()
    while offset < end:
        block = read(offset, min(READ_BYTES, end - offset))
        if not len(block):
            break
        offset += len(block)
        yield from cutter.cut(block)
    yield from cutter.rest()


def _part(piece: memoryview) -> Part:
    return Part(len(piece), name_of(piece))


def segments(chunks: Iterable[Part]) -> Iterator[Part]:
    """Yield the segments of ``chunks``, which begin where a segment does."""
    length = 0
    names: list[bytes] = []
    for chunk in chunks:
        length += chunk.length
        names.append(chunk.name)
        if not chunk.name[-1] & SEGMENT_MASK or len(names) == MAX_SEGMENT_CHUNKS:
            yield Part(length, name_of(b"".join(names)))
            length, names = 0, []
    if names:
        yield Part(length, name_of(b"".join(names)))


class Recipe:
    """The chunks of a stretch of content, in 24 bytes each.

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
        for part in parts:
            self.add(part)

    def __len__(self) -> int:
        """Return how many chunks there are."""
        return len(self.ends)

    @property
    def end(self) -> int:
        """Where the last chunk ends."""
        return self.ends[-1] if self.ends else self.start

    def __getitem__(self, number: int) -> Part:
        """Return a chunk; the first is 0."""
        before = self.ends[number - 1] if number else self.start
        name = self.names[number * NAME_BYTES : (number + 1) * NAME_BYTES]
        return Part(self.ends[number] - before, bytes(name))

    def find(self, name: bytes) -> int | None:
        """Return the number of a chunk of this name. Do not add any after it."""
        if self._numbers is None:
            names = _NAME.iter_unpack(self.names)
            self._numbers = {name: number for number, (name,) in enumerate(names)}
        return self._numbers.get(name)

    def add(self, part: Part) -> None:
        """Add the chunk that comes next."""
        self.ends.append(self.end + part.length)
        self.names += part.name

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
        lengths = map(sub, recipe.ends, [0, *recipe.ends])
        if not all(0 < length <= MAX_CHUNK_BYTES for length in lengths):
            return None
        return recipe

    def extend(self, following: "Recipe") -> None:
        """Add the chunks of the stretch that comes next."""
        self.ends += following.ends
        self.names += following.names

    def parts(self, offset: int, end: int) -> list[Part] | None:
        """Return the chunks from ``offset`` to ``end``; None if it has not just these."""
        first, last = self._border(offset), self._border(end)
        if first is None or last is None or first >= last:
            return None
        ends = [offset, *self.ends[first:last]]
        lengths = map(sub, ends[1:], ends)
        names = memoryview(self.names)[first * NAME_BYTES : last * NAME_BYTES]
        return [
            Part(length, name)
            for length, (name,) in zip(lengths, _NAME.iter_unpack(names), strict=True)
        ]

    def _border(self, offset: int) -> int | None:
        """Return how many chunks there are before ``offset``, if one ends there."""
        if offset == self.start:
            return 0
        at = bisect_left(self.ends, offset)
        return at + 1 if at < len(self.ends) and self.ends[at] == offset else None


# --- on the wire --------------------------------------------------------------------------------


def pack(parts: Sequence[Part]) -> bytes:
    """Return what a ``Recipes`` says of one item: a count, then 20 bytes a part."""
    return _COUNT.pack(len(parts)) + b"".join([_PART.pack(*part) for part in parts])


def unpack(payload: Buffer, rooms: Sequence[tuple[int, Level]]) -> list[list[Part]]:
    """Return the parts of each item in ``payload``.

    Args:
        payload: of a ``Recipes``.
        rooms: for each item that was asked for, the bytes from its offset to its content's end,
            and what was asked for. Items at the end may have come to nothing.

    Raises:
        MalformedMessage: the parts do not fit, or have lengths that the rules cannot give.
    """
    view = memoryview(payload)
    found: list[list[Part]] = []
    while len(view):
        if len(view) < _COUNT.size or len(found) == len(rooms):
            raise MalformedMessage("a recipe with something after its end")
        count = _COUNT.unpack_from(view)[0]
        size = count * _PART.size
        if not 1 <= count <= PAGE_PARTS or len(view) - _COUNT.size < size:
            raise MalformedMessage(f"a recipe of {count} parts in {len(view)} bytes")
        packed = view[_COUNT.size : _COUNT.size + size]
        parts = [Part(length, name) for length, name in _PART.iter_unpack(packed)]
        _check(parts, *rooms[len(found)])
        found.append(parts)
        view = view[_COUNT.size + size :]
    if not found:
        raise MalformedMessage("a recipe of nothing")
    return found


def _check(parts: Iterable[Part], room: int, level: Level) -> None:
    largest = MAX_CHUNK_BYTES if level is Level.CHUNKS else MAX_SEGMENT_BYTES
    for length, _ in parts:
        room -= length
        if length > largest or room < 0:
            raise MalformedMessage("a recipe's parts are larger than they can be")
        # Only a content's last chunk may be short.
        if length < MIN_CHUNK_BYTES and (room or not length):
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

    def __init__(self, bases: Sequence[tuple[Iterable[Part], int]]) -> None:
        """Note ``bases``, each given by its chunks and its size."""
        self.sizes = [size for _, size in bases]
        self._chunks: dict[bytes, tuple[int, int]] = {}
        self._segments: dict[bytes, tuple[int, int]] = {}
        self._recipes: list[Recipe] = []
        for number, (chunks, _) in enumerate(bases):
            self._recipes.append(Recipe(0))
            offset = 0
            for length, name in segments(self._note(number, chunks)):
                self._segments.setdefault(name, (number, offset))
                offset += length

    def _note(self, number: int, chunks: Iterable[Part]) -> Iterator[Part]:
        recipe = self._recipes[number]
        for chunk in chunks:
            if len(self._chunks) >= self.MAX_CHUNKS:
                return
            self._chunks.setdefault(chunk.name, (number, recipe.end))
            recipe.add(chunk)
            yield chunk

    def chunks(self, copy: "Copy") -> Sequence[Part]:
        """Return the chunks of what ``copy`` takes, if they are known."""
        return self._recipes[copy.basis].parts(copy.start, copy.start + copy.length) or ()

    def find(self, part: Part, level: Level) -> tuple[int, int] | None:
        """Return (number, offset) of a basis that has ``part``."""
        places = self._chunks if level is Level.CHUNKS else self._segments
        return places.get(part.name)


class Match(msgspec.Struct, frozen=True):
    """What of a stretch of content the bases have. Ascending, neighbours joined.

    Attributes:
        copies: what they have.
        misses: (offset, parts) of each run that they have not.
        end: the offset after the stretch.
    """

    copies: list[Copy]
    misses: list[tuple[int, list[Part]]]
    end: int


def match(parts: Iterable[Part], offset: int, level: Level, index: Index) -> Match:
    """Return what of ``parts``, which begin at ``offset`` of their content, is in ``index``."""
    copies: list[Copy] = []
    misses: list[tuple[int, list[Part]]] = []
    is_missing = False
    for part in parts:
        place = index.find(part, level)
        if place is not None:
            _add(copies, Copy(offset, *place, part.length))
            is_missing = False
        elif is_missing:
            misses[-1][1].append(part)
        else:
            misses.append((offset, [part]))
            is_missing = True
        offset += part.length
    return Match(copies, misses, offset)


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


def _add(copies: list[Copy], new: Copy) -> None:
    if copies:
        offset, basis, start, length = copies[-1]
        ends = (offset + length, basis, start + length)
        if ends == (new.offset, new.basis, new.start):
            copies[-1] = Copy(offset, basis, start, length + new.length)
            return
    copies.append(new)
