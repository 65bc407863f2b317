"""The commands about workers' disks: du, prune."""

import time
from collections.abc import Sequence
from pathlib import Path

import click

from filesync.errors import Unavailable
from filesync.keys.options import key_option
from solver.client.asking import ask_manager
from solver.client.pruning import prune_policy, prune_tables, usage_tables
from solver.commands.options import manager_option
from solver.commands.tables import print_tables
from solver.wire import AskPrune, AskUsage, Usages

_verbose_option = click.option("--verbose", is_flag=True, help="Show thing by thing too.")


@click.command(
    short_help="Show what takes how much disk on each worker.",
    epilog="""
\b
Examples:
  filesync du
  filesync du --verbose    # each result and blob, too
""",
)
@_verbose_option
@manager_option
@key_option
def du(manager: str | None, key: Path | None, verbose: bool) -> None:
    """Show what takes how much disk on each worker, and what of it could go."""
    usages = ask_manager(manager, key, AskUsage(verbose), Usages)
    print_tables(usage_tables(usages, now_s=time.time(), verbose=verbose))


@click.command(
    short_help="Remove what no build holds, least recently used first.",
    epilog="""
\b
Examples:
  filesync prune
  filesync prune --all --filter until=24h
  filesync prune --filter type=cache-mount
  filesync prune --keep-storage 20GB
""",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Cache mounts' directories too.")
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="FILTER",
    help="until=TIME keeps what was used within that time, such as 24h; type=KIND removes that "
    "kind alone: result, blob, partial-blob, idle-source or cache-mount, or docker's regular, "
    "source.local or exec.cachemount. May be repeated.",
)
@click.option(
    "--reserved-space",
    "--keep-storage",
    "reserved",
    metavar="SIZE",
    help="So much always stays on each worker: what was used last.",
)
@click.option(
    "--max-used-space",
    "max_used",
    metavar="SIZE",
    help="So much may stay on each worker.",
)
@click.option(
    "--min-free-space", "min_free", metavar="SIZE", help="So much of the disk should be free."
)
@click.option("-f", "--force", is_flag=True, help="Nothing is asked anyway.")
@_verbose_option
@manager_option
@key_option
def prune(
    manager: str | None,
    key: Path | None,
    everything: bool,
    filters: Sequence[str],
    reserved: str | None,
    max_used: str | None,
    min_free: str | None,
    force: bool,
    verbose: bool,
) -> None:
    """Remove what no build holds just now, least recently used first, and show how much that was.

    Without a bound or a filter that is all results. What a build holds stays, and so does the last
    copy of a blob whose result another worker has.
    """
    policy = prune_policy(
        filters, everything=everything, reserved=reserved, max_used=max_used, min_free=min_free
    )
    usages = ask_manager(manager, key, AskPrune(policy, verbose), Usages)
    print_tables(prune_tables(usages, now_s=time.time(), verbose=verbose))
    if usages.failed:
        raise Unavailable("not every worker has answered")
