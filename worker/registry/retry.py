"""When to ask a registry again. Pure."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Final

ATTEMPTS: Final = 6
CONNECT_ATTEMPTS: Final = 3
"""A host that was never reached is more often misspelt than restarting."""
FIRST_WAIT_S: Final = 0.25
MAX_WAIT_S: Final = 60.0
"""The longest wait that a registry may ask for; beyond it a person should know."""
_TRANSIENT: Final = frozenset({408, 425, 429})


class Failure(Enum):
    """How a request failed without an answer that settles it."""

    UNREACHED = auto()
    CUT = auto()
    STALLED = auto()
    ANSWERED = auto()


def is_transient(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _TRANSIENT or 500 <= status <= 599


def wait_before_retry(failure: Failure, *, failed: int, asked_s: float | None) -> float | None:
    """Return the seconds to wait after ``failed`` failures in a row, None to give up.

    ``asked_s`` is what the registry asked for with Retry-After.
    """
    attempts = CONNECT_ATTEMPTS if failure is Failure.UNREACHED else ATTEMPTS
    if failed >= attempts or (asked_s is not None and asked_s > MAX_WAIT_S):
        return None
    backoff_s: float = FIRST_WAIT_S * 2.0 ** (failed - 1)
    return max(backoff_s, asked_s or 0.0)


def retry_after_s(header: str, *, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for; None where it says nothing."""
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
