"""The ``filesync`` command: finds its subcommands, and turns errors into sentences.

Exit codes: 0 done; 1 it failed, and a sentence on standard error says why, unless it is that nobody
reads standard output any more; 2 the command line makes no sense; 23 done, but not all was there,
or could be read, or not all metadata be kept here; 24 done, but for files that changed each time
they were read (both as rsync's); 130 interrupted.
"""

import gc
import logging
import os
import signal
import sys
from importlib import import_module
from typing import Final

import click

from filesync.command.output import is_unread, open_output
from filesync.errors import Ended, FilesyncError, StoreError, UsageError
from filesync.process.descriptors import HOW, are_used_up, make_room
from filesync.process.loading import ended_by_interrupts

GROUP: Final = "filesync.commands"
_OWN: Final = {
    "sync": "filesync.sync.commands",
    "serve": "filesync.sync.commands",
    "manifest": "filesync.sync.manifests.commands",
    "keygen": "filesync.keys.commands",
}
"""The modules of our own commands: found without a look at what is installed, which takes 30 ms."""
_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)


class OneLine(logging.Formatter):
    """Formats a record as one line that steers no terminal, whoever its words are from."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, before any traceback."""
        return escaped(super().formatMessage(record))


def escaped(text: str, *, keep: str = "") -> str:
    """Return ``text`` with all that is not printable, and not in ``keep``, escaped."""
    return "".join(
        char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text
    )


class PluginGroup(click.Group):
    """A group of our own commands and the entry points of GROUP, loaded when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        from importlib.metadata import entry_points

        return sorted({*_OWN, *(point.name for point in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        with ended_by_interrupts():
            return self._loaded(cmd_name)

    def _loaded(self, cmd_name: str) -> click.Command | None:
        command: object = None
        if module := _OWN.get(cmd_name):
            command = getattr(import_module(module), cmd_name)
        else:
            from importlib.metadata import entry_points

            for point in entry_points(group=GROUP, name=cmd_name):
                command = point.load()
        assert command is None or isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that ``args`` begin with; of one that is not there, say which is near.

        Raises:
            UsageError: there is none.
        """
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            from difflib import get_close_matches

            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"{exc.message} Did you mean {near[0]!r}?", ctx) from None


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("filesync")
    except PackageNotFoundError:
        number = "0 (not installed)"
    click.echo(f"filesync, version {number}")
    ctx.exit()


@click.group(
    cls=PluginGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 23 not all read, or not all metadata "
    "kept, 24 some files never rested, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option("-v", "--verbose", count=True, help="Log what happens; twice for each message.")
def filesync(verbose: int) -> None:
    """Move file trees between machines, and build with them.

    FILESYNC_LOG (debug, info, warning, error) sets what is logged; FILESYNC_DEBUG=1 shows a
    traceback with each error.
    """
    level = os.environ.get("FILESYNC_LOG", "").upper() or _LEVELS[min(verbose, 2)]
    make_room()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(levelname)s %(name)s: %(message)s"))
    try:
        logging.basicConfig(level=level, handlers=[handler])
    except ValueError:
        raise UsageError(
            f"FILESYNC_LOG={level} is no level: debug, info, warning or error"
        ) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    open_output()
    code = run(arguments)
    # It ends: an interrupt has nothing to undo any more, and nothing to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The interpreter looks for garbage once more before it ends: 10 ms, for what ends anyway.
    gc.freeze()
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result = filesync.main(arguments, prog_name="filesync", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except Ended as exc:
        signal.raise_signal(exc.number)
        return 1
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except FilesyncError as exc:
        return _report(exc)
    except OSError as exc:
        if is_unread(exc):
            return 1
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
    text = escaped(str(exc) or type(exc).__name__, keep="\n\t")
    if are_used_up(exc) and HOW not in text:
        text += f"; {HOW}"
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
