"""Lines of a Dockerfile as they are shown to who wrote them."""

from typing import Final

import msgspec

SHOWN_CHARS: Final = 120
_SHOWN_LINES: Final = 16


class Excerpt(msgspec.Struct, frozen=True):
    """The lines of one instruction.

    Attributes:
        filename: as the user named it.
        line: the first, counted from 1.
        lines: without their line ends.
    """

    filename: str
    line: int
    lines: tuple[str, ...]

    def under(self, sentence: str) -> str:
        """Return ``sentence`` with the place in front of it, and the lines below it."""
        shown = [
            numbered(number, clipped(line))
            for number, line in enumerate(self.lines[:_SHOWN_LINES], self.line)
        ]
        more = ["     | …"] if len(self.lines) > _SHOWN_LINES else []
        return "\n".join([f"{self.filename}:{self.line}: {sentence}", *shown, *more])


def numbered(number: int, text: str) -> str:
    """Return a line with its number before it."""
    return f"{number:>4} | {text}"


def clipped(text: str) -> str:
    """Return a line that a terminal can show, not too long."""
    text = printable(text.rstrip())
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def printable(text: str) -> str:
    """Return ``text`` with nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)
