"""The commands for clusters: up, workers."""

import asyncio
from pathlib import Path

import click
from rich.table import Column, Table

from filesync.errors import UsageError
from filesync.keys.options import key_option
from filesync.process.lifetime import wait_for_end
from filesync.transfer.connection.address import check_address, is_here, without_key
from solver.client.asking import ask_manager
from solver.client.embedded import default_state, embedded_cluster
from solver.client.occupant import occupied, shared
from solver.commands.options import manager_option
from solver.commands.tables import print_tables
from solver.wire import ListWorkers, Workers


@click.command(
    short_help="Run a manager and some workers on this machine.",
    epilog="""
\b
Examples:
  filesync up
  filesync up --workers 4
\b
Then, in another terminal:
  filesync build -t app:1 -o type=oci,dest=app.tar .
\b
For other users, whom it trusts with all that it may do:
  filesync up --listen tcp://127.0.0.1:7700 --state /var/lib/filesync
  FILESYNC_MANAGER=tcp://127.0.0.1:7700 filesync build .    as each of them
""",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="How many."
)
@click.option(
    "--listen",
    metavar="ADDR",
    help="Where the manager listens: tcp://127.0.0.1:PORT, 0 for any free one, is reached by all users of this "
    "machine, and by steps.  [default: a socket that only you can reach]",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Where to keep state.  [default: the embedded cluster's]",
)
def up(workers: int, listen: str | None, state: Path | None) -> None:
    """Run a manager and some workers on this machine, until Ctrl-C.

    Meanwhile your builds, and all commands that take --manager, use it where they are not given
    another: they start nothing, and run side by side. What is built is kept, for builds after it too.

    The manager's address is the first line it prints. With --state it has to be given, as
    --manager or FILESYNC_MANAGER.
    """

    async def run(address: str) -> None:
        ending = asyncio.create_task(wait_for_end())
        await asyncio.sleep(0)  # so that Ctrl-C works from the first line on
        click.echo(address)
        said = f"export FILESYNC_MANAGER={address}" if state else "your builds use it"
        click.echo(f"{said}   # Ctrl-C stops all", err=True)
        await ending

    if listen is not None and not is_here(check_address(listen)):
        raise UsageError(
            f"--listen {listen}: `filesync up` is reached from this machine only; for others run "
            "`filesync manager --listen ADDR --allow FILE --state DIR`, and `filesync worker`"
        )
    where = state if state is not None else default_state()
    with occupied(where) as used:
        if used is not None:
            raise UsageError(
                f"`filesync up` runs already: builds use it; its manager is {used}"
            )
        with (
            embedded_cluster(where, workers=workers, listen=listen) as address,
            shared(where, address),
        ):
            asyncio.run(run(address))


@click.command(
    epilog="""
\b
Examples:
  filesync workers
  filesync workers --manager tcp://127.0.0.1:7700
"""
)
@manager_option
@key_option
def workers(manager: str | None, key: Path | None) -> None:
    """List the workers that are connected to a manager."""
    rows = ask_manager(manager, key, ListWorkers(), Workers).rows
    heads = ("worker", "address", "slots", "running", "results", "snapshots", "labels")
    table = Table(*(Column(head, overflow="fold") for head in heads))
    for row in rows:
        labels = " ".join(f"{key}={value}" for key, value in sorted(row.labels.items()))
        counts = (str(row.slots), str(row.running), str(row.refs))
        table.add_row(row.name, without_key(row.address), *counts, row.snapshotter, labels)
    print_tables([table])
