"""The commands ``sync`` and ``serve``; what they run is imported when it is known what it is."""

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from filesync.command.home import own_caches
from filesync.errors import UsageError
from filesync.keys.options import key_option, listen_keys, listen_options
from filesync.sync.spelling import ALWAYS_SO, COMPRESS, RsyncCommand, always_so, check_archive

if TYPE_CHECKING:
    from filesync.sync.listed import Listed
    from filesync.sync.options import OwnerNames
    from filesync.sync.remote.server import TreeServer
    from filesync.transfer.plane_zmq import DataPlane

PARTIAL: Final = 23
"""Exit code: done, but for what could not be read, changed or kept, or met a directory that stays."""
CHANGED: Final = 24
"""Exit code: done, but for files that changed each time they were read."""
_RULES: Final = ("--include", "--exclude-from", "--include-from")
F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES: Final = """
Exit codes: 0 done; 1 failed, or (without a word) nobody reads any more what it lists; 2 wrong
usage; 23 done, but for sources that are not there, or files and directories in them that cannot be
read, which are named (nothing is deleted then), directories at the destination that cannot be
read or written, and names there that cannot be changed, made or removed, which are named and left
as they are, metadata that could not be kept (an owner is no loss to an ordinary user), or names
left out for a directory that is not to be removed; 24 done, but for files that changed each time
they were read, which are named; 130 interrupted. SIGTERM and SIGHUP end it as themselves (143 and
129 to a shell), when its temporary files are gone.
"""


class CommandWithRules(click.Command):
    """A command that takes --exclude and --include in any order, and keeps it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args``, an --include as the --exclude '+ …' that it stands for.

        Raises:
            UsageError: a file of patterns cannot be read.
        """
        return super().parse_args(ctx, _in_order(args))


def _in_order(args: Sequence[str]) -> list[str]:
    # Click gathers each option's values by themselves; which came first is lost.
    rest = iter(args)
    ordered: list[str] = []
    for word in rest:
        if word == "--":
            return [*ordered, word, *rest]
        name, equals, value = word.partition("=")
        if name in _RULES and (given := [value] if equals else [*islice(rest, 1)]):
            patterns = _patterns_in(given[0]) if name.endswith("-from") else given
            ordered += [_exclude(one, is_include="include" in name) for one in patterns]
        else:
            ordered.append(word)
    return ordered


def _exclude(pattern: str, *, is_include: bool) -> str:
    is_rule = pattern == "!" or pattern[:2] in ("+ ", "- ")
    return f"--exclude={pattern if is_rule or not is_include else f'+ {pattern}'}"


def _patterns_in(name: str) -> list[str]:
    """Return the patterns in a file, one a line, as rsync reads it; '-' is standard input."""
    data = _read(name, "patterns")
    if b"\0" in data:
        raise UsageError(f"{name} has a NUL; patterns are one a line")
    lines = os.fsdecode(data.replace(b"\r", b"\n")).split("\n")
    return [line for line in lines if line and line[0] not in ";#"]


def _read(name: str, what: str) -> bytes:
    """Return what is in the file ``name``, which lists ``what``; '-' is standard input.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return _standard_input() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        raise UsageError(f"the {what} in {name} cannot be read: {exc.strerror}") from None


def _standard_input() -> bytes:
    if sys.stdin is None:  # it was started without one
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return sys.stdin.buffer.read()


class _SyncCommand(RsyncCommand, CommandWithRules):
    """Takes what rsync's users type."""


def rules_options(command: F) -> F:
    """Add --exclude and --include, as ``excludes``, to a CommandWithRules."""
    exclude = click.option(
        "--exclude",
        "excludes",
        multiple=True,
        metavar="PATTERN",
        help="Leave out, and alone, what matches, by rsync's rules; the first that matches "
        "decides. Repeatable.",
    )
    include = click.option(
        "--include",
        "includes",
        multiple=True,
        expose_value=False,
        metavar="PATTERN",
        help="Do not leave out what matches, whatever later patterns say. Repeatable.",
    )
    read = click.option(
        "--exclude-from",
        "--include-from",
        "patterns_from",
        multiple=True,
        expose_value=False,
        metavar="FILE",
        help="The same, with the patterns in FILE, one a line; '-' is standard input.",
    )
    return exclude(include(read(command)))


