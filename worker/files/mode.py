"""File modes as chmod writes them: ``0644``, ``u=rwX,go=rX``."""

import re
from collections.abc import Callable
from typing import Final

from worker.files.errors import BadMode

ChangeMode = Callable[[int, bool], int]
"""From permission bits, and whether it is a directory, to the new bits."""

_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS: Final = {"u": 6, "g": 3, "o": 0}
_BITS: Final = {"r": 4, "w": 2, "x": 1}
_SET_ID: Final = {"u": 0o4000, "g": 0o2000, "o": 0}


def parse_mode(text: str) -> ChangeMode | None:
    """Return what ``text`` does to a mode; None for an empty text, which keeps it.

    'X' is 'x' for directories and for files that somebody may run. '=' takes away the set-id
    bits that it does not give, but not the sticky bit, which is nobody's. No umask applies.

    Raises:
        BadMode: it is neither octal, at most 07777, nor symbolic.
    """
    if not text:
        return None
    if re.fullmatch(r"0*[0-7]{1,4}", text, re.ASCII):
        fixed = int(text, 8)
        return lambda mode, is_directory: fixed
    changes: list[tuple[str, str, str]] = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise BadMode(f"{text[:80]!r} is no mode: write octal (0644) or symbolic (u=rwX)")
        changes.extend((match[1], *change) for change in _CHANGE.findall(match[2]))
    return lambda mode, is_directory: _apply(changes, mode, is_directory=is_directory)


def made_mode(text: str) -> int:
    """Return the mode of directories that a copy with mode ``text`` makes on its way.

    An octal mode is theirs, too, less what a umask of 022 takes; any other leaves them 0755.
    """
    return int(text, 8) & 0o755 if text.isdecimal() else 0o755


def _apply(changes: list[tuple[str, str, str]], mode: int, *, is_directory: bool) -> int:
    for who, operator, perms in changes:
        classes = set("ugo" if not who or "a" in who else who)
        bits = _wanted(mode, classes, perms, is_directory=is_directory)
        if operator == "+":
            mode |= bits
        elif operator == "-":
            mode &= ~bits
        else:
            cleared = sum(7 << _SHIFTS[name] for name in classes)
            if perms not in _SHIFTS:  # "u=g" copies the three bits and no more
                cleared |= sum(_SET_ID[name] for name in classes)
            mode = mode & ~cleared | bits
    return mode


def _wanted(mode: int, classes: set[str], perms: str, *, is_directory: bool) -> int:
    if perms and perms in _SHIFTS:
        rwx = mode >> _SHIFTS[perms] & 7
    else:
        rwx = sum(_BITS[perm] for perm in set(perms) & _BITS.keys())
        rwx |= "X" in perms and (is_directory or mode & 0o111 != 0)
    bits = sum(rwx << _SHIFTS[name] for name in classes)
    if "s" in perms:
        bits |= sum(_SET_ID[name] for name in classes)
    if "t" in perms:
        bits |= 0o1000
    return bits
