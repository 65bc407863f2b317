"""The socket of a data plane that others dial."""

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple

import zmq
import zmq.asyncio

from filesync.errors import (
    FilesyncError,
    LocalError,
    PeerError,
    Unavailable,
    UnexpectedMessage,
    UsageError,
)
from filesync.transfer.connection.address import with_key
from filesync.transfer.connection.channel_zmq import (
    PING_S,
    QUEUED_MESSAGES,
    Channel,
    bound,
    received,
    send_nowait,
    wire_bytes_of,
)
from filesync.transfer.connection.curve_zmq import Gate, key_of
from filesync.transfer.connection.guard import Limits
from filesync.transfer.connection.guard_zmq import SocketGuard, came_by
from filesync.transfer.connection.link_zmq import Handle
from filesync.transfer.connection.unix import privately
from filesync.transfer.errors import NotLetIn, VersionMismatch
from filesync.transfer.stats import Counters
from filesync.transfer.wire import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    VERSION,
    Hello,
    Message,
    Ping,
    Refuse,
    decode,
    encode,
)

if TYPE_CHECKING:
    from filesync.keys.files import Allows, KeyPair, PublicKey

log = logging.getLogger(__name__)

MAX_CHANNELS: Final = 1024
_MESSAGE_BYTES: Final = MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES + (64 << 10)
LIMITS: Final = Limits(
    connections=MAX_CHANNELS + 256,
    greeting_bytes=4 << 10,
    message_bytes=_MESSAGE_BYTES,
    # Those in the queue, one that does not fit, and one that is being read.
    queued_bytes=(QUEUED_MESSAGES + 2) * _MESSAGE_BYTES,
)


class _Peer(NamedTuple):
    """Who has greeted: where it came in, and where keys are used, with which.

    Attributes:
        user: the key as ZeroMQ has it at each message.
    """

    channel: Channel
    fd: int
    key: "PublicKey | None"
    user: object


