"""Values in an image's history as Go prints them, so that histories compare equal."""

from collections.abc import Iterable, Mapping
from typing import Final

from filesync.quantities import format_duration

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


def quoted_list(items: Iterable[str]) -> str:
    """Return Go's ``%q`` of strings: ``["a" "b"]``."""
    return f"[{' '.join(_quoted(item) for item in items)}]"


def plain_list(items: Iterable[str]) -> str:
    """Return Go's ``%v`` of strings: ``[a b]``."""
    return f"[{' '.join(items)}]"


def health(test: Iterable[str], durations_ns: Mapping[str, int], retries: int) -> str:
    """Return Go's ``%+v`` of a health check."""
    times = " ".join(f"{name}:{format_duration(ns)}" for name, ns in durations_ns.items())
    return f"{{Test:{plain_list(test)} {times} Retries:{retries}}}"


def _quoted(text: str) -> str:
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
