"""Deltas: a piece of content told by what it differs from bytes that the other side has.

The receiver cuts its old bytes into pieces of some hundred bytes, at boundaries by content, and
sends a short keyed hash of each: its *signatures*. The sender cuts the new bytes by the same
rule, and answers with references to pieces that the receiver has and with literal bytes for the
rest. A hash of 48 bits may be wrong once in a long while, so that what comes of a delta must be
proved by its digest, and be fetched as it is when the proof fails.

The key is picked at random for each request: nobody can make contents whose pieces are taken for
others, since he would have to know it before.

A delta is a list of operations, each a header of eight bytes and its literal: the first piece to
copy (16 bits), how many (16 bits), the length of the literal that follows them (32 bits).
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from struct import Struct
from typing import Final, NamedTuple

import msgspec
from pyfastcdc import FastCDC
from xxhash import xxh3_64_digest

from filesync.errors import MalformedMessage
from filesync.transfer.wire import MAX_SIGNATURES, SIGNATURE_BYTES, Buffer

CONTENT_PIECE_BYTES: Final = 512
LONG_BYTES: Final = 64 << 10
"""A chunk's bound. Of what is longer, short pieces' signatures are more bytes than an edit costs."""
LONG_PIECE_BYTES: Final = 1024
NODE_PIECE_BYTES: Final = 256
"""Directory nodes have small entries, of which few change."""
_NORMALIZATION: Final = 2
_MAX_COPIES: Final = MAX_SIGNATURES - 1
_OP: Final = Struct(">HHI")
_LENGTH: Final = Struct(">I")


class Pieces(msgspec.Struct, frozen=True):
    """Old bytes, and where they are cut.

    Attributes:
        data: the bytes.
        ends: where each piece ends, ascending.
        signatures: SIGNATURE_BYTES for each piece.
    """

    data: Buffer
    ends: list[int]
    signatures: bytes

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self.ends)


class Op(NamedTuple):
    """Copy ``copies`` pieces from number ``first`` on, and let the ``literal`` follow."""

    first: int
    copies: int
    literal: memoryview


def piece_bytes(size: int) -> int:
    """Return the average length of the pieces where ``size`` bytes are asked for as a delta."""
    return CONTENT_PIECE_BYTES if size <= LONG_BYTES else LONG_PIECE_BYTES


def cut(data: Buffer, key: int, *, average: int = CONTENT_PIECE_BYTES) -> Pieces:
    """Cut old bytes; those beyond 65,535 pieces are left out. Keeps ``data``."""
    ends, signatures = _signed(memoryview(data), key, average)
    return Pieces(data, ends[:_MAX_COPIES], b"".join(signatures[:_MAX_COPIES]))


def encode(
    data: Buffer, signatures: Buffer, key: int, *, average: int = CONTENT_PIECE_BYTES
) -> bytes:
    """Return the delta that makes ``data`` out of what has ``signatures``."""
    view = memoryview(data)
    ends, own = _signed(view, key, average)
    numbers = map(_numbers(signatures).get, own)
    return pack(ops_of(view, zip(ends, numbers, strict=True)))


def ops_of(view: memoryview, pieces: Iterable[tuple[int, int | None]]) -> list[Op]:
    """Return what makes the bytes of ``view`` out of pieces that the other side has.

    Args:
        view: the new bytes; the operations keep parts of it.
        pieces: what they were cut into: where each ends, and the number of the piece that it is.
    """
    ops: list[Op] = []
    first = copies = literal_at = literal_end = 0
    for end, number in pieces:
        if number is None:
            literal_end = end
        else:
            is_next = literal_at == literal_end and number == first + copies
            if not is_next or copies == _MAX_COPIES:
                if copies or literal_end > literal_at:
                    ops.append(Op(first, copies, view[literal_at:literal_end]))
                first, copies = number, 0
            copies += 1
            literal_at = literal_end = end
    ops.append(Op(first, copies, view[literal_at:literal_end]))
    return ops


def pack(ops: Iterable[Op]) -> bytes:
    """Return the delta that consists of ``ops``."""
    return b"".join(
        [
            part
            for first, copies, literal in ops
            for part in (_OP.pack(first, copies, len(literal)), literal)
        ]
    )


def apply(delta: Buffer, pieces: Pieces, size: int) -> bytes:
    """Return the ``size`` bytes that ``delta`` makes out of ``pieces``; they are not proved yet.

    Raises:
        MalformedMessage: it refers to what is not there, or makes another number of bytes.
    """
    view, old = memoryview(delta), memoryview(pieces.data)
    ends, at, made = pieces.ends, 0, 0
    parts: list[memoryview] = []
    while at < len(view):
        if len(view) - at < _OP.size:
            raise MalformedMessage("a delta ends within an operation")
        first, copies, length = _OP.unpack_from(view, at)
        at += _OP.size
        if first + copies > len(ends) or length > len(view) - at:
            raise MalformedMessage("a delta refers to what is not there")
        if copies:
            parts.append(old[ends[first - 1] if first else 0 : ends[first + copies - 1]])
            made += len(parts[-1])
        parts.append(view[at : at + length])
        at += length
        made += length
        # Before anything is put together: an operation of eight bytes can copy a lot.
        if made > size or not copies + length:
            raise MalformedMessage("a delta makes more than was asked for")
    if made != size:
        raise MalformedMessage(f"a delta makes {made} bytes instead of {size}")
    return b"".join(parts)


# --- several in one message -----------------------------------------------------------------


def join(deltas: Sequence[bytes]) -> bytes:
    """Return the payload that holds ``deltas``, each after its length."""
    return b"".join([part for delta in deltas for part in (_LENGTH.pack(len(delta)), delta)])


def split(payload: Buffer, count: int) -> list[memoryview]:
    """Return the ``count`` deltas in ``payload``.

    Raises:
        MalformedMessage: it holds more, or fewer.
    """
    view = memoryview(payload)
    found: list[memoryview] = []
    while len(view):
        if len(view) < _LENGTH.size or len(found) == count:
            raise MalformedMessage("deltas with something after their end")
        end = _LENGTH.size + _LENGTH.unpack_from(view)[0]
        if end > len(view):
            raise MalformedMessage("deltas end within one")
        found.append(view[_LENGTH.size : end])
        view = view[end:]
    if len(found) != count:
        raise MalformedMessage(f"{len(found)} deltas instead of {count}")
    return found


def _signed(view: memoryview, key: int, average: int) -> tuple[list[int], list[bytes]]:
    """Return where each piece ends, and the signature of each."""
    ends, pieces = pieces_of(view, average)
    return ends, [xxh3_64_digest(piece, key)[:SIGNATURE_BYTES] for piece in pieces]


def pieces_of(data: Buffer, average: int) -> tuple[list[int], list[memoryview]]:
    """Cut ``data`` into pieces of ``average`` length; return where each ends, and each."""
    if not len(data):
        return [], []
    cutter = FastCDC(
        average,
        min_size=average // 4,
        max_size=average * 4,
        normalized_chunking=_NORMALIZATION,
    )
    # All at once: a generator over them would take half as long as the cutting.
    found = list(cutter.cut_buf(data))
    return list(accumulate([one.length for one in found])), [one.data for one in found]


def _numbers(signatures: Buffer) -> dict[bytes, int]:
    """Return the first number of each signature."""
    packed = bytes(signatures)
    known: dict[bytes, int] = {}
    for at in range(0, len(packed), SIGNATURE_BYTES):
        known.setdefault(packed[at : at + SIGNATURE_BYTES], at // SIGNATURE_BYTES)
    return known
