"""What comes over a remote shell's pipes: where ZeroMQ's messages begin and end."""

import random
from itertools import pairwise
from typing import Final

from filesync.errors import UnexpectedMessage
from filesync.transfer.connection.zmtp import Framing
from tests.fuzz.mutation import Mutate

LIMIT: Final = 5000
FRAME_COST: Final = 64
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG = 1, 2


def fuzz(data: bytes) -> None:
    """Take ``data`` in pieces, whose length its first byte says: it passes if it is right."""
    if not data:
        return
    step, stream = 16 * data[0] + 1, data[1:]
    cuts = [*range(0, len(stream), step), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(cuts)]
    assert _passes(pieces) == _is_right(stream)


def _passes(pieces: list[bytes]) -> bool:
    framing = Framing(LIMIT)
    try:
        for piece in pieces:
            framing.take(piece)
    except UnexpectedMessage:
        return False
    return True


def _is_right(stream: bytes) -> bool:
    """Say whether all is ZMTP 3 within the limit, as far as can be told from what is there."""
    if len(stream) < len(GREETING):
        return True
    if stream[0] != 0xFF or stream[9] != 0x7F or stream[10] < 3:
        return False
    at, message = len(GREETING), 0
    while at < len(stream):
        flags = stream[at]
        end = at + (9 if flags & LONG else 2)
        if end > len(stream):
            return True
        size = int.from_bytes(stream[at + 1 : end], "big")
        message += size + FRAME_COST
        if message > LIMIT:
            return False
        message = message if flags & MORE else 0
        at = end + size
    return True


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something changed, most often behind the greeting."""
    kept = len(GREETING) + 1 if rng.randrange(8) else 0
    return data[:kept] + mutate(data[kept:])


def seeds() -> list[bytes]:
    """Return streams of short and long frames, of several to a message, and of too many."""
    short = bytes([0, 3]) + b"abc"
    more = bytes([MORE, 200]) + bytes(200)
    long = bytes([LONG]) + (300).to_bytes(8, "big") + bytes(300)
    streams = [short * 5, more * 3 + long, more * 40, long * 40, bytes([LONG]) + b"\xff" * 8]
    return [bytes([step]) + GREETING + one for step in (0, 6, 255) for one in streams]
