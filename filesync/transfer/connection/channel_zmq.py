"""A connection to one other process, whichever of the two has dialled."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from traceback import clear_frames
from typing import Final, Protocol

import zmq
import zmq.asyncio

from filesync.errors import FilesyncError, Unavailable
from filesync.transfer.stats import Counters, Moved
from filesync.transfer.timeouts import LEAST_BYTES
from filesync.transfer.wire import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    Buffer,
    Deltas,
    Frame,
    FromReceiver,
    FromSender,
    Message,
    Reply,
    Request,
    encode,
)

log = logging.getLogger(__name__)

QUEUED_MESSAGES: Final = 6
"""Messages that wait in ZeroMQ for one peer to read: about that many MiB of memory."""
_TURN_MESSAGES: Final = 32
"""Messages that a listener takes before other tasks have their turn. ZeroMQ hands out what waits
without a look at the event loop: two hundred peers that sent without end kept it for minutes."""
PING_S: Final = 5.0
"""How often both sides say something, so that they are heard."""
STUCK_S: Final = 60.0
"""A peer that reads nothing for this long is given up."""
HANDSHAKE_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
"""What ``curve_zmq.handshake_failure`` makes a sentence of."""
EARLY_BYTES: Final = 2048
"""Sent at most before the peer has greeted; a listener takes 4,096 of one that it does not know."""
_ENCRYPTED_BYTES: Final = 33
"""What CURVE adds to a frame: a command's name, a nonce, a check and the frame's flags."""
_COPY_BYTES: Final = 16 << 10
_LAST_PAUSE_S: Final = 0.02
_MAX_LATE: Final = 256
"""Messages of ``send_soon`` that wait for one peer to read; all its sessions together end in fewer."""


class Sends(Protocol):
    """A session in which this side sends."""

    def take(self, message: Request, payload: Buffer) -> None:
        """Take a request. Must not block."""

    def end(self) -> None:
        """Stop sending."""


class Receives(Protocol):
    """A session in which this side receives.

    Attributes:
        wire_in: bytes that came for it, counted by the channel.
        wire_out: bytes sent for it, likewise.
    """

    wire_in: int
    wire_out: int

    def take(self, message: FromSender, payload: Buffer) -> None:
        """Take a message. Must not block."""

    def lose(self, error: FilesyncError) -> None:
        """Take note that the peer is gone."""


class Waits(Protocol):
    """A call that waits for its reply."""

    @property
    def payload(self) -> bytearray:
        """What has come of it."""

    def take(self, message: Reply, payload: Buffer) -> None:
        """Take a part of the reply."""

    def lose(self, error: FilesyncError) -> None:
        """Take note that the peer is gone."""


class Channel:
    """What this process knows of one connection, and how it sends over it.

    Attributes:
        name: of the peer, for logs.
        sends: sessions that send, by the number the peer gave them.
        receives: sessions that receive, by our number.
        calls: calls that wait, by our number.
        answering: calls of the peer that are being worked on.
        served: tokens that the peer has said ``Serve`` for, the latest last.
        greeting: done when the peer has greeted or is gone; None once it has greeted.
        lost: why the peer is gone; None while it is there.
        on_lost: are told why, once, when the peer is gone.
        wire_in: bytes that came over this connection.
        wire_out: bytes sent over it.
        moved: what it has carried, of messages that are on their way, too, as far as that is known.
    """

    def __init__(
        self,
        socket: zmq.asyncio.Socket,
        route: tuple[bytes, ...],
        counters: Counters,
        *,
        name: str,
    ) -> None:
        self.name = name
        self.sends: dict[int, Sends] = {}
        self.receives: dict[int, Receives] = {}
        self.calls: dict[int, Waits] = {}
        self.answering = 0
        self.served: dict[bytes, None] = {}
        self.greeting: asyncio.Future[None] | None = None
        self.lost: FilesyncError | None = None
        self.on_lost: list[Callable[[FilesyncError], None]] = []
        self.wire_in = 0
        self.wire_out = 0
        self.moved: Callable[[], Moved] = Moved
        self._socket = socket
        self._route = route
        self._counters = counters
        self._turn = asyncio.Lock()
        self._late: deque[Message] = deque()
        self._sending_late: asyncio.Task[None] | None = None

    async def send(self, message: Message, payload: Buffer = b"") -> None:
        """Send one message, after those that other tasks are sending.

        Waits while the peer is slow, and for its greeting where this is more than a few bytes.
        Cancelled, it has sent all of the message or nothing.

        Raises:
            FilesyncError: the peer is gone, which is ``lost``, or has read next to nothing for STUCK_S.
        """
        frames = encode(message, payload)
        async with self._turn:
            if self.greeting and self.wire_out + sum(map(len, frames)) > EARLY_BYTES:
                await asyncio.shield(self.greeting)
            pause, waited, gone = 0.0005, 0.0, self.moved().gone
            while not self._send(frames):
                # ROUTER sockets do not say when one peer of many can be written to again.
                await asyncio.sleep(pause)
                waited += pause
                pause = min(pause * 2, _LAST_PAUSE_S)
                if waited > STUCK_S:
                    before, gone = gone, self.moved().gone
                    if gone - before < LEAST_BYTES:
                        self.lose(Unavailable(f"{self.name} has stopped reading"))
                    waited = 0.0
        self._count(message, frames)

    async def send_last(self, message: Message) -> None:
        """Send what a peer waits for, when it has read what came before; nothing if it is gone."""
        with suppress(FilesyncError):  # whatever it was lost for
            await self.send(message)

    def send_soon(self, message: Message) -> None:
        """Send what a peer waits for, now or when it has read what came before.

        What waits is bounded: a peer that does not read is told no more than that. Nothing is
        sent if it is gone.
        """
        if not self._late and self._sent_now(message):
            return
        if self.lost is None and len(self._late) < _MAX_LATE:
            self._late.append(message)
            if self._sending_late is None or self._sending_late.done():
                self._sending_late = asyncio.create_task(self._send_late())

    def send_nowait(self, message: Message) -> None:
        """Send a message that nothing depends on, unless the peer is slow or gone."""
        self._sent_now(message)

    def _sent_now(self, message: Message) -> bool:
        frames = encode(message)
        try:
            if is_sent := self._send(frames):
                self._count(message, frames)
        except FilesyncError:
            log.debug("not sent, peer is gone: peer=%s", self.name)
            return False
        return is_sent

    async def _send_late(self) -> None:
        while self._late:
            await self.send_last(self._late[0])
            self._late.popleft()

    def note_received(self, message: Message, payload: Buffer, *, wire_bytes: int) -> None:
        """Count a message that came."""
        self.wire_in += wire_bytes
        self._counters.wire_in += wire_bytes
        # Sessions share connections, so what one took cannot be told from the sum.
        if isinstance(message, FromSender) and (
            receiving := self.receives.get(message.session)
        ):
            receiving.wire_in += wire_bytes
        if isinstance(message, Frame | Deltas):
            self._counters.data_in += len(payload)

    def lose(self, error: FilesyncError) -> None:
        """End all that goes over this connection. Idempotent."""
        if self.lost is not None:
            return
        self.lost = error
        level = logging.INFO if self.sends or self.receives or self.calls else logging.DEBUG
        log.log(level, "connection lost: peer=%s reason=%s", self.name, error)
        for sending in list(self.sends.values()):
            sending.end()
        for receiving in list(self.receives.values()):
            receiving.lose(error)
        for call in list(self.calls.values()):
            call.lose(error)
        for tell in self.on_lost:
            tell(error)

    def _send(self, frames: list[Buffer]) -> bool:
        if self.lost is not None:
            raise self.lost
        is_bulk = len(frames) > 1 and len(frames[1]) >= _COPY_BYTES
        try:
            send_nowait(self._socket, [*self._route, *frames], copy=not is_bulk)
        except zmq.Again:
            return False
        except zmq.ZMQError as exc:
            error = Unavailable(f"{self.name} is gone ({exc.strerror})")
            self.lose(error)
            raise error from exc
        return True

    def _count(self, message: Message, frames: list[Buffer]) -> None:
        wire_bytes = sum(map(len, frames))
        self.wire_out += wire_bytes
        self._counters.wire_out += wire_bytes
        if isinstance(message, FromReceiver) and (
            receiving := self.receives.get(message.session)
        ):
            receiving.wire_out += wire_bytes
        if isinstance(message, Frame | Deltas):
            self._counters.data_out += len(frames[1])


def send_nowait(
    socket: zmq.asyncio.Socket, frames: Sequence[Buffer], *, copy: bool = True
) -> None:
    """Hand ``frames`` to ``socket``.

    Raises:
        zmq.Again: there is no room for them now.
        zmq.ZMQError: there is nobody to send to.
    """
    # With NOBLOCK the future that zmq.asyncio returns is done already.
    future = socket.send_multipart(frames, flags=zmq.NOBLOCK, copy=copy)
    assert isinstance(future, asyncio.Future)
    try:
        future.result()
    except zmq.ZMQError as exc:
        # Where it was raised ``frames`` and the future are known, which has it: a MiB each time a peer
        # is slow would stay until Python looks for garbage.
        clear_frames(exc.__traceback__)
        raise
    finally:
        del future


def bound(socket: zmq.asyncio.Socket, address: str) -> None:
    """Set what every socket of the data plane has: limits on queues and frames.

    But no heartbeats of ZeroMQ's, nor has the control plane any: where one is due, or has come, while
    messages wait that nobody has taken, and the peer is gone, libzmq 4.3.5 aborts the process (its issue
    4364). So it did when one was suspended for a minute. The guard ends connections that are silent.
    """
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = QUEUED_MESSAGES
    socket.setsockopt(zmq.MAXMSGSIZE, max(MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES))
    socket.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
    socket.setsockopt(zmq.IPV6, "[" in address)


async def received(socket: zmq.asyncio.Socket) -> AsyncGenerator[list[zmq.Frame], None]:
    """Yield the frames of each message that comes to a listening socket; other tasks have turns."""
    for taken in count(1):
        yield await socket.recv_multipart(copy=False)
        if taken % _TURN_MESSAGES == 0:
            await asyncio.sleep(0)


def wire_bytes_of(lengths: Iterable[int], *, is_encrypted: bool) -> int:
    """Return what a message took on the wire, by the lengths of its frames."""
    total = 0
    for length in lengths:
        body = length + _ENCRYPTED_BYTES if is_encrypted else length
        total += body + (2 if body < 256 else 9)
    return total
