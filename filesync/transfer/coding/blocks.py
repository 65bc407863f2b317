"""Blocks: what a large content still has of an older one in its order, known to who has read both.

Chunks are known again wherever they have come to stand, for which both ends cut what they have: of
256 MiB that takes each of them 0.2 s. Disk images, databases and logs are written to in place or
appended to, and texts have lines inserted or removed: most of their blocks of one size follow each
other as they did. A block is known again by its mark, a keyed hash, where it should be, and is
looked for by how it begins where it is not. That takes 0.04 s, while the content is hashed.

Marks are never sent: their key is the secret of who keeps them, so that nobody can make contents
whose blocks are taken for others. What is made of them is proved as a whole all the same.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, count, pairwise
from operator import ne
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest as _mark

from filesync.transfer.coding.remains import MAX_RUNS, Run, joined
from filesync.transfer.wire import Buffer

LEAST_BLOCK_BYTES: Final = 8 << 10
MOST_BLOCKS: Final = 1 << 18
"""Of one content: 6 MB are kept of it."""
NEEDLE_BYTES: Final = 16
"""Of the beginning of each block: no other place in 64 KiB of random bytes begins like it."""
WINDOW_BLOCKS: Final = 8
"""In which blocks are looked for at once; what is inserted or removed may be longer."""
_AHEAD: Final = (0, *sorted({round(1.5**power) for power in range(21)}))
"""How many blocks further on those are that are looked for: the ones before may have been removed."""
_TRIES: Final = 50_000
"""Of places where something begins as a block does, for one content: each takes 1 us."""
_TRIES_AT_ONCE: Final = 200
_TRIED_BYTES: Final = 8 << 10
"""Of a window that are gone through for such places in the time of a try."""
_PROBES: Final = 4
"""Of the last blocks, one of which should be found."""
_LEAST_AT_ONCE: Final = 2
_MOST_AT_ONCE: Final = 512
"""Blocks that are compared at once: fewer after a place at which what follows had to be looked for."""
_MOVED_PART: Final = 16
"""Where more than a sixteenth of a content may be in another order, it pays to cut all of it."""
_DISPLACED_PART: Final = 128
"""As where more may have been taken out of one place and put in at another: what is written to in
place is most often new, and that is most often not."""


def block_bytes_of(size: int) -> int:
    """Return how long the blocks of a content of ``size`` bytes are: of a larger one, longer."""
    block = LEAST_BLOCK_BYTES
    while size > MOST_BLOCKS * block:
        block *= 2
    return block


class Blocks(NamedTuple):
    """A content by its blocks.

    Attributes:
        key: of the marks.
        size: of the content, in bytes.
        marks: XXH3-64 of each block; the last may be shorter.
        needles: how each of them begins, padded with zeros.
    """

    key: int
    size: int
    marks: "array[int]"
    needles: bytes

    @property
    def block_bytes(self) -> int:
        """How long each block is."""
        return block_bytes_of(self.size)

    @property
    def window_bytes(self) -> int:
        """In how much blocks are looked for at once."""
        return WINDOW_BLOCKS * self.block_bytes

    def is_block(self, number: int, data: Buffer) -> bool:
        """Say whether ``data`` is what a block was."""
        return _mark(data, self.key) == self.marks[number]

    def needle(self, number: int) -> bytes:
        """Return how a block begins."""
        return self.needles[number * NEEDLE_BYTES : (number + 1) * NEEDLE_BYTES]


def seems_in_order(old: Blocks, size: int, read: Callable[[int, int], Buffer]) -> bool:
    """Say whether a content of ``size`` bytes seems to have what ``old`` has in its order.

    Then the last blocks are where they were, or at the end. ``read(offset, length)`` returns what
    the content has there.
    """
    block = old.block_bytes
    whole = old.size // block
    last = range(max(whole - _PROBES, 0), whole)
    if any(old.is_block(number, read(number * block, block)) for number in last):
        return True
    start = max(size - old.window_bytes, 0)
    window = bytes(read(start, old.window_bytes))
    moved = size - old.size - start
    return any(
        old.is_block(number, window[place : place + block])
        for number in last
        for place in _places(old.needle(number), window, number * block + moved)
    )


class Blocking:
    """Marks the blocks of a content of ``size`` bytes that comes piece by piece, with a ``key``."""

    def __init__(self, key: int, size: int) -> None:
        self._key = key
        self._block = block_bytes_of(size)
        self._size = 0
        self._marks = array("Q")
        self._needles = bytearray()
        self._tail = b""

    def add(self, piece: memoryview) -> None:
        """Mark what comes next. Does not keep ``piece``."""
        if self._tail:
            piece = memoryview(self._tail + piece)
        whole = len(piece) - len(piece) % self._block
        self._take(piece[:whole])
        self._tail = bytes(piece[whole:])

    def end(self) -> Blocks:
        """Return the blocks of all that has come."""
        self._take(memoryview(self._tail))
        return Blocks(self._key, self._size, self._marks, bytes(self._needles))

    def _take(self, data: memoryview) -> None:
        self._size += len(data)
        self._marks.extend(_marks(data, self._key, self._block))
        starts = range(0, len(data), self._block)
        self._needles += b"".join([data[at : at + NEEDLE_BYTES] for at in starts])
        self._needles += bytes(-len(self._needles) % NEEDLE_BYTES)


class Follower:
    """Finds in a content that comes piece by piece what an ``old`` one has, in its order.

    A block that is not the old one was changed, if the next one is. If that is not either, some old
    ones that come soon after it are looked for, and where one is found the others should follow.
    """

    def __init__(self, old: Blocks) -> None:
        self._old = old
        self._block = old.block_bytes
        self._next = 0  # old block
        self._at = 0  # where that should be in the content
        self._at_once = _MOST_AT_ONCE
        self._lost: int | None = None  # the first old block that was not found
        self._tries = _TRIES
        self._tail = b""
        self._runs: list[Run] = []
        self._zeros = _mark(bytes(self._block), old.key)

    def add(self, piece: memoryview) -> None:
        """Follow what comes next. Does not keep ``piece``."""
        if self._tail:
            missing = self._block - len(self._tail)
            self._tail += piece[:missing]
            if len(self._tail) < self._block:
                return
            self._follow(memoryview(self._tail))
            piece = piece[missing:]
        self._tail = bytes(self._follow(piece))

    def end(self) -> list[Run]:
        """Return what was found, ascending.

        Nothing where much may be in another order, and where there are more than MAX_RUNS.
        """
        old, tail = self._old, self._tail
        is_last = self._next * self._block + len(tail) == old.size
        if tail and is_last and old.is_block(self._next, tail):
            self._note(0, len(tail))
        size = self._at + len(tail)
        moved, displaced = _moved(self._runs, old.size, size, least=old.window_bytes)
        most = max(moved * _MOVED_PART, displaced * _DISPLACED_PART)
        is_little = most <= min(old.size, size)
        return self._runs if is_little and len(self._runs) <= MAX_RUNS else []

    def _follow(self, data: memoryview) -> memoryview:
        """Follow ``data``; return what is left of it, which is less than a block."""
        while len(data) >= self._block:
            done = self._compare(data)
            if not done:
                done = self._search(data)
            self._at += done
            data = data[done:]
        return data

    def _compare(self, data: memoryview) -> int:
        """Go on with the blocks that should be next, but for those of which two differ in a row.

        Return how many bytes they are.
        """
        first, block = self._next, self._block
        number = min(len(data) // block, len(self._old.marks) - first, self._at_once)
        if number <= 0:
            return 0
        marks = _marks(data[: number * block], self._old.key, block)
        differ = compress(count(), map(ne, marks, self._old.marks[first : first + number]))
        begin = 0
        for differs, after in pairwise((*differ, number + 1)):
            if begin < differs:
                self._note(begin * block, (differs - begin) * block)
            begin = differs + 1
            if after == begin:
                number = differs
                break
        if begin < number:
            self._note(begin * block, (number - begin) * block)
        self._next += number
        self._at_once = min(2 * self._at_once, _MOST_AT_ONCE)
        return number * block

    def _search(self, data: memoryview) -> int:
        """Look for old blocks in what comes next; return how many bytes are before one.

        Where none is found, that is what was looked at, as if it stood for as much.
        """
        self._at_once = _LEAST_AT_ONCE
        if self._lost is None:
            self._lost = self._next
        window = bytes(data[: self._old.window_bytes + self._block])
        for number in (self._lost + ahead for ahead in _AHEAD):
            if number >= len(self._old.marks) or self._tries <= 0:
                break
            if (place := self._find(number, window)) is not None:
                self._next = number
                return place
        passed = min(len(window) // self._block, WINDOW_BLOCKS)
        self._next += passed
        return passed * self._block

    def _find(self, number: int, window: bytes) -> int | None:
        """Return where an old block is in ``window``; first, places near to where it should be."""
        self._tries -= len(window) // _TRIED_BYTES
        start = (number - self._next) * self._block
        places: Iterable[int] = _places(self._old.needle(number), window, start)
        if self._old.marks[number] == self._zeros:
            # They are all over a window: elsewhere than they should be they say nothing of the rest.
            places = (start,) if start >= 0 else ()
        for place in places:
            self._tries -= 1
            if self._old.is_block(number, window[place : place + self._block]):
                return place
        return None

    def _note(self, begin: int, length: int) -> None:
        """Note a run, which begins so far after where the next block should be."""
        self._lost = None
        run = Run(self._at + begin, self._next * self._block + begin, length)
        if len(self._runs) <= MAX_RUNS:
            joined(self._runs, run)


def _moved(runs: Sequence[Run], old_size: int, size: int, *, least: int) -> tuple[int, int]:
    """Return how much may have moved: it is missing in one place, and new in another.

    And how much of that has made one place shorter, and another longer. Pieces of up to ``least`` bytes
    do not count.
    """
    whole = (Run(0, 0, 0), *runs, Run(size, old_size, 0))
    gaps = [
        (run.start - before.start - before.length, run.offset - before.offset - before.length)
        for before, run in pairwise(whole)
    ]
    missing = sum(old for old, _ in gaps if old > least)
    new = sum(new for _, new in gaps if new > least)
    removed = sum(old - new for old, new in gaps if old - new > least)
    inserted = sum(new - old for old, new in gaps if new - old > least)
    return min(missing, new), min(removed, inserted)


def _places(needle: bytes, window: bytes, start: int) -> Iterator[int]:
    """Yield where ``needle`` is, from ``start`` on in both directions by turns; not all if it is often."""
    start = max(start, 0)
    forth = window.find(needle, start)
    back = window.rfind(needle, 0, start + len(needle) - 1)
    for _ in range(_TRIES_AT_ONCE // 2):
        if forth < 0 and back < 0:
            break
        if forth >= 0:
            yield forth
            forth = window.find(needle, forth + 1)
        if back >= 0:
            yield back
            back = window.rfind(needle, 0, back + len(needle) - 1)


def _marks(data: memoryview, key: int, block: int) -> list[int]:
    return [_mark(data[at : at + block], key) for at in range(0, len(data), block)]
