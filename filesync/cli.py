"""The ``filesync`` command: finds its subcommands, and turns errors into sentences.

Exit codes: 0 done; 1 it failed, and a sentence on standard error says why; 2 the command line
makes no sense; 130 interrupted.
"""

import logging
import os
import sys
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Final

import click

from filesync.errors import FilesyncError, StoreError, UsageError

GROUP: Final = "filesync.commands"
_OWN: Final = {"sync": "filesync.commands:sync", "serve": "filesync.commands:serve"}
_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)


class PluginGroup(click.Group):
    """A group whose commands are the entry points of GROUP, loaded when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(_entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        found = _entry_points().get(cmd_name)
        if found is None:
            return None
        command = found.load()
        assert isinstance(command, click.Command)
        return command


def _entry_points() -> dict[str, EntryPoint]:
    # Run from a checkout there may be no installed package: our own commands are there anyway.
    own = {name: EntryPoint(name, value, GROUP) for name, value in _OWN.items()}
    return own | {point.name: point for point in entry_points(group=GROUP)}


def _version() -> str:
    try:
        return version("filesync")
    except PackageNotFoundError:
        return "0 (not installed)"


@click.group(
    cls=PluginGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
)
@click.version_option(_version(), prog_name="filesync")
@click.option("-v", "--verbose", count=True, help="Log what happens; twice for each message.")
def filesync(verbose: int) -> None:
    """Move file trees between machines, and build with them.

    FILESYNC_LOG (debug, info, warning, error) sets what is logged; FILESYNC_DEBUG=1 shows a
    traceback with each error.
    """
    level = os.environ.get("FILESYNC_LOG", "").upper() or _LEVELS[min(verbose, 2)]
    try:
        logging.basicConfig(
            level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
    except ValueError:
        raise UsageError(
            f"FILESYNC_LOG={level} is no level: debug, info, warning or error"
        ) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result = filesync.main(arguments, prog_name="filesync", standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except FilesyncError as exc:
        return _report(exc)
    except OSError as exc:
        return _report(
            StoreError(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
        )
    except BaseExceptionGroup as group:
        error = _first_error(group)
        if error is None:
            raise
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(exc: FilesyncError) -> int:
    if os.environ.get("FILESYNC_DEBUG") == "1":
        raise exc
    text = str(exc) or type(exc).__name__
    click.echo(f"filesync: error: {text}", err=True)
    return 2 if isinstance(exc, UsageError) else 1


def _first_error(group: BaseExceptionGroup[BaseException]) -> FilesyncError | None:
    """Return the error in a group that holds nothing but errors of ours."""
    ours, others = group.split(FilesyncError)
    if ours is None or others is not None:
        return None
    first: BaseException = ours
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, FilesyncError)
    return first
