"""How fast, and how coded, bytes may go over the wire."""

from dataclasses import dataclass
from enum import StrEnum


class Compress(StrEnum):
    """Which frames are compressed."""

    AUTO = "auto"
    """What gets smaller, while that does not make the transfer slower."""
    NONE = "none"
    ZSTD = "zstd"
    """All that gets smaller."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What one side asks of a transfer; where both ask, the stricter holds.

    Attributes:
        compress: which frames are compressed.
        bytes_per_s: bound on what is sent a second; 0 for none.
    """

    compress: Compress = Compress.AUTO
    bytes_per_s: int = 0
