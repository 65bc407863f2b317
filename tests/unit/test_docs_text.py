"""What README.md and docs/ tell a reader to type, and where they send him."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from filesync.command import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SEPARATORS = frozenset({"|", "&&", ";"})


def commands_in(page: Path) -> Iterator[list[str]]:
    """Yield the words after `filesync` of each command in the page's shell blocks."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            lexer.commenters = "" if line.lstrip("# ").startswith("RUN ") else "#"
            words = list(lexer)
            for start in (at for at, word in enumerate(words) if word == "filesync"):
                rest = words[start + 1 :]
                end = next(
                    (at for at, word in enumerate(rest) if word in SEPARATORS), len(rest)
                )
                yield rest[:end]


SHOWN = [(page.name, words) for page in PAGES for words in commands_in(page)]


@pytest.mark.parametrize(
    ("page", "words"), SHOWN, ids=[f"{page}: {' '.join(words)}" for page, words in SHOWN]
)
def test_every_command_that_is_shown_is_one(page: str, words: list[str]) -> None:
    command: click.Command | None = cli.filesync
    context = click.Context(cli.filesync, info_name="filesync")
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
    assert command is not None
    command.make_parser(context).parse_args(list(words))  # not whether its files are there


def test_commands_are_shown_at_all() -> None:
    assert len(SHOWN) > 40


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_to_this_repository_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link