def files_option(command: F) -> F:
    """Add --files-from, as ``listed_in``, and --from0."""
    listed = click.option(
        "--files-from",
        "listed_in",
        metavar="FILE",
        help="Take what FILE lists, a path below the one SRC in each line, and nothing else; '-' is standard "
        "input. What is in a directory that is listed only comes with -r.",
    )
    ends = click.option(
        "-0", "--from0", "from0", is_flag=True, help="A path in it ends in NUL."
    )
    return listed(ends(command))


def _listed(
    name: str | None, sources: Sequence[str], flags: Mapping[str, bool]
) -> "Listed | None":
    """Return what ``--files-from`` lists.

    Raises:
        UsageError: it cannot be read, or is asked for with what has no meaning then.
    """
    if name is None:
        if flags["from0"]:
            raise UsageError("--from0 says how the names in --files-from end; write that, too")
        return None
    from filesync.sync.listed import Listed, paths_in

    if len(sources) != 1:
        raise UsageError(
            "with --files-from there is one SRC, the directory that the list is of"
        )
    if flags["delete"] or flags["delete_excluded"]:
        raise UsageError(
            "--delete removes what SRC does not have, and a list says nothing of that"
        )
    return Listed(
        paths_in(_read(name, "names"), from0=flags["from0"]), all_below=flags["recursive"]
    )


def as_rules(excludes: Sequence[str]) -> tuple[bytes, ...]:
    """Return what was given to --exclude and --include as rules."""
    return tuple(map(os.fsencode, excludes))


def _owner_names(text: str) -> "OwnerNames | None":
    from filesync.sync.owner import parse_owner  # few need it

    return parse_owner(text)


@click.command(
    cls=_SyncCommand,
    short_help="Make DST hold what each SRC has.",
    epilog=f"""
\b
Examples:
  filesync sync src/ backup/                        what is in src
  filesync sync src notes.txt backup/               backup/src and backup/notes.txt
  filesync sync -avn --delete src/ backup/          the names that would change
  filesync sync site/ anna@192.0.2.7:site/          over ssh; filesync is needed there, too
  filesync sync -e 'ssh -p 2222' web:/srv/site/ site/
  filesync sync tcp://127.0.0.1:7701/site/ site/    from a `filesync serve`
  filesync sync --include '*.c' --include '*/' --exclude '*' src/ tcp://127.0.0.1:7701/src/
  git ls-files -z | filesync sync -0 --files-from=- ./ web:src/     what git knows of
  filesync sync --compress none --bwlimit 20M disk.img tcp://127.0.0.1:7701/
  filesync sync tcp://KEY@192.0.2.7:7701/site/ site/    encrypted; see `filesync keygen --help`
\b
Patterns: 'x' matches that name anywhere, '/x' at the top, 'x/' directories only; * and ?
match within a name, ** across slashes, x/*** a directory and all in it.
\b{ALWAYS_SO}{EXIT_CODES}""",
    context_settings={"help_option_names": ["--help"]},
)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.argument("dest", metavar="DST")
@click.option(
    "--delete",
    "--delete-during",
    "--del",
    "delete",
    is_flag=True,
    help="Remove what SRC does not have.",
)
@click.option(
    "--delete-excluded", is_flag=True, help="And what --exclude leaves out; implies --delete."
)
@click.option(
    "--existing",
    "--ignore-non-existing",
    "existing",
    is_flag=True,
    help="Make no new names in DST: only what is there already is changed.",
)
@click.option(
    "--ignore-existing",
    is_flag=True,
    help="Only make new names: what is there already is left alone, though not what is in "
    "directories.",
)
@click.option(
    "-u",
    "--update",
    is_flag=True,
    help="Leave files in DST alone that are newer than those in SRC; what is of another kind is "
    "replaced, however new.",
)
@click.option(
    "--chown",
    metavar="USER:GROUP",
    default="",
    help="Have all in DST belong to USER and GROUP, names or numbers that the machine of DST knows; "
    "one may be left out. Who is not root may only name a group that he is in.",
)
@click.option(
    "-x",
    "--one-file-system",
    "one_file_system",
    count=True,
    help="Stay on the file system that each SRC is on: a directory on which another is mounted arrives "
    "with nothing in it; with -xx it does not. --delete then leaves alone what DST has in such a "
    "directory (not with -xx), and what is mounted in DST.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; list what would change.")
