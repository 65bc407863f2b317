"""Edits: what has become of a content, told at once by who remembers how it was.

A delta answers for the signatures of what the other side has. Whoever has noted the *marks* of a
content, a keyed hash of each of its pieces, knows what he has changed since without being told. He
can be wrong about what the other side has, so that what comes of an edit is proved by its digest,
and is fetched when the proof fails.

Marks are never sent: their key is the secret of who keeps them, so that nobody can make contents
whose pieces are taken for others.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from operator import lt
from typing import Annotated, Final, NamedTuple, Self, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from filesync.digest import Digest, WireDigest
from filesync.transfer.coding import delta
from filesync.transfer.wire import Buffer

MAX_BYTES: Final = 128 << 10
"""Of a content; what is larger is told by the recipe of its chunks."""
WHOLE_BYTES: Final = 16 << 10
"""Of a content that is told as it is: marking it would take longer than sending it."""
PIECE_BYTES: Final = delta.LONG_PIECE_BYTES
MAX_PLACES: Final = 32
"""In which a content is told to differ from one of its length."""
_BLOCK_BYTES: Final = 512
_DIFFERING: Final = re.compile(rb"[^\0]+(?:\0{1,8}[^\0]+)*")
"""Bytes that differ, and as few between them as take no more than another operation."""
_MAX_ENDS: Final = 4096
_KEY_BYTES: Final = 8
_PIECE_BYTES: Final = 4 + 8

T = TypeVar("T", bound=Hashable)
End = Annotated[int, msgspec.Meta(ge=0, le=MAX_BYTES)]


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """One content.

    Attributes:
        digest: BLAKE3 of it.
        size: its bytes.
        ends: where the pieces of the old content end that the delta refers to, ascending.
        delta: see ``delta``.
    """

    digest: WireDigest
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BYTES)]
    ends: Annotated[tuple[End, ...], msgspec.Meta(max_length=_MAX_ENDS)]
    delta: Annotated[bytes, msgspec.Meta(max_length=2 * MAX_BYTES)]


class Marks(NamedTuple):
    """By what the pieces of a content are known again.

    Attributes:
        key: of the marks.
        ends: where each piece ends, ascending.
        marks: XXH3-64 of each.
    """

    key: int
    ends: "array[int]"
    marks: "array[int]"

    def packed(self) -> bytes:
        """Return these as they are kept on this machine."""
        return self.key.to_bytes(_KEY_BYTES) + self.ends.tobytes() + self.marks.tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> Self | None:
        """Return what was ``packed``; None if ``data`` cannot be that."""
        count, rest = divmod(len(data) - _KEY_BYTES, _PIECE_BYTES)
        if rest:
            return None
        at = _KEY_BYTES + 4 * count
        ends, marks = array("I", data[_KEY_BYTES:at]), array("Q", data[at:])
        if max(ends, default=0) > MAX_BYTES or not all(map(lt, ends, ends[1:])):
            return None
        return cls(int.from_bytes(data[:_KEY_BYTES]), ends, marks)


def whole(digest: Digest, content: Buffer) -> Edit:
    """Return the edit that holds all of ``content``."""
    return Edit(digest, len(content), (), delta.pack([delta.Op(0, 0, memoryview(content))]))


def compare(digest: Digest, content: Buffer, old: Marks) -> tuple[Edit, Marks]:
    """Return the edit that makes ``content``, which is not empty, of what has the marks ``old``.

    And the marks of ``content`` itself.
    """
    new = mark(content, old.key)
    ends, ops = _renumbered(_ops(memoryview(content), new.ends, new.marks, old.marks), old.ends)
    return Edit(digest, len(content), ends, delta.pack(ops)), new


def between(digest: Digest, old: Sequence[bytes], new: Sequence[bytes]) -> Edit | None:
    """Return the edit that makes what the pieces ``new`` hold, some bytes, of what ``old`` hold.

    None if it takes more of them than an edit can name, or makes more bytes than one can.
    """
    content = b"".join(new)
    ops = _ops(memoryview(content), accumulate(map(len, new)), new, old)
    ends, ops = _renumbered(ops, list(accumulate(map(len, old))))
    if len(ends) > _MAX_ENDS or max((*ends, len(content))) > MAX_BYTES:
        return None
    return Edit(digest, len(content), ends, delta.pack(ops))


def in_place(digest: Digest, old: bytes, new: bytes) -> Edit | None:
    """Return the edit that makes ``new``, some bytes, of ``old``, of which it has the length.

    It tells the bytes that are others, in a sixth of the time that ``between`` takes. None where
    these are more than a quarter, for then they may have moved; where they are in more than
    ``MAX_PLACES``; or where all are more than an edit can make.
    """
    if len(new) > MAX_BYTES:
        return None
    places = list(islice(_differing(old, new), MAX_PLACES + 1))
    if len(places) > MAX_PLACES or 4 * sum(e - s for s, e in places) > len(new):
        return None
    view, at = memoryview(new), 0
    ends: list[int] = []
    ops: list[delta.Op] = []
    for start, end in places:
        copies = int(start > at)
        # Of the old pieces each one that is kept is followed by one that is not.
        ops.append(delta.Op(len(ends) if copies else 0, copies, view[start:end]))
        ends += (start, end) if copies else (end,)
        at = end
    if at < len(new):
        ops.append(delta.Op(len(ends), 1, view[:0]))
        ends.append(len(new))
    return Edit(digest, len(new), tuple(ends), delta.pack(ops))


def mark(content: Buffer, key: int) -> Marks:
    """Return the marks of ``content``."""
    ends, pieces = delta.pieces_of(content, PIECE_BYTES)
    marks = [xxh3_64_intdigest(piece, key) for piece in pieces]
    return Marks(key, array("I", ends), array("Q", marks))


def apply(edit: Edit, old: bytes) -> bytes:
    """Return what ``edit`` makes of ``old``; it is not proved yet.

    Raises:
        MalformedMessage: it makes another number of bytes, of which ``old`` may be the cause.
    """
    return delta.apply(edit.delta, delta.Pieces(old, list(edit.ends), b""), edit.size)


def _differing(old: bytes, new: bytes) -> Iterator[tuple[int, int]]:
    """Yield where runs of bytes begin and end that are others in ``new`` than in ``old``."""
    for at in range(0, len(new), _BLOCK_BYTES):
        before, after = old[at : at + _BLOCK_BYTES], new[at : at + _BLOCK_BYTES]
        if before != after:
            bits = int.from_bytes(before) ^ int.from_bytes(after)
            for run in _DIFFERING.finditer(bits.to_bytes(len(after))):
                yield at + run.start(), at + run.end()


def _ops(
    content: memoryview, ends: Iterable[int], new: Iterable[T], old: Sequence[T]
) -> list[delta.Op]:
    """Return what makes ``content`` of what was cut into ``old`` pieces.

    Args:
        content: the new bytes.
        ends: where each of its pieces ends.
        new: what each of these is known by.
        old: what each of the old ones is known by.
    """
    # Of equal pieces the first: they are put in from the end.
    numbers = dict(zip(reversed(old), reversed(range(len(old))), strict=True))
    return delta.ops_of(content, zip(ends, map(numbers.get, new), strict=True))


def _renumbered(
    ops: Sequence[delta.Op], old_ends: Sequence[int]
) -> tuple[tuple[int, ...], list[delta.Op]]:
    """Return as few pieces as the operations need, and these in the new numbers."""
    cuts = {0}
    ranges: list[tuple[int, int, memoryview]] = []
    for first, copies, literal in ops:
        start = old_ends[first - 1] if first else 0
        end = old_ends[first + copies - 1] if copies else start
        ranges.append((start, end, literal))
        if copies:
            cuts.update((start, end))
    ends = sorted(cuts)[1:]
    made: list[delta.Op] = []
    for start, end, literal in ranges:
        first = bisect_left(ends, start) + 1 if start else 0
        copies = bisect_left(ends, end) + 1 - first if end > start else 0
        made.append(delta.Op(first if copies else 0, copies, literal))
    return tuple(ends), made
