"""Dockerfile text as instructions, each with its line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from e2b_dockerfile_utils import (
    DockerfileAst,
    DockerfileHeredoc,
    DockerfileInstruction,
    DockerfileSyntaxError,
    chomp_heredoc_content,
    parse_dockerfile_ast,
    parse_heredoc,
)

from solver.dockerfile.errors import DockerfileError, Invalid
from solver.dockerfile.excerpt import Excerpt
from solver.dockerfile.frontend import check_frontend, directives, warning_of_check
from solver.dockerfile.suggestion import did_you_mean

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
MAX_TEXT_CHARS: Final = 1 << 20
MAX_INSTRUCTIONS: Final = 4096

KEYWORDS: Final = frozenset(
    {
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
)


class Heredoc(msgspec.Struct, frozen=True):
    """A here-document: ``content`` is ready to use but for its variables.

    Attributes:
        content: with the leading tabs gone where ``<<-`` asks for it.
        raw: as it stands in the Dockerfile.
        expand: the terminator was not quoted.
    """

    name: str
    content: str
    raw: str
    expand: bool


class Instruction(msgspec.Struct, frozen=True):
    """One instruction, its continuation lines joined.

    Attributes:
        keyword: in capitals.
        flags: ``--name=value`` words, quotes removed.
        args: for ENV and LABEL triples of name, value and delimiter.
        json: the arguments were given as a JSON array.
        line: the first line, counted from 1; last_line: the last one.
        original: the joined line.
        triggered: comes from an ONBUILD of the base.
    """

    keyword: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    json: bool
    heredocs: tuple[Heredoc, ...]
    line: int
    last_line: int
    original: str
    triggered: bool = False


class Source(msgspec.Struct, frozen=True):
    """A file's name and lines, to point at."""

    filename: str
    lines: tuple[str, ...]

    def error(self, line: int, message: str, mark: str = "") -> DockerfileError:
        """Return the error for ``line``, which need not exist."""
        text = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        return DockerfileError(self.filename, line, text, message, mark)

    def excerpt(self, first: int, last: int) -> Excerpt:
        """Return the lines from ``first`` to ``last``."""
        return Excerpt(self.filename, first, self.lines[first - 1 : last])

    @contextmanager
    def at(self, line: int) -> Iterator[None]:
        """Give what goes wrong inside its line."""
        try:
            yield
        except Invalid as error:
            raise self.error(line, error.message, error.mark) from error


class Script(msgspec.Struct, frozen=True):
    """A parsed Dockerfile."""

    source: Source
    instructions: tuple[Instruction, ...]
    escape: str
    warnings: tuple[str, ...]


def parse(text: str, filename: str) -> Script:
    """Return the instructions of ``text``.

    Bytes that are not UTF-8 are lone surrogates in it, and may be so in comments.

    Raises:
        DockerfileError: no Dockerfile, or beyond the bounds of one.
    """
    text = text.removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    source = Source(filename, tuple(_SURROGATE.sub("\ufffd", line) for line in lines))
    if len(text) > MAX_TEXT_CHARS:
        raise source.error(1, f"larger than {MAX_TEXT_CHARS} characters")
    for number, line in enumerate(lines, 1):
        with source.at(number):
            # What looks like a comment may be a here-document's; that is checked with it.
            is_comment = line.lstrip().startswith("#")
            check_text(source.lines[number - 1] if is_comment else line)
    first = directives(source.lines)
    at, frontend = first.get("syntax", (1, ""))
    with source.at(at):
        check_frontend(frontend)
    ast = _parse(text, source)
    if len(ast.instructions) > MAX_INSTRUCTIONS:
        line_number = ast.instructions[MAX_INSTRUCTIONS].start_line
        raise source.error(line_number, f"more than {MAX_INSTRUCTIONS} instructions")
    instructions = []
    for node in ast.instructions:
        with source.at(node.start_line):
            instructions.append(_instruction(node))
    warnings = tuple(
        f"{filename}:{w.line}: {w.message.splitlines()[0][:200]}" for w in ast.warnings
    )
    line_number, check = first.get("check", (1, ""))
    if note := warning_of_check(check):
        warnings = (f"{filename}:{line_number}: {note}", *warnings)
    return Script(source, tuple(instructions), ast.escape_token, warnings)


