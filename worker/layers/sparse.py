"""Files with holes in a tar, as GNU's tar has written them in three ways, and Go's reads them.

Where the bytes of such a file are is said in its header and the blocks after it, in PAX records, or
in front of the bytes themselves. Whichever way, only what is no hole is in the tar.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from filesync.disk.handles import shown
from worker.layers.errors import BadLayer
from worker.layers.fields import digits, number
from worker.layers.member import BLOCK_BYTES, Member, Pieces
from worker.layers.source import Source

MAX_MAP_BYTES: Final = 1 << 20
"""Bound on what says where the bytes are."""
OLD_KIND: Final = b"S"

_PIECE_BYTES: Final = 1 << 20
_FIELD: Final = 12
_OLD_PIECES, _OLD_MORE, _OLD_SIZE = 386, 482, 483
_OLD_COUNT, _MORE_COUNT, _MORE_MORE = 4, 21, 504


def read_pieces(
    kind: bytes, block: bytes, pax: Mapping[bytes, bytes], source: Source
) -> tuple[int, int, Pieces] | None:
    """Return a file's size, the bytes of its map in front of it, and its pieces.

    None where it has no holes. ``source`` is after the header ``block``, and then after the map.

    Raises:
        BadLayer: the map makes no sense, or is of a version that nobody knows.
    """
    if kind == OLD_KIND:
        size = number(block[_OLD_SIZE : _OLD_SIZE + _FIELD])
        return size, 0, _checked(_old(block, source), size)
    version = pax.get(b"GNU.sparse.major", b"0"), pax.get(b"GNU.sparse.minor", b"0")
    size_text = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
    if size_text is None:
        if version != (b"0", b"0"):
            raise BadLayer("a sparse file without its size")
        return None
    size = digits(size_text)
    if version == (b"1", b"0"):
        before = source.position
        numbers = _in_front(source)
        return size, source.position - before, _checked(numbers, size)
    if version[0] != b"0":
        raise BadLayer(f"a sparse file of version {digits(version[0])}")
    text = pax.get(b"GNU.sparse.map", b"")
    return size, 0, _checked([digits(one) for one in text.split(b",")] if text else [], size)


def content_of(source: Source, member: Member) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file that is next in ``source``, its holes as zeros, by the MiB.

    Raises:
        BadLayer: the tar ends before, or the holes are over the source's limit.
    """
    if member.pieces is None:
        yield from _next(source, member, member.size, is_content=True)
        return
    source.count_holes(member.size - sum(size for _, size in member.pieces))
    at = 0
    for begin, size in (*member.pieces, (member.size, 0)):
        for zeros in range(at, begin, _PIECE_BYTES):
            yield bytes(min(_PIECE_BYTES, begin - zeros))
        yield from _next(source, member, size, is_content=False)
        at = begin + size


def cut_short(member: Member) -> BadLayer:
    """Return the error that says in which file a layer ends."""
    return BadLayer(f"a layer ends inside {shown(member.path)}")


def _next(
    source: Source, member: Member, size: int, *, is_content: bool
) -> Iterator[bytes | memoryview]:
    # What is not the whole of a file cannot be referred to: it is a literal in a skeleton.
    read = source.read_content if is_content else source.read
    while size:
        piece = read(min(size, _PIECE_BYTES))
        if not piece:
            raise cut_short(member)
        size -= len(piece)
        yield piece


def _checked(numbers: Sequence[int], size: int) -> Pieces:
    """Return pairs of where a piece stands and its size, one after the other in ``size`` bytes."""
    pieces = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for begin, length in pieces:
        if begin < end or length < 0 or begin + length > size:
            raise BadLayer("a sparse file whose pieces are not one after the other")
        end = begin + length
    if len(numbers) % 2:
        raise BadLayer("a sparse file with half a piece")
    return pieces


def _old(block: bytes, source: Source) -> list[int]:
    """Return the numbers in a header and in the blocks that continue it."""
    numbers = _old_numbers(block, _OLD_PIECES, _OLD_COUNT)
    is_more = block[_OLD_MORE]
    while is_more:
        if len(numbers) * _FIELD > MAX_MAP_BYTES:
            raise BadLayer("a sparse file of too many pieces")
        block = _read_block(source)
        numbers += _old_numbers(block, 0, _MORE_COUNT)
        is_more = block[_MORE_MORE]
    return numbers


def _old_numbers(block: bytes, at: int, count: int) -> list[int]:
    numbers: list[int] = []
    for begin in range(at, at + 2 * _FIELD * count, 2 * _FIELD):
        pair = block[begin : begin + _FIELD], block[begin + _FIELD : begin + 2 * _FIELD]
        if not any(pair[0]):
            break
        numbers += map(number, pair)
    return numbers


def _in_front(source: Source) -> list[int]:
    """Return the numbers in front of a file's bytes: how many pieces there are, then each."""
    text = bytearray()
    lines, wanted = 0, 1
    while lines < wanted:
        if len(text) > MAX_MAP_BYTES:
            raise BadLayer("a sparse file of too many pieces")
        block = _read_block(source)
        text += block
        lines += block.count(b"\n")
        if wanted == 1 and lines:
            wanted += 2 * digits(bytes(text.partition(b"\n")[0]))
    return [digits(bytes(line)) for line in text.split(b"\n", wanted)[1:wanted]]


def _read_block(source: Source) -> bytes:
    block = source.read(BLOCK_BYTES)
    if len(block) != BLOCK_BYTES:
        raise BadLayer("a layer ends inside a header")
    return block
