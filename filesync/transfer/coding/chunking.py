"""Chunking: a content cut where its bytes say so, with FastCDC 2020.

Both ends cut by the same parameters. A cut depends only on what follows the cut before it; a
recipe can therefore be made from any chunk's first byte on, and neither end keeps a state for it.
"""

from collections.abc import Callable
from typing import Final

from pyfastcdc import FastCDC

from filesync.transfer.coding.recipe import (
    AVG_CHUNK_BYTES,
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    NAME_BYTES,
    Recipe,
    name_of,
)
from filesync.transfer.wire import Buffer

# Part of the protocol: two ends that cut by other rules share no chunk. Level 2 is that of the
# remote execution API's test vectors; pyfastcdc's own default is another.
_NORMALIZATION: Final = 2
READ_BYTES: Final = 4 << 20

Read = Callable[[int, int], Buffer]
"""(offset, length) -> up to ``length`` bytes; fewer only at the end. Good until the next call."""


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
            if followed := self._follow(view[done:], until - done):
                done += followed
                continue
            for piece in self._fast.cut_buf(view[done:]):
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