def parse_trigger(text: str, *, line: int) -> Instruction:
    """Return the instruction that an ONBUILD holds, as if it stood at ``line``.

    Raises:
        Invalid: not one instruction that may stand there.
    """
    try:
        script = parse(text, "ONBUILD")
    except DockerfileError as error:
        raise Invalid(f"ONBUILD {text[:200]}: {error.message}") from error
    if len(script.instructions) != 1:
        raise Invalid(f"ONBUILD {text[:200]!r} is not one instruction")
    found = script.instructions[0]
    check_trigger(found.keyword)
    return Instruction(
        keyword=found.keyword,
        flags=found.flags,
        args=found.args,
        json=found.json,
        heredocs=found.heredocs,
        line=line,
        last_line=line,
        original=found.original,
        triggered=True,
    )


def check_trigger(keyword: str) -> None:
    """Raise Invalid unless ``keyword`` may follow ONBUILD."""
    if keyword == "ONBUILD":
        raise Invalid("ONBUILD ONBUILD is not allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise Invalid(f"ONBUILD {keyword} is not allowed", keyword)
    if keyword not in KEYWORDS:
        guess = did_you_mean(keyword, KEYWORDS)
        raise Invalid(f"unknown instruction after ONBUILD: {keyword}{guess}", keyword)


def check_text(text: str) -> None:
    """Raise Invalid where ``text`` could not be a path, an argument or UTF-8."""
    if "\0" in text:
        raise Invalid("there is a NUL character in the text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("the text cannot be written as UTF-8") from None


def _parse(text: str, source: Source) -> DockerfileAst:
    try:
        return parse_dockerfile_ast(text)
    except DockerfileSyntaxError as error:
        _, _, message = str(error).partition(": ")
        at, mark = error.line or 1, ""
        if message.startswith("unknown instruction: "):
            if line := _trigger_with_heredoc(source.lines[: at - 1]):
                what = "a here-document after ONBUILD is not supported yet"
                raise source.error(line, what, "<<") from error
            mark = message.removeprefix("unknown instruction: ")
            message = f"unknown instruction: {mark[:64]}{did_you_mean(mark, KEYWORDS)}"
        raise source.error(at, message, mark) from error
    except RecursionError:
        # The library's JSON reader gives no line; the deepest nesting has the most brackets.
        counts = [line.count("[") for line in source.lines]
        line = counts.index(max(counts)) + 1
        raise source.error(line, "brackets are nested too deeply") from None


def _trigger_with_heredoc(lines: tuple[str, ...]) -> int:
    """Return the line of an ONBUILD with a heredoc in ``lines``, which parse; 0 if there is none.

    The library takes the heredoc's text for instructions, and no line of it is at fault.
    """
    for node in parse_dockerfile_ast("\n".join(lines)).instructions:
        if node.name == "ONBUILD" and any(map(is_heredoc, node.original.split())):
            return node.start_line
    return 0


def is_heredoc(word: str) -> bool:
    """Whether ``word`` begins a heredoc."""
    try:
        return parse_heredoc(word) is not None
    except ValueError:
        return False


def _instruction(node: DockerfileInstruction) -> Instruction:
    # A JSON string can hold what no text file can, and what looked like a comment may be none.
    for text in (node.original, *node.flags, *node.args):
        check_text(text)
    for heredoc in node.heredocs:
        check_text(heredoc.content)
    return Instruction(
        keyword=node.name,
        flags=tuple(node.flags),
        args=tuple(node.args),
        json=node.json,
        heredocs=tuple(_heredoc(heredoc) for heredoc in node.heredocs),
        line=node.start_line,
        last_line=node.end_line,
        original=node.original.strip(),
    )


def _heredoc(heredoc: DockerfileHeredoc) -> Heredoc:
    raw = heredoc.content
    content = chomp_heredoc_content(raw) if heredoc.chomp else raw
    return Heredoc(heredoc.name, content, raw, heredoc.expand)
