"""The sockets of a data plane that dial, one for each process that is dialled."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET
from typing import TYPE_CHECKING

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from filesync.errors import FilesyncError, PeerError, Unavailable, UsageError
from filesync.transfer.connection.address import name_in, parse_address
from filesync.transfer.connection.channel_zmq import (
    HANDSHAKE_EVENTS,
    PING_S,
    Channel,
    bound,
    wire_bytes_of,
)
from filesync.transfer.errors import Refused, UnknownHost, VersionMismatch
from filesync.transfer.stats import Counters, Moved
from filesync.transfer.wire import VERSION, Buffer, Hello, Message, Ping, Refuse, decode

if TYPE_CHECKING:
    from filesync.keys.files import KeyPair
    from filesync.transfer.connection.guard_zmq import SocketGuard

log = logging.getLogger(__name__)

Handle = Callable[[Channel, Message, Buffer], None]
"""What a data plane does with a message; raises PeerError to be rid of the peer."""


class Link:
    """A DEALER to one process.

    Args:
        context: owned by the caller, as all that follows.
        address: whom to dial.
        handle: is given each message.
        counters: of what comes and goes.
        own: what this process proves itself with where the address takes a key.

    Raises:
        UsageError: it is no address.
        NotLetIn: it takes a key, and there is none.
        Unavailable: this process has no room for another connection.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        handle: Handle,
        counters: Counters,
        *,
        own: "KeyPair | None",
    ) -> None:
        self._handle = handle
        self._address = address
        self._guard: SocketGuard | None = None
        self._own = own
        self._fd = -1
        self._brought = 0
        try:
            self._socket, self._monitor = _sockets(context, address)
        except zmq.ZMQError as exc:
            raise Unavailable(f"cannot connect to {address}: {exc.strerror}") from exc
        self.channel = Channel(self._socket, (), counters, name=address)
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.channel.greeting = self._greeted
        self._lost = asyncio.Event()
        self.channel.on_lost.append(self._on_lost)
        try:
            self._dial()
        except FilesyncError as exc:
            self.channel.lose(exc)
            self.close()
            raise
        self.channel.send_nowait(Hello(VERSION))

    def watch(self, guard: "SocketGuard") -> None:
        """Have ``guard`` cut the connection if it takes too much, from now on."""
        if self.channel.lost is None:
            self._guard = guard
            if self.channel.moved is Moved:  # nobody knows it yet
                self.channel.moved = lambda: guard.moved(self._fd)
            self._tell_guard(guard)

    def _tell_guard(self, guard: "SocketGuard") -> None:
        if self._fd == -1:
            return
        guard.opened(self._fd)
        if self._greeted.done():
            guard.greeted(self._fd)
        guard.delivered(self._fd, self._brought)

    async def greeted(self, deadline: float) -> Channel:
        """Return the channel, once the peer has answered; ``run`` must be running.

        Raises:
            Unavailable: nobody does, by ``deadline`` of the loop's clock.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._greeted)
        self.expire()
        if self.channel.lost is not None:
            raise self.channel.lost
        return self.channel

    def expire(self) -> None:
        """Give the peer up if it has not answered."""
        if not self._greeted.done():
            self.channel.lose(Unavailable(f"{self._address} does not answer"))

    def _dial(self) -> None:
        try:
            if "@" not in self._address:
                self._socket.connect(parse_address(self._address).endpoint)
                return
            from filesync.transfer.connection.curve_zmq import dial

            dial(self._socket, self._address, self._own)
        except zmq.ZMQError as exc:
            raise UsageError(f"cannot connect to {self._address}: {exc.strerror}") from exc

    async def run(self) -> None:
        """Take messages until the connection is lost or this is cancelled; then close it."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._receive(), self._watch(), self._wait_lost(), self._ping())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                # Cancelled a second time it must still be closed, or the context never ends.
                self.close()

    async def _receive(self) -> None:
        while self.channel.lost is None:
            frames = await self._socket.recv_multipart(copy=False)
            buffers = [frame.buffer for frame in frames]
            size = wire_bytes_of(map(len, buffers), is_encrypted="@" in self._address)
            self._brought += size
            if self._guard is not None:
                self._guard.delivered(self._fd, size)
            try:
                self._take(buffers)
            except PeerError as exc:
                log.warning("peer dropped: peer=%s reason=%s", self._address, exc)
                self.channel.send_nowait(Refuse(0, exc.code, str(exc)[:1000]))
                self.channel.lose(exc)

    async def _watch(self) -> None:
        """Notice when the connection is refused or breaks; ZeroMQ itself would try again."""
        while self.channel.lost is None:
            event = await recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_CONNECTED:
                self._fd = event["value"]
                if self._guard is not None:
                    self._tell_guard(self._guard)
            elif event["event"] & HANDSHAKE_EVENTS:
                self._lose_handshake(event["event"])
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self.channel.lose(Unavailable(f"{self._address} closed the connection"))
            else:
                self.channel.lose(await self._unreachable())

    async def _unreachable(self) -> Unavailable:
        """Return why nobody has taken the connection."""
        unknown = await unknown_host(self._address)
        return unknown or Unavailable(f"{self._address} does not accept connections")

    def _lose_handshake(self, event: int) -> None:
        from filesync.transfer.connection.curve_zmq import handshake_failure

        self.channel.lose(handshake_failure(event, self._address, self._own))

    async def _ping(self) -> None:
        """Say something even where what the peer says, and this side would answer, is long on its way."""
        await asyncio.shield(self._greeted)
        while True:
            await asyncio.sleep(PING_S)
            self.channel.send_nowait(Ping())

    async def _wait_lost(self) -> None:
        await self._lost.wait()

    def close(self) -> None:
        """Close the connection, where ``run`` was never begun. Idempotent."""
        if self._socket.closed:
            return
        self.channel.lose(Unavailable(f"the connection to {self._address} is closed"))
        if self._guard is not None:
            self._guard.closed(self._fd)
        # Its monitor first: libzmq writes to it while the socket is closed.
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=200)

    def _take(self, frames: list[memoryview]) -> None:
        message, payload = decode(frames)
        self.channel.note_received(message, payload, wire_bytes=sum(map(len, frames)))
        match message:
            case Hello(version) if version == VERSION:
                if not self._greeted.done():
                    self._greeted.set_result(None)
                    self.channel.greeting = None
                    if self._guard is not None:
                        self._guard.greeted(self._fd)
            case Hello(version):
                self.channel.lose(VersionMismatch(f"{self._address} speaks version {version}"))
            case Refuse(0, code, detail):
                self.channel.lose(Refused(code, detail))
            case Ping():
                # The other side's guard forgives heartbeats only to those who say something.
                self.channel.send_nowait(message)
            case _:
                self._handle(self.channel, message, payload)

    def _on_lost(self, _: FilesyncError) -> None:
        self._lost.set()
        if not self._greeted.done():
            self._greeted.set_result(None)


async def unknown_host(address: str) -> UnknownHost | None:
    """Return that nobody knows the name of a host in ``address``; None if it has none or it is known."""
    if (name := name_in(address)) is not None:
        try:
            await asyncio.get_running_loop().getaddrinfo(name, None, family=AF_INET)
        except OSError as exc:
            return UnknownHost(name, exc.strerror or str(exc))
    return None


def _sockets(
    context: zmq.asyncio.Context, address: str
) -> tuple[zmq.asyncio.Socket, zmq.asyncio.Socket]:
    """Return a DEALER that will dial ``address``, and the monitor that tells what becomes of it."""
    socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
    bound(socket, address)
    try:
        monitor: zmq.asyncio.Socket = socket.get_monitor_socket(
            zmq.EVENT_CONNECTED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_CONNECT_RETRIED
            | zmq.EVENT_CLOSED
            | HANDSHAKE_EVENTS
        )
    except zmq.ZMQError:
        socket.close()
        raise
    return socket, monitor
