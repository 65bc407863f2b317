"""Patterns of rsync's rules: at what each looks, and what it matches, as rsync's exclude.c does.

``*`` and ``?`` do not match '/', ``**`` does. Most patterns that people write have no wildcard, or one
at their beginning: these need no regular expression, and so cost nothing for each name.
"""

import enum
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from filesync.errors import UsageError

MAX_WILDCARDS: Final = 64
WILD: Final = re.compile(rb"[*?\[]")
_STARS: Final = re.compile(rb"\*+")
_NAMED: Final = re.compile(rb"\[:([^]]*):\]")
_RANGE: Final = re.compile(rb"-(?!\])\\?(.)", re.DOTALL)
_CLASSES: Final = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb"\t ",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


class How(enum.Enum):
    """How what a pattern looks at is compared with its ``value``."""

    IS = enum.auto()
    """It is the same."""
    ENDS = enum.auto()
    """It ends with it."""
    MATCHES = enum.auto()
    """It matches it, a regular expression, from its beginning to its end."""


class Pattern(NamedTuple):
    """A pattern, understood.

    Attributes:
        by_name: it looks at the last part of a path, else at all of it, after a slash.
        how: how that is compared.
        value: with what. Of an expression the time is bounded by the text's length squared.
        needle: an expression for some bytes that are in all that it matches; b"" if there are none.
        only_directories: it matches nothing else.
        takes_inside: what it looks at of a directory has a slash after it.
    """

    by_name: bool
    how: How
    value: bytes
    needle: bytes = b""
    only_directories: bool = False
    takes_inside: bool = False


def understand(pattern: bytes) -> Pattern | None:
    """Return what ``pattern`` means; None if it matches nothing.

    Raises:
        UsageError: it is empty or has more wildcards than anybody needs.
    """
    if not pattern:
        raise UsageError("an empty pattern matches nothing; leave it out")
    only_directories = len(pattern) > 1 and pattern.endswith(b"/")
    if only_directories:
        pattern = pattern[:-1]
    found = _wild(pattern) if WILD.search(pattern) else _plain(pattern)
    return found and found._replace(
        only_directories=only_directories, takes_inside=pattern.endswith(b"***")
    )


def _plain(pattern: bytes) -> Pattern:
    """Understand a pattern without a wildcard, in which a backslash is a backslash."""
    if b"/" not in pattern:
        return Pattern(True, How.IS, pattern)
    if pattern.startswith(b"/"):
        return Pattern(False, How.IS, pattern)
    return Pattern(False, How.ENDS, b"/" + pattern)


def _wild(pattern: bytes) -> Pattern | None:
    is_anchored = pattern.startswith(b"/")
    body = pattern[1:] if is_anchored else pattern
    slashes = pattern.count(b"/")
    parts = _tokens(body)
    if parts is None:
        return None
    if len(WILD.findall(pattern)) > MAX_WILDCARDS:
        raise UsageError(f"a pattern has more than {MAX_WILDCARDS} wildcards")
    by_name = not slashes and b"**" not in pattern
    if by_name and parts[0] == _SOME and not WILD.search(body, 1) and b"\\" not in body:
        return Pattern(True, How.ENDS, body[1:])
    prefix = b"" if by_name else b"/"
    if b"**" in pattern:
        if pattern.startswith(b"**"):
            prefix = b""  # it may begin with the slash before the first name
        elif not is_anchored:
            prefix = b"/(?:.*?/)??"
    elif slashes and not is_anchored:
        if sum(token == b"/" for token in parts) != slashes:
            return None  # one stands in brackets, where nothing matches it
        prefix = b".*/"
    return Pattern(by_name, How.MATCHES, _expression(parts, prefix), _needle(parts))


_ANY: Final = b"**"
_SOME: Final = b"*"


def _expression(tokens: list[bytes], prefix: bytes) -> bytes:
    """Return a regular expression whose time is bounded by the text's length squared.

    All between two ``**`` is matched as early as it can be, and then for good (``(?>``): whatever
    follows ``**`` can only gain by that. The same holds for what is between two ``*``, as a
    ``*`` ends at the next slash wherever it began. So nothing is tried again and again, however
    the pattern was meant to hurt.
    """
    first, *middle = map(_block, _between(tokens, lambda token: token == _ANY))
    if not middle:
        return prefix + first
    last = middle.pop()
    begin = b"(?>" + prefix + first + b")"
    return begin + b"".join(b"(?>.*?" + block + b")" for block in middle) + b".*" + last


def _block(tokens: list[bytes]) -> bytes:
    first, *middle = map(b"".join, _between(tokens, lambda token: token == _SOME))
    if not middle:
        return first
    last = middle.pop()
    return first + b"".join(b"(?>[^/]*?" + run + b")" for run in middle) + b"[^/]*" + last


def _needle(tokens: list[bytes]) -> bytes:
    """Return the longest run of tokens that match one byte each, and only that."""
    runs = _between(tokens, lambda one: one in (_SOME, _ANY) or one.startswith((b"[", b"(")))
    longest = max(runs, key=len)
    return b"".join(longest)


def _between(tokens: list[bytes], is_border: Callable[[bytes], bool]) -> list[list[bytes]]:
    """Return the tokens before, between and after borders."""
    runs: list[list[bytes]] = [[]]
    for token in tokens:
        if is_border(token):
            runs.append([])
        else:
            runs[-1].append(token)
    return runs


def _tokens(pattern: bytes) -> list[bytes] | None:
    """Return regular expressions for one byte each, and ``*`` and ``**``; None if none matches."""
    tokens: list[bytes] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            run = _STARS.match(pattern, at)
            assert run is not None
            tokens.append(_SOME if len(run[0]) == 1 else _ANY)
            at = run.end()
            continue
        if char == b"?":
            tokens.append(b"[^/]")
        elif char == b"[":
            found = _class(pattern, at + 1)
            if found is None:
                return None
            token, at = found
            tokens.append(token)
            continue
        elif char == b"\\":
            at += 1
            if at == len(pattern):
                return None
            tokens.append(re.escape(pattern[at : at + 1]))
        else:
            tokens.append(re.escape(char))
        at += 1
    return tokens


def _class(pattern: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the expression for the brackets that open before ``at``, and where they end.

    They never match a slash. A ']' right after the opening is one of the characters.
    """
    is_negated = pattern[at : at + 1] in (b"!", b"^")
    at += is_negated
    allowed = previous = b""
    start = at
    while (char := pattern[at : at + 1]) and (char != b"]" or at == start):
        if named := _NAMED.match(pattern, at):
            if named[1] not in _CLASSES:
                return None
            allowed += _CLASSES[named[1]]
            previous = b""
            at = named.end()
        elif previous and (last := _RANGE.match(pattern, at)):
            if previous <= last[1]:
                allowed += _byte(previous) + b"-" + _byte(last[1])
            previous = b""
            at = last.end()
        else:
            at += char == b"\\"
            previous = pattern[at : at + 1]
            allowed += _byte(previous)
            at += 1
    if not char:
        return None
    if is_negated:
        return b"[^/" + allowed + b"]", at + 1
    return (b"(?!/)[" + allowed + b"]" if allowed else b"(?!)"), at + 1


def _byte(char: bytes) -> bytes:
    return b"\\x%02x" % ord(char) if char else b""
