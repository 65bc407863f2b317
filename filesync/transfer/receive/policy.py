"""When a delta is worth its trouble. Pure: told of bytes and times, asked for verdicts."""

from typing import Final

import msgspec

WIRE_S_PER_BYTE: Final = 8e-9
"""What a byte costs at least: others use the link as well, and few are faster than 1 Gbit/s."""
SIGNING_S_PER_BYTE: Final = 1.2e-9
"""Measured: cutting and hashing pieces of 512 bytes, on either side."""
ITEM_S: Final = 10e-6
KEPT: Final = 0.75
"""Of the bytes that are replaced, an edit leaves at least this share alone."""
SIGNATURES: Final = 6 / 512
"""Bytes of signatures for each old byte."""
SAMPLE_S: Final = 0.05
"""Messages come in bursts: a rate is taken over this long at least."""
_WEIGHT: Final = 0.25


class Link(msgspec.Struct):
    """What has been seen of the way to one peer: of its wire, or of the content that comes over it.

    Attributes:
        bytes_per_s: how fast bytes came while some were wanted; 0 while unknown.
    """

    bytes_per_s: float = 0.0
    _bytes: int = 0
    _seconds: float = 0.0

    def note(self, size: int, seconds: float) -> None:
        """Take note of what came in a time in which the peer always had something to send."""
        self._bytes += size
        self._seconds += seconds
        if self._seconds < SAMPLE_S:
            return
        rate = self._bytes / self._seconds
        self.bytes_per_s += (rate - self.bytes_per_s) * (_WEIGHT if self.bytes_per_s else 1.0)
        self._bytes, self._seconds = 0, 0.0


def delta_pays(new_bytes: int, old_bytes: int, bytes_per_s: float) -> bool:
    """Say whether ``new_bytes`` that replace ``old_bytes`` should be asked for as a delta.

    It pays when the bytes that an edit leaves alone cost more time on the wire than signing
    costs the two sides. Round trips are not counted: deltas are asked for ahead, many at once,
    while other bytes move.

    Args:
        new_bytes: bytes that would be fetched.
        old_bytes: bytes that they replace.
        bytes_per_s: the fastest link to any peer; 0 while unknown.
    """
    kept = KEPT * min(new_bytes, old_bytes) - SIGNATURES * old_bytes
    wire_s = max(1 / bytes_per_s if bytes_per_s else 0.0, WIRE_S_PER_BYTE)
    return kept * wire_s > ITEM_S + SIGNING_S_PER_BYTE * (new_bytes + old_bytes)