@click.option("-v", "--verbose", count=True, help="List the names that change.")
@click.option(
    "-i",
    "--itemize-changes",
    "--itemize",
    "itemized",
    is_flag=True,
    help="List what changes of which name, as rsync does.",
)
@click.option("-q", "--quiet", is_flag=True, help="List nothing, and show no progress.")
@rules_options
@files_option
@click.option(
    "--compress",
    type=click.Choice(COMPRESS),
    default="auto",
    show_default=True,
    help="What travels compressed: what that makes faster, nothing, or all that gets smaller.",
)
@click.option("-z", "zstd", is_flag=True, help="The same as --compress zstd.")
@click.option(
    "--bwlimit",
    metavar="RATE",
    default="0",
    help="At most so much a second: a number is KiB; 1.5M, 200K.",
)
@click.option(
    "-c", "--checksum", is_flag=True, help="Read all files on both sides, changed or not."
)
@click.option("--stats", "show_stats", is_flag=True, help="Say what it took.")
@click.option("--json", "as_json", is_flag=True, help="Say all figures, as one JSON document.")
@click.option(
    "-P",
    "--progress/--no-progress",
    "progress",
    default=None,
    help="Show progress.  [default: on a terminal, after a second]",
)
@click.option(
    "-e",
    "--rsh",
    "rsh",
    default="ssh",
    show_default=True,
    metavar="COMMAND",
    help="What runs a program on another machine.",
)
@click.option(
    "--filesync-path",
    "program",
    default="filesync",
    show_default=True,
    metavar="PROGRAM",
    help="What filesync is called on the other machine.",
)
@key_option
@always_so
def sync(
    sources: Sequence[str],
    dest: str,
    excludes: Sequence[str],
    listed_in: str | None,
    compress: str,
    bwlimit: str,
    chown: str,
    one_file_system: int,
    progress: bool | None,
    rsh: str,
    program: str,
    key: Path | None,
    verbose: int,
    **flags: bool,
) -> int:
    """Make DST hold what each SRC has, moving only what DST lacks.

    SRC and DST are local paths; all SRC, or DST, may be [user@]host:path, reached by a remote shell,
    or tcp://host:port/path, below what a `filesync serve` serves; with KEY@ before the host if that
    one uses keys. A local name with a colon is written ./a:b. A SRC that ends in '/' stands for
    what is in the directory, and DST gets the mode, owner and times of that one, be it the home that 'host:' is;
    without it, for the directory itself. A pattern in a SRC is for the shell of this machine: of what is
    on another, name the directory and use --include. What is copied is verified by digest. Other names in DST stay,
    unless --delete is given.
    """
    from filesync.disk.scanning.mounts import Mounts
    from filesync.sync.options import Choice, Options, Shell
    from filesync.sync.rate import parse_rate
    from filesync.sync.run import Listing, run
    from filesync.sync.saying.report import as_json, is_partial, is_unread, notes, summary
    from filesync.transfer.flow import Compress, Flow

    check_archive(flags)
    is_named = verbose > 0 and not flags["itemized"]
    is_listed = (is_named or flags["itemized"] or flags["dry_run"]) and not flags["quiet"]
    listing = Listing(keep=flags["as_json"], only_names=is_named)
    options = Options(
        delete=flags["delete"] or flags["delete_excluded"],
        delete_excluded=flags["delete_excluded"],
        dry_run=flags["dry_run"],
        checksum=flags["checksum"],
        rules=as_rules(excludes),
        listed=_listed(listed_in, sources, flags),
        choice=Choice(flags["existing"], flags["ignore_existing"], flags["update"]),
        mounts=Mounts(min(one_file_system, Mounts.LEFT_OUT.value)),
        owner=_owner_names(chown) if chown else None,
        flow=Flow(Compress("zstd" if flags["zstd"] else compress), parse_rate(bwlimit)),
        caches=own_caches(),
        on_changes=listing.take if is_listed else None,
        key=key,
        shell=Shell(rsh, program),
    )
    stats = run(sources, dest, options, listing, progress=False if flags["quiet"] else progress)
    for note in notes(stats, delete=options.delete):
        click.echo(f"filesync: {note}", err=True)
    if flags["as_json"]:
        changes = listing.lines if is_listed else None
        click.echo(as_json(stats, dry_run=options.dry_run, changes=changes))
    elif flags["show_stats"]:
        click.echo(summary(stats))
    if stats.is_behind and not is_unread(stats):
        return CHANGED
    return PARTIAL if is_unread(stats) or is_partial(stats) else 0


