"""The sockets of a data plane: one that listens, and one for each process that is dialled."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from filesync.errors import FilesyncError, PeerError, Unavailable, UnexpectedMessage, UsageError
from filesync.transfer.channel_zmq import Channel, bound, send_nowait
from filesync.transfer.errors import Refused, VersionMismatch
from filesync.transfer.stats import Counters
from filesync.transfer.wire import (
    VERSION,
    Buffer,
    Hello,
    Message,
    Ping,
    Refuse,
    decode,
    encode,
)

log = logging.getLogger(__name__)

MAX_CHANNELS: Final = 1024
PING_S: Final = 5.0

Handle = Callable[[Channel, Message, Buffer], None]
"""What a data plane does with a message; raises PeerError to be rid of the peer."""


class Listener:
    """The one ROUTER that others dial."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, handle: Handle, counters: Counters
    ) -> None:
        self._handle = handle
        self._counters = counters
        self._channels: dict[bytes, Channel] = {}
        self._socket: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
        bound(self._socket, address)
        # Without it a message to a peer that is gone or slow is dropped and nobody is told.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as exc:
            self._socket.close()
            raise UsageError(f"cannot listen on {address}: {exc.strerror}") from exc
        self.address = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    async def run(self) -> None:
        """Take messages until cancelled."""
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            identity, *rest = (frame.buffer for frame in frames)
            self._take(bytes(identity), rest)

    async def ping(self) -> None:
        """Find out which peers are gone, until cancelled."""
        while True:
            await asyncio.sleep(PING_S)
            for identity, channel in list(self._channels.items()):
                channel.send_nowait(Ping())
                if channel.lost is not None:
                    del self._channels[identity]

    def close(self, error: FilesyncError) -> None:
        """End all connections with ``error``."""
        for channel in self._channels.values():
            channel.lose(error)
        self._socket.close(linger=200)

    def _take(self, identity: bytes, frames: list[memoryview]) -> None:
        channel = self._channels.get(identity)
        try:
            message, payload = decode(frames)
            if channel is None:
                self._greet(identity, message)
                return
            channel.note_received(message, payload, wire_bytes=sum(map(len, frames)))
            self._handle(channel, message, payload)
        except PeerError as exc:
            log.warning("peer dropped: peer=%s reason=%s", identity.hex(), exc)
            self._refuse(identity, exc)
            if channel is not None:
                channel.lose(exc)
        if channel is not None and channel.lost is not None:
            self._channels.pop(identity, None)

    def _greet(self, identity: bytes, message: Message) -> None:
        """Take a peer's first message; nothing is remembered of one that is not ``Hello``."""
        if not isinstance(message, Hello):
            raise UnexpectedMessage(f"{type(message).__name__} came before Hello")
        if message.version != VERSION:
            self._refuse(identity, VersionMismatch(f"this side speaks version {VERSION}"))
        elif len(self._channels) >= MAX_CHANNELS:
            self._refuse(identity, Unavailable("this side has too many connections"))
        else:
            channel = Channel(
                self._socket, (identity,), self._counters, name=f"in:{identity.hex()}"
            )
            self._channels[identity] = channel
            channel.send_nowait(Hello(VERSION))

    def _refuse(self, identity: bytes, error: FilesyncError) -> None:
        refusal = encode(Refuse(0, error.code, str(error)[:1000]))
        try:
            send_nowait(self._socket, [identity, *refusal])
        except zmq.ZMQError:
            log.debug("refusal not sent: peer=%s", identity.hex())


class Link:
    """A DEALER to one process."""

    def __init__(
        self, context: zmq.asyncio.Context, address: str, handle: Handle, counters: Counters
    ) -> None:
        self._handle = handle
        self._address = address
        self._socket: zmq.asyncio.Socket = context.socket(zmq.DEALER)
        bound(self._socket, address)
        self._monitor: zmq.asyncio.Socket = self._socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CLOSED
        )
        self.channel = Channel(self._socket, (), counters, name=address)
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = asyncio.Event()
        self.channel.on_lost.append(self._on_lost)
        self._socket.connect(address)
        self.channel.send_nowait(Hello(VERSION))

    async def greeted(self, deadline: float) -> Channel:
        """Return the channel, once the peer has answered; ``run`` must be running.

        Raises:
            Unavailable: nobody does, by ``deadline`` of the loop's clock.
        """
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(self._greeted)
        except TimeoutError:
            self.channel.lose(Unavailable(f"{self._address} does not answer"))
        if self.channel.lost is not None:
            raise self.channel.lost
        return self.channel

    async def run(self) -> None:
        """Take messages until the connection is lost or this is cancelled; then close it."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._receive(), self._watch(), self._wait_lost())
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
                self._close()

    async def _receive(self) -> None:
        while self.channel.lost is None:
            frames = await self._socket.recv_multipart(copy=False)
            try:
                self._take([frame.buffer for frame in frames])
            except PeerError as exc:
                log.warning("peer dropped: peer=%s reason=%s", self._address, exc)
                self.channel.send_nowait(Refuse(0, exc.code, str(exc)[:1000]))
                self.channel.lose(exc)

    async def _watch(self) -> None:
        """Notice when the connection is refused or breaks; ZeroMQ itself would try again."""
        while self.channel.lost is None:
            event = await recv_monitor_message(self._monitor)
            if event["event"] == zmq.EVENT_DISCONNECTED:
                self.channel.lose(Unavailable(f"{self._address} closed the connection"))
            else:
                self.channel.lose(Unavailable(f"{self._address} does not accept connections"))

    async def _wait_lost(self) -> None:
        await self._lost.wait()

    def _close(self) -> None:
        self.channel.lose(Unavailable(f"the connection to {self._address} is closed"))
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
            case Hello(version):
                self.channel.lose(VersionMismatch(f"{self._address} speaks version {version}"))
            case Refuse(0, code, detail):
                self.channel.lose(Refused(code, detail))
            case _:
                self._handle(self.channel, message, payload)

    def _on_lost(self, _: FilesyncError) -> None:
        self._lost.set()
        if not self._greeted.done():
            self._greeted.set_result(None)
