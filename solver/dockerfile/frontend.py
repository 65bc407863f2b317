"""What a Dockerfile's first lines ask for: ``# syntax=`` and ``# check=``."""

import re
from collections.abc import Iterable
from typing import Final

from solver.dockerfile.errors import Invalid

_DIRECTIVE: Final = re.compile(r"\s*#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_KNOWN: Final = ("syntax", "escape", "check")
_SAME: Final = re.compile(r"(?:[^@]+/)?dockerfile(?:-upstream)?(?:[:@].*)?")
"""docker's own frontend, from wherever it is taken and in whichever version."""
SYNTAX_ARG: Final = "BUILDKIT_SYNTAX"
"""A build argument that stands above a Dockerfile's own line."""


def directives(lines: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return the directives that a Dockerfile begins with: its line, counted from 1, and its value."""
    found: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#!"):
            continue
        match = _DIRECTIVE.fullmatch(line)
        if match is None or match[1].lower() not in _KNOWN:
            break
        found[match[1].lower()] = (number, match[2])
    return found


def warning_of_check(value: str) -> str:
    """Return what to say of ``# check=value``; '' where nothing is missed."""
    if "error=true" not in value.replace(" ", "").lower():
        return ""
    return (
        "# check=error=true: BuildKit's build checks are not made here, so none fails the build"
    )


def check_frontend(name: str, asked_by: str = "# syntax=") -> None:
    """Refuse what is written for another frontend than docker's; '' names none.

    Raises:
        Invalid: it is.
    """
    name = name.partition(" ")[0]
    if name and not _SAME.fullmatch(name):
        raise Invalid(
            f"{asked_by}{name[:200]} asks for a frontend, and none is run here: a Dockerfile is"
            " read as docker/dockerfile:1 reads it; leave that out, if it is one",
            name,
        )
