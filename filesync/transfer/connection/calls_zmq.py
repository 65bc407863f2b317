"""Requests of another protocol over a data plane's connections, and their answers."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from filesync.errors import FilesyncError, LocalError, MalformedMessage, Unavailable, UsageError
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import Refused
from filesync.transfer.timeouts import LEAST_BYTES
from filesync.transfer.wire import Buffer, Call, Reply, error_path

log = logging.getLogger(__name__)

PART_BYTES: Final = 1 << 20
MAX_REPLY_BYTES: Final = 64 << 20
MAX_REPLIES_BYTES: Final = 2 * MAX_REPLY_BYTES
"""Of one peer's replies that have begun to come, together; an honest one's are pages, most of a MiB."""
MAX_ANSWERING: Final = 16
"""Calls of one peer that are worked on at once; no honest one has more than a few."""

Answer = Callable[[Channel, bytes], Awaitable[tuple[bytes, bytes]]]
"""(connection, body) -> (body, payload)."""

_ids = itertools.count(1)


class PendingCall:
    """One call that waits for its reply.

    Attributes:
        payload: what has come of it.
    """

    def __init__(self, channel: Channel) -> None:
        """``channel`` is the peer's."""
        self.reply: asyncio.Future[tuple[bytes, bytes]] = (
            asyncio.get_running_loop().create_future()
        )
        self.payload = bytearray()
        self._channel = channel

    def take(self, message: Reply, payload: Buffer) -> None:
        """Take a part of the reply."""
        if self.reply.done():
            return
        self.payload += payload
        if len(self.payload) > MAX_REPLY_BYTES:
            self.lose(MalformedMessage("a reply is over the limit"))
        elif sum(len(one.payload) for one in self._channel.calls.values()) > MAX_REPLIES_BYTES:
            self.lose(MalformedMessage("replies that come at once are over the limit"))
        elif message.error:
            self.lose(
                Refused(message.error, message.body.decode(errors="replace"), message.path)
            )
        elif not message.more:
            self.reply.set_result((message.body, bytes(self.payload)))

    async def replied(self, stall_s: float | None) -> tuple[bytes, bytes]:
        """Return the reply's body and payload.

        Raises:
            Unavailable: next to nothing moved for ``stall_s``, or the peer is gone.
        """
        while True:
            seen = self._moved_bytes()
            try:
                async with asyncio.timeout(stall_s):
                    return await asyncio.shield(self.reply)
            except TimeoutError:
                # Whatever moves: the question or its answer may stand behind all that.
                if self._moved_bytes() - seen < LEAST_BYTES:
                    raise Unavailable("the peer does not answer") from None

    def _moved_bytes(self) -> int:
        return max(len(self.payload), sum(self._channel.moved()))

    def lose(self, error: FilesyncError) -> None:
        """Give up."""
        if not self.reply.done():
            self.payload = bytearray()
            self.reply.set_exception(error)
            self.reply.exception()  # it may be that nobody waits: the call itself was not sent


async def call(
    channel: Channel, body: bytes, *, stall_s: float | None = None
) -> tuple[bytes, bytes]:
    """Send a request and return its answer's body and payload.

    Args:
        channel: to whom.
        body: the request.
        stall_s: in which something must come, or arrive there; None if what is asked for may take
            its time: then it is waited for as long as the connection stands.

    Raises:
        Unavailable: the connection is lost, the answer is late, or it is an error (Refused).
    """
    number = next(_ids)
    waiting = channel.calls[number] = PendingCall(channel)
    try:
        await channel.send(Call(number, body))
        return await waiting.replied(stall_s)
    finally:
        del channel.calls[number]


async def call_only(channel: Channel, body: bytes) -> None:
    """Send a request of which nobody needs to know how it went.

    Raises:
        FilesyncError: the peer is gone.
    """
    await channel.send(Call(next(_ids), body))


async def answer(channel: Channel, request: Call, handler: Answer | None) -> None:
    """Answer one request. Never raises for what went wrong in it: the peer is told."""
    if channel.answering >= MAX_ANSWERING:
        # At once or never: what waits for a peer that does not read must not become more.
        channel.send_nowait(_error(request.call, UsageError("too many requests at once")))
        return
    channel.answering += 1
    try:
        if handler is None:
            raise UsageError("this process answers no requests")
        body, payload = await handler(channel, request.body)
        if len(payload) > MAX_REPLY_BYTES:
            raise LocalError("a reply is over the limit")
        await _reply(channel, request.call, body, payload)
    except FilesyncError as exc:
        log.info("request refused: peer=%s reason=%s", channel.name, exc)
        await channel.send_last(_error(request.call, exc))
    except Exception:  # the top of a task: one peer's request must not end the others'
        log.exception("request failed: peer=%s", channel.name)
        await channel.send_last(_error(request.call, LocalError("internal error")))
    finally:
        channel.answering -= 1


def _error(number: int, error: FilesyncError) -> Reply:
    text = str(error).encode(errors="replace")[:4096]
    return Reply(number, text, error=error.code, path=error_path(error))


async def _reply(channel: Channel, number: int, body: bytes, payload: bytes) -> None:
    view = memoryview(payload)
    while len(view) > PART_BYTES:
        await channel.send(Reply(number, b"", more=True), view[:PART_BYTES])
        view = view[PART_BYTES:]
    await channel.send(Reply(number, body), view)
