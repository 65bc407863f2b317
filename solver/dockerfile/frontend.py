"""Who is to read a Dockerfile: ``# syntax=``."""

import re
from collections.abc import Iterable
from typing import Final

from solver.dockerfile.errors import Invalid

_DIRECTIVE: Final = re.compile(r"\s*#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S+).*")
_KNOWN: Final = ("syntax", "escape", "check")
_SAME: Final = re.compile(r"(?:[^@]+/)?dockerfile(?:-upstream)?(?:[:@].*)?")
"""docker's own frontend, from wherever it is taken and in whichever version."""
SYNTAX_ARG: Final = "BUILDKIT_SYNTAX"
"""A build argument that stands above a Dockerfile's own line."""


def asked_frontend(lines: Iterable[str]) -> tuple[int, str]:
    """Return the line, counted from 1, of a ``# syntax=`` in ``lines`` and what it names, else ''."""
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#!"):
            continue
        match = _DIRECTIVE.fullmatch(line)
        if match is None or match[1].lower() not in _KNOWN:
            break
        if match[1].lower() == "syntax":
            return number, match[2]
    return 1, ""


def check_frontend(name: str, asked_by: str = "# syntax=") -> None:
    """Refuse what is written for another frontend than docker's; '' names none.

    Raises:
        Invalid: it is.
    """
    if name and not _SAME.fullmatch(name):
        raise Invalid(
            f"{asked_by}{name[:200]} asks for a frontend, and none is run here: a Dockerfile is"
            " read as docker/dockerfile:1 reads it; leave that out, if it is one",
            name,
        )
