"""The manager command."""

import asyncio
from pathlib import Path
from typing import Final

import click

from filesync.keys.options import listen_keys, listen_options
from filesync.process.lifetime import wait_for_end
from filesync.process.memory import share_arenas
from filesync.transfer.connection.unix import own_socket
from solver.manager.process import run_manager

LOOPBACK: Final = "tcp://127.0.0.1:7700"


@click.command(
    epilog="""
\b
Examples:
  filesync manager --state /var/lib/filesync/manager      for you alone, on this machine
  filesync manager --listen tcp://192.0.2.1:7700 --allow /etc/filesync/allow \\
      --state /var/lib/filesync/manager
"""
)
@click.option(
    "--listen",
    metavar="ADDR",
    help="Where clients and workers find it: tcp://HOST:PORT, 0 for any free one, or ipc://PATH. Without --allow "
    "all users of this machine, and steps, reach tcp://127.0.0.1.  [default: a socket in --state that "
    f"only you can open; with --allow {LOOPBACK}]",
)
@click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where it keeps the manifests that it knows.",
)
@listen_options
@click.option("--until-eof", is_flag=True, hidden=True)
def manager(
    listen: str | None,
    state: Path,
    key: Path | None,
    allow: Path | None,
    allow_insecure: bool,
    until_eof: bool,
) -> None:
    """Run a manager: it plans builds and knows who holds what.

    Its address is the first line it prints. Whoever it lets in can run commands on its workers;
    with --allow those are who has one of the keys, and the workers let in the same. Stop it with
    Ctrl-C; what workers have built is theirs, and a new manager learns it from them. As
    `filesync -v manager` it says which workers come and go.
    """
    own, allowed = listen_keys(key, allow)
    share_arenas()  # before there are threads
    asyncio.run(
        run_manager(
            listen or (own_socket(state) if allow is None else LOOPBACK),
            state,
            own=own,
            allowed=allowed,
            allow_insecure=allow_insecure,
            ready=click.echo,
            stopped=lambda: wait_for_end(until_eof=until_eof),
        )
    )