class Listener:
    """The one ROUTER that others dial.

    Args:
        context: owned by the caller, as all that follows.
        address: where to listen.
        handle: is given each message.
        counters: of what comes and goes.
        own: what this process proves itself with where keys are used.
        allows: who is let in, by their keys, which takes ``own``; None lets in everyone.

    Attributes:
        address: where others can dial it; with its key, if they need it.
        guard: cuts connections that take too much, until this is closed.

    Raises:
        UsageError: it is no address to listen on, or the port is taken.
    """

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: str,
        handle: Handle,
        counters: Counters,
        *,
        own: "KeyPair | None",
        allows: "Allows | None",
    ) -> None:
        self._handle = handle
        self._counters = counters
        self._peers: dict[bytes, _Peer] = {}
        self._gate: Gate | None = None
        self.guard = SocketGuard(LIMITS, asyncio.get_running_loop())
        try:
            if allows is not None:
                if own is None:
                    raise LocalError("who listens with keys needs one")
                self._gate = Gate(context, own, allows)
            self._socket = self._listening(context, address)
        except BaseException:
            self._stop_guarding()
            raise
        endpoint = str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self.address = (
            endpoint if allows is None or own is None else with_key(endpoint, own.public)
        )

    def _listening(self, context: zmq.asyncio.Context, address: str) -> zmq.asyncio.Socket:
        """Return the socket, guarded and bound."""
        made: zmq.asyncio.Socket = context.socket(zmq.ROUTER)
        bound(made, address)
        made.setsockopt(zmq.BACKLOG, LIMITS.connections)
        # Without it a message to a peer that is gone or slow is dropped and nobody is told.
        made.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if self._gate is not None:
            self._gate.guard(made)
        self.guard.start(made)
        try:
            with privately(address):
                made.bind(address)
        except UsageError:
            made.close()
            raise
        except zmq.ZMQError as exc:
            made.close()
            # Its own ``strerror`` has the address once more.
            why = zmq.strerror(exc.errno or 0)
            other = "; choose another port, 0 for any" if exc.errno == zmq.EADDRINUSE else ""
            raise UsageError(f"cannot listen on {address}: {why}{other}") from exc
        return made

    async def run(self) -> None:
        """Take messages until cancelled."""
        async with aclosing(received(self._socket)) as messages:
            async for frames in messages:
                identity, *rest = (frame.buffer for frame in frames)
                size = wire_bytes_of(map(len, rest), is_encrypted=self._gate is not None)
                fd = came_by(frames[-1])
                self.guard.delivered(fd, size)
                self._take(bytes(identity), rest, frames[-1], fd)

    async def ping(self) -> None:
        """Find out which peers are gone, or are not let in any more, until cancelled.

        Who has dialled says a ping back, and pings by itself: the guard ends connections on which nothing comes.
        """
        while True:
            await asyncio.sleep(PING_S)
            for identity, (channel, fd, key, _) in list(self._peers.items()):
                if self._gate is None or key is None or self._gate.is_still_open(key):
                    channel.send_nowait(Ping())
                else:
                    self._drop(
                        identity, fd, NotLetIn("this machine's key is not allowed any more")
                    )
                if channel.lost is not None:
                    del self._peers[identity]

    def close(self, error: FilesyncError) -> None:
        """End all connections with ``error``."""
        for peer in self._peers.values():
            peer.channel.lose(error)
        self._socket.close(linger=200)
        self._stop_guarding()

    def _stop_guarding(self) -> None:
        if self._gate is not None:
            self._gate.stop()
        self.guard.close()

    def _take(
        self, identity: bytes, frames: list[memoryview], last: zmq.Frame, fd: int
    ) -> None:
        peer = self._peers.get(identity)
        if peer is not None and (peer.fd != fd or peer.user != self._user_of(last)):
            # Peers may choose their identities, and this one has taken that of one who is gone.
            del self._peers[identity]
            peer.channel.lose(Unavailable("the peer is gone"))
            peer = None
        channel = None if peer is None else peer.channel
        try:
            message, payload = decode(frames)
            if channel is None:
                self._greet(identity, message, last, fd)
                return
            channel.note_received(message, payload, wire_bytes=sum(map(len, frames)))
            self._handle(channel, message, payload)
        except PeerError as exc:
            self._drop(identity, fd, exc)
        if channel is not None and channel.lost is not None:
            self._peers.pop(identity, None)

    def _drop(self, identity: bytes, fd: int, error: FilesyncError) -> None:
        """Tell a peer why, and let its connection be cut."""
        peer = self._peers.get(identity)
        # One who never greeted could fill the log.
        level = logging.DEBUG if peer is None else logging.WARNING
        log.log(level, "peer dropped: peer=%s reason=%s", identity.hex(), error)
        if self._refuse(identity, error):
            self.guard.refused(fd)
        if peer is not None:
            peer.channel.lose(error)

    def _user_of(self, frame: zmq.Frame) -> object:
        return None if self._gate is None else frame.get("User-Id")

    def _greet(self, identity: bytes, message: Message, last: zmq.Frame, fd: int) -> None:
        """Take a peer's first message; nothing is remembered of one that is not ``Hello``."""
        if not isinstance(message, Hello):
            raise UnexpectedMessage(f"{type(message).__name__} came before Hello")
        if message.version != VERSION:
            self._refuse(identity, VersionMismatch(f"this side speaks version {VERSION}"))
        elif len(self._peers) >= MAX_CHANNELS:
            self._refuse(identity, Unavailable("this side has too many connections"))
        else:
            channel = Channel(
                self._socket, (identity,), self._counters, name=f"in:{identity.hex()}"
            )
            channel.moved = lambda: self.guard.moved(fd)
            channel.send_nowait(Hello(VERSION))
            # Lost already, what is at this descriptor now is another connection.
            if channel.lost is None:
                key = key_of(last) if self._gate else None
                self._peers[identity] = _Peer(channel, fd, key, self._user_of(last))
                self.guard.greeted(fd)

    def _refuse(self, identity: bytes, error: FilesyncError) -> bool:
        """Tell a peer why it is refused; False if it is gone."""
        refusal = encode(Refuse(0, error.code, str(error)[:1000]))
        try:
            send_nowait(self._socket, [identity, *refusal])
        except zmq.Again:
            return True
        except zmq.ZMQError:
            log.debug("refusal not sent: peer=%s", identity.hex())
            return False
        return True
