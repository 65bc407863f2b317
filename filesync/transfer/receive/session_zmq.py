"""One session of a pull at its connection."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from filesync.errors import FilesyncError, UnexpectedMessage
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.receive.receiver import Receiver, Sent
from filesync.transfer.replica import Replica
from filesync.transfer.stats import ReplicaStats
from filesync.transfer.wire import MAX_OUTSTANDING_BYTES, Buffer, Close, FromSender

_MAX_INBOX: Final = 65_536

Event = Callable[[], None]
"""What has happened, to be told to the machines."""


def fail(error: Exception) -> None:
    """Raise ``error``: the event of a task that failed, with which the driver ends."""
    raise error


class Session:
    """One Receiver at its channel: sends what it says, and hands on what comes for it.

    Attributes:
        wire_in: bytes of messages that came for it, counted by the channel.
        wire_out: bytes of messages sent for it, likewise.
        inbox_bytes: payloads that came and were not looked at yet.
    """

    def __init__(
        self,
        machine: Receiver,
        channel: Channel,
        replica: Replica,
        stats: ReplicaStats,
        inbox: asyncio.Queue[Event],
        on_message: "Callable[[Session, FromSender, Buffer], None]",
        on_lost: "Callable[[Session, FilesyncError], None]",
    ) -> None:
        self.wire_in = 0
        self.wire_out = 0
        self.inbox_bytes = 0
        self.machine = machine
        self.replica = replica
        self.stats = stats
        self._channel = channel
        self._inbox = inbox
        self._on_message = on_message
        self._on_lost = on_lost
        self._is_flooded = False
        self._outbox: asyncio.Queue[Sent] = asyncio.Queue()
        channel.receives[machine.session] = self
        self._sender = asyncio.create_task(self._send_all())

    def take(self, message: FromSender, payload: Buffer) -> None:
        """Take a message of this session."""
        self.inbox_bytes += len(payload)
        # No honest peer sends what was not wanted. This bounds what comes before it is judged.
        if self.inbox_bytes > MAX_OUTSTANDING_BYTES or self._inbox.qsize() > _MAX_INBOX:
            if not self._is_flooded:
                self._is_flooded = True
                self.lose(UnexpectedMessage("the peer floods this side with messages"))
            return
        self._inbox.put_nowait(partial(self._on_message, self, message, payload))

    def lose(self, error: FilesyncError) -> None:
        """End with ``error``: the peer is gone."""
        self._inbox.put_nowait(partial(self._on_lost, self, error))

    def send(self, messages: Sequence[Sent]) -> None:
        """Send messages, after those before them."""
        for message in messages:
            self._outbox.put_nowait(message)

    def end(self, last: Close) -> None:
        """Send ``last`` before all that waits, and hand on nothing any more."""
        self._sender.cancel()
        # Dropped, it would leave the session open, and the sender has room for so many.
        self._channel.send_soon(last)
        del self._channel.receives[self.machine.session]
        self.note()

    def note(self) -> None:
        """Bring the statistics up to date."""
        self.stats.wire_in = self.wire_in
        self.stats.wire_out = self.wire_out
        self.stats.content_bytes = self.machine.content_bytes

    async def _send_all(self) -> None:
        try:
            while True:
                await self._channel.send(*await self._outbox.get())
        except FilesyncError as exc:
            self.lose(exc)
