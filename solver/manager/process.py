"""The manager as a process: its state directory, its socket, its end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import zmq
import zmq.asyncio

from filesync.disk.statedir import open_state
from filesync.errors import UsageError
from filesync.manifest.store import SqliteNodes
from filesync.transfer.address import check_listen_address
from solver.manager.cluster import Cluster
from solver.manager.records import Records
from solver.manager.server_zmq import Server
from solver.manager.shared import Shared
from worker.wire import orders

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 4096


async def run_manager(
    listen: str,
    state: Path,
    *,
    allow_insecure: bool = False,
    ready: Callable[[str], None],
    stopped: Callable[[], Awaitable[None]],
) -> None:
    """Serve on ``listen`` with the state in ``state`` until ``stopped()`` returns.

    ``ready`` is told the bound address.

    Raises:
        UsageError: the address cannot be bound; another manager has the directory.
        StoreError: the directory cannot be used.
    """
    check_listen_address(listen, allow_insecure=allow_insecure)
    with open_state(state, kind="manager"):
        nodes = SqliteNodes(state / "nodes.db")
        records = Records(state / "records.db")
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.ROUTER)
        try:
            address = _bind(socket, listen)
            server = Server(Shared(Cluster(), records, nodes), socket)
            serving = asyncio.create_task(server.run())
            ready(address)
            log.info("manager ready address=%s", address)
            waiting = asyncio.ensure_future(stopped())
            await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if serving.done():
                serving.result()
            serving.cancel()
            await asyncio.gather(serving, waiting, return_exceptions=True)
        finally:
            socket.close(linger=500)
            context.term()
            records.close()
            nodes.close()


def _bind(socket: zmq.asyncio.Socket, listen: str) -> str:
    socket.setsockopt(zmq.MAXMSGSIZE, orders.MAX_PAYLOAD_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.BACKLOG, MAX_CONNECTIONS)
    try:
        socket.bind(listen)
    except zmq.ZMQError as exc:
        raise UsageError(
            f"cannot listen on {listen}: {exc.strerror or exc}; is a manager running there? "
            "Give another --listen, or port 0 for any free one"
        ) from exc
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
