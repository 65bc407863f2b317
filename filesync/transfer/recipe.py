"""Recipes: a content as the ordered list of its content-defined chunks.

Both ends cut with FastCDC 2020 by the same parameters, so that bytes they share give chunks they
share wherever they stand. A cut depends only on what follows the cut before it; a recipe can
therefore be made page by page from any chunk's first byte, and neither end keeps a state for it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from pyfastcdc import FastCDC

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedMessage
from filesync.transfer.wire import Buffer

MIN_CHUNK_BYTES: Final = 4 << 10
AVG_CHUNK_BYTES: Final = 16 << 10
MAX_CHUNK_BYTES: Final = 64 << 10
# Part of the protocol: two ends that cut by other rules share no chunk. Level 2 is that of the
# remote execution API's test vectors; pyfastcdc's own default is another.
_NORMALIZATION: Final = 2

PAGE_CHUNKS: Final = 8192
"""Chunks in one ``Recipe`` at most: about 128 MiB of content, 288 kB of payload."""
_ITEM: Final = Struct(">I32s")
_READ_BYTES: Final = 4 << 20

Read = Callable[[int, int], bytes]
"""(offset, length) -> up to ``length`` bytes; fewer only at the end."""


class Chunk(NamedTuple):
    """A piece of a content."""

    length: int
    digest: Digest


def cut(read: Read, offset: int, end: int, *, limit: int = PAGE_CHUNKS) -> Iterator[Chunk]:
    """Yield up to ``limit`` chunks of the bytes from ``offset`` to ``end``.

    Memory is bounded, whatever the size. Stops early when ``read`` has no more.
    """
    cutter = FastCDC(
        AVG_CHUNK_BYTES,
        min_size=MIN_CHUNK_BYTES,
        max_size=MAX_CHUNK_BYTES,
        normalized_chunking=_NORMALIZATION,
    )
    while offset < end and limit > 0:
        block = memoryview(read(offset, min(_READ_BYTES, end - offset)))
        if not len(block):
            return
        is_last = offset + len(block) >= end
        done = 0
        for piece in cutter.cut_buf(block):
            # What follows a cut this near the block's end could move it: cut again from here.
            if not is_last and len(block) - done < MAX_CHUNK_BYTES and done:
                break
            yield Chunk(piece.length, digest_of(piece.data))
            done += piece.length
            limit -= 1
            if limit == 0:
                return
        offset += done


def pack(chunks: Iterable[Chunk]) -> bytes:
    """Return the payload of a ``Recipe``."""
    return b"".join(_ITEM.pack(length, digest) for length, digest in chunks)


def unpack(payload: Buffer, *, room: int) -> list[Chunk]:
    """Return the chunks in ``payload``, which must fit in ``room`` bytes of content.

    Raises:
        MalformedMessage: they do not, or a length is not one that the rules can give.
    """
    if len(payload) % _ITEM.size or not 1 <= len(payload) // _ITEM.size <= PAGE_CHUNKS:
        raise MalformedMessage(f"a recipe of {len(payload)} bytes")
    chunks = [Chunk(length, Digest(name)) for length, name in _ITEM.iter_unpack(payload)]
    for chunk in chunks:
        room -= chunk.length
        if chunk.length > MAX_CHUNK_BYTES or room < 0:
            raise MalformedMessage("a recipe's chunks are larger than they can be")
        # Only a content's last chunk may be short.
        if chunk.length < MIN_CHUNK_BYTES and (room or not chunk.length):
            raise MalformedMessage("a recipe's chunk is smaller than it can be")
    return chunks


class Basis:
    """The chunks of a file that is about to be replaced, by digest."""

    MAX_CHUNKS: Final = 1 << 20
    """About 16 GiB of content and 200 MB of memory; what lies beyond is not looked for."""

    def __init__(self, read: Read, size: int) -> None:
        self._places: dict[bytes, int] = {}
        offset = 0
        for length, digest in cut(read, 0, size, limit=self.MAX_CHUNKS):
            # Half a digest finds a chunk as well as a whole one; the content is verified anyway.
            self._places.setdefault(digest[:16], offset)
            offset += length

    def find(self, chunk: Chunk) -> int | None:
        """Return an offset at which the basis has ``chunk``."""
        return self._places.get(chunk.digest[:16])


class CopyRange(NamedTuple):
    """``length`` bytes at ``basis_offset`` of the basis belong at ``offset``."""

    offset: int
    basis_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one page of a recipe: ascending, neighbours joined.

    Attributes:
        copies: what the basis has.
        fetches: (offset, length) of what it has not.
        end: the offset after the page.
    """

    copies: list[CopyRange]
    fetches: list[tuple[int, int]]
    end: int


def plan(chunks: Iterable[Chunk], offset: int, find: Callable[[Chunk], int | None]) -> Plan:
    """Return how to come by ``chunks``, which begin at ``offset`` of the content."""
    copies: list[CopyRange] = []
    fetches: list[tuple[int, int]] = []
    for chunk in chunks:
        place = find(chunk)
        if place is None:
            if fetches and sum(fetches[-1]) == offset:
                fetches[-1] = (fetches[-1][0], fetches[-1][1] + chunk.length)
            else:
                fetches.append((offset, chunk.length))
        else:
            _add_copy(copies, CopyRange(offset, place, chunk.length))
        offset += chunk.length
    return Plan(copies, fetches, offset)


def _add_copy(copies: list[CopyRange], new: CopyRange) -> None:
    if copies:
        at, basis_at, length = copies[-1]
        if at + length == new.offset and basis_at + length == new.basis_offset:
            copies[-1] = CopyRange(at, basis_at, length + new.length)
            return
    copies.append(new)
