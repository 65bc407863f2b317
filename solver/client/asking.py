"""One question to a manager, from a command that does no more."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import click

from filesync.keys.files import key_for
from filesync.lifetime import run_command
from solver.client.embedded import cluster_built_here
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

    async def run() -> T:
        async with AsyncExitStack() as stack:
            address = manager
            if address is None:
                address = await stack.enter_async_context(cluster_built_here())
            own = key_for(address, key)
            link = await stack.enter_async_context(ManagerLink(address, own, _tell))
            return await link.ask(question, kind)

    return run_command(run())


def _tell(text: str) -> None:
    click.echo(text, err=True)