@click.command(
    short_help="Let `filesync sync` take trees, and give them.",
    epilog="""
\b
Examples:
  filesync serve /srv/trees
  filesync serve /srv/trees --read-only --listen tcp://127.0.0.1:7701
  filesync serve /srv/trees --listen tcp://192.0.2.7:7701 --allow /etc/filesync/allow
\b
In a file of ssh's authorized_keys, for one who may do nothing else:
  restrict,command="filesync serve --stdio --read-only /srv/trees" ssh-ed25519 AAAA...
\b
Exit codes: 0 stopped by Ctrl-C or SIGTERM; 1 failed; 2 wrong usage, or the port is taken.
""",
)
@click.argument(
    "root", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--listen",
    default="tcp://127.0.0.1:7701",
    show_default=True,
    metavar="ADDR",
    help="Where to listen; port 0 is any free one.",
)
@click.option(
    "--read-only",
    is_flag=True,
    help="Let nobody write; `filesync sync -n` compares all the same.",
)
@listen_options
@click.option(
    "--stdio",
    is_flag=True,
    help="Serve who is at the other end of standard input and output, as `filesync sync "
    "host:path` has it run by a remote shell. Without ROOT, all that this user may reach.",
)
@click.option("--until-eof", is_flag=True, hidden=True)
def serve(
    root: Path | None,
    listen: str,
    read_only: bool,
    key: Path | None,
    allow: Path | None,
    allow_insecure: bool,
    stdio: bool,
    until_eof: bool,
) -> None:
    """Let `filesync sync` take trees from below ROOT, and give trees to it.

    Nothing outside of ROOT can be reached, through links neither. The address is the first line
    printed; with --allow it has this machine's key before the @, as `filesync sync` needs it.
    Stop it with Ctrl-C.
    """
    import asyncio

    from filesync.sync.places import LocalPlaces, ServedPlaces
    from filesync.sync.remote.server import TreeServer
    from filesync.transfer.plane_zmq import DataPlane

    if root is None and not stdio:
        raise click.UsageError("ROOT is missing; only --stdio can do without")
    places = LocalPlaces() if root is None else ServedPlaces(root)
    server = TreeServer(places, read_only=read_only, caches=own_caches())
    if stdio:
        if allow is not None or allow_insecure:
            raise click.UsageError("--stdio listens nowhere; nobody else can connect")
        if sys.stdin is None:
            raise click.UsageError("--stdio without a standard input serves nobody")
        from filesync.sync.shell.stdio import serve_stdio

        asyncio.run(serve_stdio(server.answer, server.use))
        return
    from filesync.process.memory import share_arenas

    share_arenas()  # before there are threads
    own, allowed = listen_keys(key, allow)
    plane = DataPlane(
        listen,
        answer=server.answer,
        own=own,
        allows=None if allowed is None else allowed.allows,
        allow_insecure=allow_insecure,
    )
    asyncio.run(_serve(server, plane, until_eof))


async def _serve(server: "TreeServer", plane: "DataPlane", until_eof: bool) -> None:
    import asyncio

    from filesync.process.lifetime import wait_for_end
    from filesync.transfer.threads import take_threads_for_many

    take_threads_for_many()
    async with plane:
        server.use(plane)
        ending = asyncio.create_task(wait_for_end(until_eof=until_eof))
        await asyncio.sleep(0)  # so that it ends as it should from the first line on
        click.echo(plane.address)
        sys.stdout.flush()
        await ending
