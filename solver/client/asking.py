"""One question to a manager, from a command that does no more."""

from pathlib import Path
from typing import TypeVar

import click

from filesync.keys.files import key_for
from filesync.process.lifetime import run_command
from solver.client.embedded import given_or_built_here
from solver.client.link_zmq import ManagerLink
from solver.wire import FromClient, ToClient

T = TypeVar("T", bound=ToClient)


def ask_manager(
    manager: str | None, key: Path | None, question: FromClient, kind: type[T]
) -> T:
    """Return the answer of the manager at an address, or of the embedded cluster.

    Raises:
        UsageError: there is neither.
        FilesyncError: it does not answer.
    """

    async def run(address: str) -> T:
        async with ManagerLink(address, key_for(address, key), _tell) as link:
            return await link.ask(question, kind)

    with given_or_built_here(manager) as address:
        return run_command(run(address))


def _tell(text: str) -> None:
    click.echo(text, err=True)
