"""What a registry says that it wants to see: the header ``WWW-Authenticate``. Pure."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

MAX_CHARS: Final = 16 << 10

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART: Final = re.compile(
    rf'\s*(?:,\s*)*(?P<name>{_TOKEN})(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_TOKEN})))?'
)


class Challenge(msgspec.Struct, frozen=True):
    """One way to say who asks.

    Attributes:
        scheme: in small letters, ``bearer`` or ``basic``.
        parameters: by name in small letters.
    """

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges in a header, in order; what comes after a fault is left out."""
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = 0
    header = header[:MAX_CHARS]
    while match := _PART.match(header, at):
        at = match.end()
        value = match["plain"]
        if match["quoted"] is not None:
            value = re.sub(r"\\(.)", r"\1", match["quoted"])
        if value is None:
            parameters = {}
            found.append(Challenge(match["name"].lower(), parameters))
        elif found:
            parameters.setdefault(match["name"].lower(), value)
    return found


def pick_challenge(header: str) -> Challenge | None:
    """Return the first challenge that can be met; a bearer token before a password."""
    known = {one.scheme: one for one in reversed(parse_challenges(header))}
    bearer = known.get("bearer")
    if bearer is not None and bearer.parameters.get("realm"):
        return bearer
    return known.get("basic")
