"""File modes as --chmod writes them."""

import re
from typing import Final

from solver.dockerfile.errors import Invalid

_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_BITS: Final = {"r": 4, "w": 2, "x": 1}


def chmod(text: str, mode: int) -> int:
    """Return what a file of ``mode`` has after ``chmod text``; octal or symbolic.

    Raises:
        Invalid: neither.
    """
    if re.fullmatch(r"[0-9]+", text):
        return _octal(text)
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise Invalid(
                f"--chmod={text[:80]}: not a mode; write octal (0644) or symbolic (u=rwX,go=rX)",
                text,
            )
        for operator, perms in _CHANGE.findall(match[2]):
            mode = _changed(mode, who=match[1], operator=operator, perms=perms)
    return mode


def _octal(text: str) -> int:
    if not re.fullmatch(r"0*[0-7]{1,4}", text):
        raise Invalid(f"--chmod={text[:80]}: an octal mode is between 0 and 07777", text)
    return int(text, 8)


def _changed(mode: int, *, who: str, operator: str, perms: str) -> int:
    classes = "ugo" if not who or "a" in who else who
    mask = sum(7 << _SHIFTS[name] for name in set(classes))
    bits = 0
    for name in set(classes):
        bits |= _class_bits(mode, perms) << _SHIFTS[name]
    if "s" in perms:
        bits |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
    if "t" in perms:
        bits |= 0o1000
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    return (mode & ~mask) | bits


def _class_bits(mode: int, perms: str) -> int:
    if perms and perms in _SHIFTS:
        return mode >> _SHIFTS[perms] & 7
    bits = sum(_BITS[perm] for perm in set(perms) & _BITS.keys())
    return bits | 1 if "X" in perms and mode & 0o111 else bits
