r"""Go's ``path.Match`` for one name: '*', '?', '[a-z]', '[^a-z]' and the escape '\'.

A pattern becomes a regular expression in which each stretch after a '*' is tried at its first
place only (an atomic group), as Go does. So no pattern, however hostile, takes more than
(pattern × name) steps.
"""

import re
from collections.abc import Callable

from filesync.errors import UsageError

DEEP = "**"
"""Any number of names, for who gives it that meaning; of one name it matches all, as '*' does."""

_STAR = None


def is_pattern(name: str) -> bool:
    """Say whether ``name`` has a wildcard that is not escaped."""
    return re.search(r"[*?\[]", re.sub(r"(?s)\\.", "", name)) is not None


def unescape(name: str) -> str:
    """Return the one name that a pattern without wildcards matches."""
    return re.sub(r"(?s)\\(.)", r"\1", name)


def compile_name(pattern: str) -> Callable[[str], object]:
    r"""Return what is true of each name that ``pattern`` matches whole.

    Raises:
        UsageError: the pattern is malformed (an open '[', a '\' at its end).
    """
    stretches: list[str] = [""]
    for token in _tokens(pattern):
        if token is _STAR:
            stretches.append("")
        else:
            stretches[-1] += token
    first, *later = stretches
    if not later:
        return re.compile(first, re.DOTALL).fullmatch
    middle = "".join(f"(?>.*?{stretch})" for stretch in later[:-1] if stretch)
    return re.compile(f"{first}{middle}.*{later[-1]}", re.DOTALL).fullmatch


def _tokens(pattern: str) -> list[str | None]:
    tokens: list[str | None] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            tokens.append(_STAR)
            at += 1
        elif char == "?":
            tokens.append(".")
            at += 1
        elif char == "[":
            token, at = _class(pattern, at + 1)
            tokens.append(token)
        else:
            char, at = _char(pattern, at)
            tokens.append(re.escape(char))
    return tokens


def _class(pattern: str, at: int) -> tuple[str, int]:
    """Read a class from behind its '['; return its expression and where it ends."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    count = 0
    while count == 0 or not pattern.startswith("]", at):
        low, at = _class_char(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_char(pattern, at + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        count += 1
    if not ranges:
        return ("." if negated else "(?!)"), at + 1
    return f"[{'^' if negated else ''}{''.join(ranges)}]", at + 1


def _class_char(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        raise UsageError(f"{pattern!r} is not a pattern: a '[' is not closed or out of order")
    return _char(pattern, at)


def _char(pattern: str, at: int) -> tuple[str, int]:
    """Read one character, escaped or not; return it and where the next one starts."""
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            raise UsageError(f"{pattern!r} is not a pattern: it ends in a '\\'")
    return pattern[at], at + 1
