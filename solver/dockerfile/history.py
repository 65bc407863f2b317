"""Values in an image's history as Go prints them, so that histories compare equal."""

import sys
from collections.abc import Iterable
from typing import Final

from filesync.command.quantities import format_duration

_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_QUOTES: Final = {"'": "\\'", '"': '"'}
"""How a quote is written among single ones."""


def quoted_list(items: Iterable[str]) -> str:
    """Return Go's ``%q`` of strings: ``["a" "b"]``."""
    return f"[{' '.join(_quoted(item) for item in items)}]"


def plain_list(items: Iterable[str]) -> str:
    """Return Go's ``%v`` of strings: ``[a b]``."""
    return f"[{' '.join(items)}]"


def health(test: Iterable[str], durations_ns: Iterable[int], retries: int) -> str:
    """Return Go's ``%q`` of a health check: a number is quoted as the character it is of."""
    times = " ".join(_quoted(format_duration(ns)) for ns in durations_ns)
    return f"&{{{quoted_list(test)} {times} {_quoted_number(retries)}}}"


def _quoted(text: str) -> str:
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _quoted_number(number: int) -> str:
    is_char = number <= sys.maxunicode and not 0xD800 <= number < 0xE000
    char = chr(number) if is_char else "\ufffd"
    return f"'{_QUOTES.get(char) or _escaped(char)}'"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
