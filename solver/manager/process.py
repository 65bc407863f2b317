"""The manager as a process: its state directory, its socket, its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import zmq
import zmq.asyncio

from filesync.disk.statedir import open_state
from filesync.errors import UsageError
from filesync.keys.files import AllowFile, KeyPair
from filesync.manifest.store import SqliteNodes
from filesync.transfer.connection.address import check_listen_address, with_key
from filesync.transfer.connection.curve_zmq import Gate
from filesync.transfer.connection.guard import Limits
from filesync.transfer.connection.guard_zmq import SocketGuard
from filesync.transfer.connection.unix import privately
from solver.manager.cluster import Cluster
from solver.manager.records import Records
from solver.manager.results.replicas import Replicas
from solver.manager.server_zmq import Server
from solver.manager.shared import Shared
from worker.wire import framing

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 4096
QUEUED_MESSAGES: Final = 32
"""Messages of one peer that wait in ZeroMQ."""
LIMITS: Final = Limits(
    connections=MAX_CONNECTIONS,
    greeting_bytes=framing.MAX_HEADER_BYTES + (64 << 10),
    message_bytes=framing.MAX_HEADER_BYTES + framing.MAX_PAYLOAD_BYTES + (64 << 10),
    queued_bytes=256 << 20,
)


class Manager(msgspec.Struct, frozen=True):
    """A manager that serves.

    Attributes:
        address: where workers and clients dial it.
        replicas: what can be done with the results on its workers.
        serving: ends only if it fails.
    """

    address: str
    replicas: Replicas
    serving: "asyncio.Task[None]"


@asynccontextmanager
async def open_manager(
    listen: str,
    state: Path,
    *,
    own: KeyPair | None = None,
    allowed: AllowFile | None = None,
    allow_insecure: bool = False,
) -> AsyncIterator[Manager]:
    """Serve on ``listen`` with the state in ``state`` while the block runs.

    With ``allowed`` only those connect whose keys it has, to this manager, which proves itself
    with ``own``, and to the workers.

    Raises:
        UsageError: the address cannot be bound; another manager has the directory.
        StoreError: the directory cannot be used.
    """
    check_listen_address(listen, allow_insecure=allow_insecure, has_keys=allowed is not None)
    with open_state(state, kind="manager"):
        nodes = SqliteNodes(state / "nodes.db")
        records = Records(state / "records.db")
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.ROUTER)
        guard = SocketGuard(LIMITS, asyncio.get_running_loop())
        server = Server(Shared(Cluster(), records, nodes), nodes, socket, guard, allowed)
        gate = Gate(context, own, server.lets_in) if own is not None else None
        try:
            if gate is not None:
                gate.guard(socket)
            address = _bind(socket, listen, guard)
            if own is not None:
                address = with_key(address, own.public)
            serving = asyncio.create_task(server.run())
            log.info("manager ready address=%s", address)
            try:
                yield Manager(address, server.replicas, serving)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
        finally:
            socket.close(linger=500)
            if gate is not None:
                gate.stop()
            guard.close()
            context.term()
            records.close()
            nodes.close()


async def run_manager(
    listen: str,
    state: Path,
    *,
    own: KeyPair | None,
    allowed: AllowFile | None,
    allow_insecure: bool,
    ready: Callable[[str], None],
    stopped: Callable[[], Awaitable[None]],
) -> None:
    """Serve as ``open_manager`` does until ``stopped()`` returns.

    ``ready`` is told the bound address.

    Raises:
        UsageError, StoreError: as ``open_manager``.
    """
    async with open_manager(
        listen, state, own=own, allowed=allowed, allow_insecure=allow_insecure
    ) as manager:
        ready(manager.address)
        waiting = asyncio.ensure_future(stopped())
        await asyncio.wait({manager.serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if manager.serving.done():
            manager.serving.result()


def _bind(socket: zmq.asyncio.Socket, listen: str, guard: SocketGuard) -> str:
    socket.rcvhwm = QUEUED_MESSAGES
    socket.setsockopt(zmq.MAXMSGSIZE, framing.MAX_PAYLOAD_BYTES)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.BACKLOG, MAX_CONNECTIONS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    guard.start(socket)
    try:
        with privately(listen):
            socket.bind(listen)
    except zmq.ZMQError as exc:
        raise UsageError(
            f"cannot listen on {listen}: {exc.strerror or exc}; is a manager running there? "
            "Give another --listen; port 0 is any free one"
        ) from exc
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
