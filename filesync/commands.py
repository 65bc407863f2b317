"""The commands ``sync`` and ``serve``."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic

import click
from rich.console import Console
from rich.progress import DownloadColumn, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from filesync.lifetime import wait_for_end
from filesync.transfer import DataPlane, Progress
from filesync.transfer.serve_zmq import TreeServer
from filesync.transfer.sync_zmq import (
    OnProgress,
    Options,
    SyncStats,
    parse,
    sync_local,
    sync_remote,
)


def default_caches() -> Path:
    """Return where stat caches are kept: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "filesync"


@click.command(
    epilog="""
\b
Examples:
  filesync sync src/ backup/                        what is in src
  filesync sync src backup/                         src itself: backup/src
  filesync sync --delete -n src/ backup/            what would change
  filesync sync tcp://127.0.0.1:7701/site/ site/    from a `filesync serve`
  filesync sync --exclude '**/*.o' src/ tcp://127.0.0.1:7701/src/

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""
)
@click.argument("source", metavar="SRC")
@click.argument("dest", metavar="DST")
@click.option("--delete", is_flag=True, help="Remove what SRC does not have.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; list what would change.")
@click.option(
    "--exclude",
    "excludes",
    multiple=True,
    metavar="PATTERN",
    help="Leave out, and alone, what matches (as in .dockerignore). Repeatable.",
)
@click.option("--stats", "show_stats", is_flag=True, help="Say what it took.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress.  [default: on a terminal, after a second]",
)
@click.option("--json", "as_json", is_flag=True, help="Say what it took, as JSON.")
def sync(
    source: str,
    dest: str,
    delete: bool,
    dry_run: bool,
    excludes: Sequence[str],
    show_stats: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Make DST hold what SRC has, moving only what DST lacks.

    SRC and DST are local paths; one of them may be tcp://host:port/path, below what a
    `filesync serve` serves. A SRC that ends in '/' stands for what is in the directory. What
    is copied is verified by digest. Other names in DST stay, unless --delete is given.
    """
    options = Options(delete, dry_run, tuple(excludes), default_caches())
    ends = parse(source), parse(dest)
    with _shown_progress(progress) as on_progress:
        if isinstance(ends[0], bytes) and isinstance(ends[1], bytes):
            # Not in a thread: an interrupt is to end it at once.
            stats = sync_local(ends[0], ends[1], options)
        else:
            stats = asyncio.run(sync_remote(*ends, options, progress=on_progress))
    if as_json:
        click.echo(json.dumps(asdict(stats)))
        return
    for line in stats.changes:
        click.echo(line)
    if show_stats:
        click.echo(_sentence(stats))


def _sentence(stats: SyncStats) -> str:
    return (
        f"{stats.files} files, {stats.content_bytes:,} bytes moved, {stats.copied_bytes:,} bytes "
        f"taken from old files, {stats.wire_in:,} received, {stats.wire_out:,} sent, "
        f"{stats.seconds:.2f} s"
    )


@contextmanager
def _shown_progress(wanted: bool | None) -> Iterator[OnProgress]:
    console = Console(stderr=True)
    if not (console.is_terminal if wanted is None else wanted):
        yield lambda _: None
        return
    bar = Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("", total=None)
    # What is over within a second needs no bar, unless it was asked for.
    show_at_s = monotonic() + (0.0 if wanted else 1.0)

    def show(progress: Progress) -> None:
        if monotonic() >= show_at_s:
            bar.start()
        files = f"{progress.files} files"
        bar.update(task, completed=progress.content_bytes, description=files)

    try:
        yield show
    finally:
        bar.stop()


@click.command(
    epilog="""
\b
Examples:
  filesync serve /srv/trees
  filesync serve /srv/trees --read-only --listen tcp://127.0.0.1:7701
"""
)
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--listen",
    default="tcp://127.0.0.1:7701",
    show_default=True,
    metavar="ADDR",
    help="Where to listen; port 0 is any free one.",
)
@click.option("--read-only", is_flag=True, help="Let nobody write.")
@click.option(
    "--allow-insecure",
    is_flag=True,
    help="Listen where other machines can connect, though traffic is neither encrypted nor "
    "authenticated.",
)
@click.option("--until-eof", is_flag=True, hidden=True)
def serve(
    root: Path, listen: str, read_only: bool, allow_insecure: bool, until_eof: bool
) -> None:
    """Let `filesync sync` take trees from below ROOT, and give trees to it.

    Nothing outside of ROOT can be reached, through links neither. The address is the first line
    printed. Stop it with Ctrl-C.
    """
    asyncio.run(_serve(root, listen, read_only, allow_insecure, until_eof))


async def _serve(
    root: Path, listen: str, read_only: bool, allow_insecure: bool, until_eof: bool
) -> None:
    server = TreeServer(root, read_only=read_only, caches=default_caches())
    async with DataPlane(listen, answer=server.answer, allow_insecure=allow_insecure) as plane:
        server.use(plane)
        click.echo(plane.address)
        sys.stdout.flush()
        await wait_for_end(until_eof=until_eof)
