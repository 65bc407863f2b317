"""File modes as --chmod writes them; the worker does what they say."""

import re
from typing import Final

from solver.dockerfile.errors import Invalid

_CLAUSE: Final = re.compile(r"[ugoa]*(?:[-+=](?:[ugo]|[rwxXst]*))+")


def check_mode(text: str) -> None:
    """Raise Invalid unless ``text`` is an octal or symbolic mode."""
    if re.fullmatch(r"[0-9]+", text):
        if not re.fullmatch(r"0*[0-7]{1,4}", text):
            raise Invalid(f"--chmod={text[:80]}: an octal mode is between 0 and 07777", text)
    elif not all(map(_CLAUSE.fullmatch, text.split(","))):
        raise Invalid(
            f"--chmod={text[:80]}: not a mode; write octal (0644) or symbolic (u=rwX,go=rX)",
            text,
        )
