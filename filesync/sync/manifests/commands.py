"""The command ``manifest``: trees without their contents, as files."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from filesync.command.home import own_caches
from filesync.errors import UsageError
from filesync.manifest import Manifest, MemoryNodes
from filesync.sync.commands import CommandWithRules, as_rules, rules_options
from filesync.sync.filter import Filter
from filesync.sync.manifests.file import (
    check_output,
    manifest_chunks,
    read_manifest,
    write_manifest,
)
from filesync.sync.manifests.filtered import without
from filesync.sync.manifests.listing import json_lines, lines
from filesync.sync.places import LocalPlaces
from filesync.sync.plan import Plan
from filesync.sync.saying.itemize import itemize
from filesync.sync.saying.report import skipped_notes
from filesync.sync.scanning import scan_place
from filesync.sync.source import close_all, find_sources

DIFFERENT = 1
_PATH = click.Path(path_type=Path, exists=True)
_INPUT = Path("-")
_PATH_OR_INPUT = click.Path(path_type=Path, exists=True, allow_dash=True)


class _WriteByDefault(click.Group):
    """A group whose command is ``write`` when none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["write", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_WriteByDefault,
    short_help="Write down what a tree holds, and compare it later.",
    epilog="""
\b
Examples:
  filesync manifest -o site.tree site/            write what is in site
  filesync manifest show site.tree                a readable listing; of a directory, too
  filesync manifest verify site.tree /mnt/site    is that the same tree? what differs?
  filesync manifest diff monday.tree site/        what a sync from the first would find
  filesync manifest -o - site/ | ssh far filesync manifest verify - /srv/site
\b
A PATH that is called like a command is written ./PATH; '-' is standard output, or input.
Exit codes: 0 done, the same; 1 failed, or the trees differ; 2 wrong usage; 130 interrupted.
""",
)
def manifest() -> None:
    """Write down a directory's names, metadata and digests, and compare with it later.

    One digest stands for all of a tree: equal digests, equal trees, to the last bit of content.
    """


@manifest.command(
    cls=CommandWithRules,
    epilog="""
\b
Examples:
  filesync manifest write -o site.tree site/
  filesync manifest write --exclude '*.log' site/    its digest alone
""",
)
@click.argument("path", type=_PATH)
@click.option("-o", "--output", metavar="FILE", help="Where to; '-' is standard output.")
@rules_options
def write(path: Path, output: str | None, excludes: Sequence[str]) -> None:
    """Scan PATH and write its manifest; print its digest."""
    if output not in (None, "-"):
        check_output(Path(output))
    found = _scan(path, as_rules(excludes), checksum=False)
    if output == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "a manifest is no text; give a file with -o, or use `manifest show`"
            )
        sys.stdout.buffer.writelines(manifest_chunks(found))
        return
    if output is not None:
        write_manifest(Path(output), found)
    click.echo(_sentence(found))


@manifest.command(
    cls=CommandWithRules,
    epilog="""
\b
Examples:
  filesync manifest show site.tree
  filesync manifest show --json site/
""",
)
@click.argument("path", type=_PATH_OR_INPUT)
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@rules_options
def show(path: Path, as_json: bool, excludes: Sequence[str]) -> None:
    """List what the manifest, or directory, PATH holds."""
    found = _load(path, as_rules(excludes))
    if as_json:
        sys.stdout.writelines(json_lines(found))
    else:
        _print(lines(found))
        _print((_sentence(found),))


@manifest.command(
    cls=CommandWithRules,
    short_help="Say what of PATH is not as FILE says.",
    epilog="""
\b
Examples:
  filesync manifest verify site.tree /mnt/site
  ssh near filesync manifest -o - site/ | filesync manifest verify - /srv/site
""",
)
@click.argument(
    "file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True)
)
@click.argument("path", type=click.Path(path_type=Path, exists=True, file_okay=False))
@rules_options
def verify(file: Path, path: Path, excludes: Sequence[str]) -> int:
    """Read all of PATH and say what of it is not as FILE says: exit code 1."""
    rules = as_rules(excludes)
    return _compare(_read(file, rules), _scan(path, rules, checksum=True))


@manifest.command(
    cls=CommandWithRules,
    epilog="""
\b
Examples:
  filesync manifest diff monday.tree tuesday.tree
  filesync manifest diff monday.tree site/
""",
)
@click.argument("old", type=_PATH_OR_INPUT)
@click.argument("new", type=_PATH_OR_INPUT)
@rules_options
def diff(old: Path, new: Path, excludes: Sequence[str]) -> int:
    """Say what NEW has that OLD has not, each a manifest or a directory."""
    rules = as_rules(excludes)
    return _compare(_load(old, rules), _load(new, rules))


def _compare(old: Manifest, new: Manifest) -> int:
    if old.tree == new.tree:
        return 0
    _print(itemize(Plan(old, new)))
    return DIFFERENT


def _load(path: Path, rules: Sequence[bytes]) -> Manifest:
    """Return the manifest in the file ``path``, or of the directory that it is."""
    if path.is_dir() and path != _INPUT:
        return _scan(path, rules, checksum=False)
    return _read(path, rules)


def _read(path: Path, rules: Sequence[bytes]) -> Manifest:
    found = read_manifest(Path("/dev/stdin") if path == _INPUT else path)
    return without(found, Filter(rules))


def _scan(path: Path, rules: Sequence[bytes], *, checksum: bool) -> Manifest:
    name = os.fsencode(path)
    sources = find_sources(LocalPlaces(), [name], Filter(()))
    sources.check()
    try:
        caches = None if checksum else own_caches()
        found = scan_place(
            sources.found[0].place, MemoryNodes(), filter=Filter(rules), caches=caches
        )
    finally:
        close_all(sources.found)
    for note in skipped_notes(found.skipped):
        click.echo(f"filesync: {note}", err=True)
    return found.manifest


def _sentence(found: Manifest) -> str:
    from filesync.digest import name_of

    summary = found.summary
    names = f"{summary.entries:,} name{'s' * (summary.entries != 1)}"
    return f"{name_of(found.tree)}  {names}, {summary.size:,} bytes"


def _print(text: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in text)
