"""Rates as rsync's ``--bwlimit`` writes them."""

import re
from typing import Final

from filesync.errors import UsageError

_RATE: Final = re.compile(
    r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<unit>[KMGTP]?)(?P<base>B|IB|)", re.I
)
_MAX_BYTES_PER_S: Final = 1 << 62
_POWER: Final = {"": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def parse_rate(text: str) -> int:
    """Return bytes a second; 0 for no limit.

    A bare number counts KiB. ``K M G T P`` (and ``KiB`` …) are powers of 1024, ``KB MB GB``
    … of 1000; ``B`` alone is a byte. What comes out is whole KiB, at least one.

    Raises:
        UsageError: it is no rate.
    """
    match = _RATE.fullmatch(text)
    if match is None or (not match["unit"] and match["base"].upper() == "IB"):
        raise UsageError(f"{text!r} is no rate; write it like 500 (KiB/s), 1.5m or 20M")
    unit, base = match["unit"].upper(), match["base"].upper()
    if not unit and base == "B":
        rate = float(match["number"])
    else:
        rate = float(match["number"]) * (1000 if base == "B" else 1024) ** _POWER[unit]
    if not rate:
        return 0
    if rate > _MAX_BYTES_PER_S:
        raise UsageError(f"{text!r} is more than any link has; 0 is no limit")
    if rate < 512:
        raise UsageError(
            f"{text!r} is too slow; the least is 512 bytes a second, 0 is no limit"
        )
    return max(round(rate / 1024), 1) * 1024
