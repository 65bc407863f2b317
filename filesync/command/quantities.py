"""Sizes and durations as docker's users write them."""

import re
from typing import Final

from filesync.errors import UsageError

_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_MAX_INT64: Final = 2**63 - 1

_PART: Final = re.compile(r"([0-9]{0,18})(?:\.([0-9]{0,18}))?(ns|us|µs|μs|ms|s|m|h)")
_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


class BadQuantity(UsageError):
    """A text that is no size, or no duration."""

    code = "bad-quantity"


def parse_size(text: str) -> int:
    """Return bytes for ``64m``, ``1.5GiB``, ``4096``; units are powers of 1024.

    Raises:
        BadQuantity: no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadQuantity(f"{text[:80]!r} is not a size, such as 64m or 1g")
    size = int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])
    if size > _MAX_INT64:
        raise BadQuantity(f"{text!r} is too large")
    return size


def parse_duration(text: str) -> int:
    """Return nanoseconds for ``1m30s``, ``500ms``, ``1.5h``, ``0``.

    Raises:
        BadQuantity: no duration.
    """
    if text == "0":
        return 0
    total, position = 0, 0
    while match := _PART.match(text, position):
        whole, fraction, unit = match[1], match[2] or "", match[3]
        if not whole and not fraction:
            break
        digits = int((whole + fraction) or "0")
        total += digits * _NS[unit] // 10 ** len(fraction)
        position = match.end()
    if not text or position != len(text) or total > _MAX_INT64:
        raise BadQuantity(f"{text[:80]!r} is not a duration, such as 30s or 1m30s")
    return total


def format_duration(duration_ns: int) -> str:
    """Return the duration as Go prints it: ``1m30s``, ``1.5s``, ``0s``."""
    if duration_ns == 0:
        return "0s"
    for unit in ("ns", "µs", "ms"):
        if duration_ns < 1000 * _NS[unit]:
            return _decimal(duration_ns, _NS[unit]) + unit
    minutes, rest_ns = divmod(duration_ns, _NS["m"])
    seconds = _decimal(rest_ns, _NS["s"]) + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
