"""What steps print, which comes in pieces, as lines that people read."""

import codecs
import re
from collections.abc import Iterator
from typing import Final

MAX_LINE_CHARS: Final = 2000
_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
"""Colours and movements, titles and links: they say nothing in a log."""


class Decoder:
    """Text out of bytes that may be cut within a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> str:
        """Return the text that is whole with ``data``."""
        return self._decoder.decode(data)

    def end(self) -> str:
        """Return what stands for a character that never became whole."""
        return self._decoder.decode(b"", final=True)


class OutputLines:
    """The lines of one stream of one step, as a terminal shows them when they are complete.

    Of what was written over, as progress is behind a carriage return, the last stays. A line that is
    too long goes on in the next; one that does not end is not waited for.
    """

    def __init__(self) -> None:
        self._text = Decoder()
        self._rest = ""

    def add(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete with ``data``."""
        *lines, self._rest = (self._rest + self._text.add(data)).split("\n")
        for line in lines:
            yield from _shown(line)
        if len(self._rest) > MAX_LINE_CHARS:
            rest, self._rest = self._rest, ""
            yield from _shown(rest)

    def end(self) -> Iterator[str]:
        """Yield what is left."""
        rest, self._rest = self._rest + self._text.end(), ""
        if rest:
            yield from _shown(rest)


def _shown(line: str) -> Iterator[str]:
    line = without_escapes(line).rstrip("\r").rpartition("\r")[2]
    for start in range(0, len(line) or 1, MAX_LINE_CHARS):
        yield line[start : start + MAX_LINE_CHARS]


def without_escapes(text: str) -> str:
    """Return ``text`` without what colours it or moves the cursor."""
    return _ESCAPES.sub("", text) if "\x1b" in text else text
