"""Commands about cached results: transfer-cache."""

from pathlib import Path

import click

from filesync.keys.files import key_for
from filesync.keys.options import key_option
from filesync.process.lifetime import run_command
from solver.client.aside import Aside
from solver.client.embedded import given_or_built_here
from solver.client.progress import make_progress
from solver.client.transfers import run_transfer, transfer_order
from solver.commands.options import manager_option, progress_option


@click.command(
    "transfer-cache",
    epilog="""
\b
Examples:
  filesync build --explain .                                 # ends with the key of each step
  filesync transfer-cache -n 3f2a91c07b5d4e18 w1 w2          # what would move
  filesync transfer-cache 3f2a91c07b5d4e18 w1 w2
  filesync workers                                           # the workers' names
""",
)
@click.argument("cache_key", metavar="KEY")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("-n", "--dry-run", is_flag=True, help="Move nothing; print the bytes that would.")
@progress_option
@manager_option
@key_option
def transfer_cache(
    cache_key: str,
    source: str,
    target: str,
    dry_run: bool,
    progress: str,
    manager: str | None,
    key: Path | None,
) -> None:
    """Move a cached result from worker FROM to worker TO.

    KEY is a step's cache key in hex, or enough of its beginning. The layers that TO lacks go there
    straight from FROM; afterwards TO has the result as if it had built it.
    """
    order = transfer_order(cache_key, source, target, dry_run=dry_run)
    with given_or_built_here(manager) as address:
        told = Aside(make_progress(progress))
        click.echo(run_command(run_transfer(order, address, key_for(address, key), told)))
