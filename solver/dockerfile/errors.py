"""What can be wrong with a Dockerfile."""

from typing import ClassVar

from filesync.errors import UsageError
from solver.dockerfile.excerpt import SHOWN_CHARS, clipped, numbered, printable


class DockerfileError(UsageError):
    """A Dockerfile (or a .dockerignore) cannot be used as it stands.

    ``str()`` is the sentence, then the line with the culprit underlined.

    Attributes:
        filename: as the user named it.
        line: counted from 1.
        text: that line, without its line end.
        message: the sentence alone.
        mark: the part of ``text`` to underline; empty underlines the whole line.
    """

    code: ClassVar[str] = "dockerfile"

    def __init__(
        self, filename: str, line: int, text: str, message: str, mark: str = ""
    ) -> None:
        super().__init__(filename, line, text, message, mark)
        self.filename = filename
        self.line = line
        self.text = text
        self.message = message
        self.mark = mark

    def __str__(self) -> str:
        headline = f"{self.filename}:{self.line}: {printable(self.message)}"
        text = printable(self.text.rstrip())
        mark = printable(self.mark)
        start = text.find(mark) if mark else len(text) - len(text.lstrip())
        if start < 0 or start >= min(len(text), SHOWN_CHARS):
            start, mark = len(text) - len(text.lstrip()), ""
        length = len(mark) or len(text) - start
        shown = clipped(text)
        length = max(1, min(length, len(shown) - start))
        line = numbered(self.line, shown)
        below = " " * (len(line) - len(shown) - 2) + "| " + " " * start + "^" * length
        return f"{headline}\n{line}\n{below}"


class NoSuchImage(UsageError):
    """A registry shows no image of this name, which may be meant for another one."""

    code: ClassVar[str] = "no-such-image"


class Invalid(UsageError):
    """An instruction says what cannot be done; its line is added where it is known.

    Never leaves this package: it becomes a DockerfileError.
    """

    code: ClassVar[str] = "invalid-instruction"

    def __init__(self, message: str, mark: str = "") -> None:
        super().__init__(message, mark)
        self.message = message
        self.mark = mark

    def __str__(self) -> str:
        return self.message
