"""How fast, and how coded, bytes go over the wire."""

from enum import StrEnum
from typing import Final

import msgspec

from filesync.transfer.connection.address import is_here

WINDOW_BYTES: Final = 32 << 20
"""Wanted and not yet written, all replicas of a pull together."""
ALL_WINDOWS_BYTES: Final = 128 << 20
LEAST_WINDOW_BYTES: Final = 4 << 20
"""All pulls of a process share the first; what comes is held, so that many at once take little more memory
than one. Each has the second at least."""


class Compress(StrEnum):
    """Which frames are compressed."""

    AUTO = "auto"
    """What gets smaller, where the link is slower than the compressing."""
    LITTLE = "little"
    """Deltas and the first frame, which are few bytes; what ``AUTO`` comes to on one machine."""
    NONE = "none"
    ZSTD = "zstd"
    """All that gets smaller."""


class Flow(msgspec.Struct, frozen=True):
    """What one side asks of a transfer; where both ask, the stricter holds.

    Attributes:
        compress: which frames are compressed.
        bytes_per_s: bound on what is sent a second; 0 for none.
    """

    compress: Compress = Compress.AUTO
    bytes_per_s: int = 0

    @property
    def is_free(self) -> bool:
        """Nothing is asked that a call cannot keep to, which is sent at once and as it is coded."""
        return not self.bytes_per_s and self.compress is not Compress.NONE

    def to(self, address: str | None) -> "Flow":
        """Return what is asked of the way to ``address``: nothing gets faster on one machine.

        There the sender waits for the disk of the receiver, which takes no less time for bytes
        that came compressed: of 40,000 small files it cost a tenth of the sender's time.
        """
        if self.compress is Compress.AUTO and address is not None and is_here(address):
            return Flow(Compress.LITTLE, self.bytes_per_s)
        return self

    def stricter(self, other: "Flow") -> "Flow":
        """Return what holds when the other side asks for ``other``."""
        rates = [rate for rate in (self.bytes_per_s, other.bytes_per_s) if rate]
        both = (self.compress, other.compress)
        asked = [one for one in both if one in (Compress.NONE, Compress.ZSTD)]
        least = Compress.LITTLE if Compress.LITTLE in both else Compress.AUTO
        return Flow(asked[0] if asked else least, min(rates, default=0))


class Pace:
    """Spreads bytes over time, so that no second has more than its share."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    def delay(self, wire_bytes: int, now_s: float) -> float:
        """Return the seconds to wait before ``wire_bytes`` may be sent; they count as sent."""
        if not self._bytes_per_s:
            return 0.0
        start_s = max(now_s, self._free_at_s)
        self._free_at_s = start_s + wire_bytes / self._bytes_per_s
        return start_s - now_s
