"""What one client is told, until it reads that: in order, bounded, and nobody waits for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from filesync.errors import MalformedMessage
from solver.wire import (
    AskAgent,
    BuildFailed,
    Event,
    Lack,
    PushProgress,
    StepDone,
    StepOutput,
    StepProgress,
    ToClient,
    TransferProgress,
    Warned,
)
from worker.wire.clipping import STDERR, Clipped

MAX_QUEUED: Final = 20_000
"""Messages that may wait for a slow client; beyond it what steps print is dropped, and that is said."""
MAX_WAITING_BYTES: Final = 64 << 20
"""What they may come to; beyond it the same. At twice as much, of what is asked for, the client is cut off."""
_BARE_BYTES: Final = 200
"""What any message takes here."""

Send = Callable[[ToClient, bytes], Awaitable[None]]


class Outbox:
    """The messages that wait for one client. They go out in the order in which they came in.

    To put one in never waits, whether the client reads or not. Of one that does not, first what
    steps print and how far things have come is dropped, from ``MAX_QUEUED`` messages or
    ``MAX_WAITING_BYTES`` on; how much a step's output lacks is said before what next is told of
    that step. All else is kept, as each is an answer or ends something: a build has an end to
    those that it has of itself, a client that asks for more and more is found by ``check_reading``.

    Args:
        send: sends one message, when the client has room for it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queue = asyncio.Queue[tuple[ToClient, bytes]]()
        self._waiting_bytes = 0
        self._clipped = Clipped()

    def tell(self, event: Event | Warned) -> None:
        """Put in what happens in a build, unless the client is slow and can do without it."""
        is_slow = self._queue.qsize() > MAX_QUEUED or self._waiting_bytes > MAX_WAITING_BYTES
        if is_slow and isinstance(
            event, StepOutput | StepProgress | PushProgress | TransferProgress
        ):
            if isinstance(event, StepOutput):
                self._clipped.drop(event.position, event.data)
            return
        if isinstance(event, StepOutput | StepDone):
            self._tell_clipped(event.position)
        self._put(event)

    def answer(self, message: ToClient, payload: bytes = b"") -> None:
        """Put in any message; that a build has failed, behind what was dropped of its output."""
        if isinstance(message, BuildFailed):
            for position in self._clipped.numbers():
                self._tell_clipped(position)
        self._put(message, payload)

    def check_reading(self) -> None:
        """Refuse to hear a client for whom more waits than can be, if it reads what it asked for.

        Raises:
            MalformedMessage: it asks and asks, and reads no answer.
        """
        if self._waiting_bytes > 2 * MAX_WAITING_BYTES:
            raise MalformedMessage("a client that asks and asks, and reads no answer")

    async def pump(self) -> None:
        """Send what is put in, until cancelled."""
        while True:
            message, payload = await self._queue.get()
            self._waiting_bytes -= _size(message)
            await self._send(message, payload)

    def _put(self, message: ToClient, payload: bytes = b"") -> None:
        self._waiting_bytes += _size(message)
        self._queue.put_nowait((message, payload))

    def _tell_clipped(self, position: int) -> None:
        if line := self._clipped.take(position):
            self._put(StepOutput(position, STDERR, line))


def _size(message: ToClient) -> int:
    """Return about what a message takes while it waits."""
    match message:
        case StepOutput(data=data) | AskAgent(said=data):
            return _BARE_BYTES + len(data)
        case Lack(trees):
            return _BARE_BYTES + 80 * len(trees)
        case _:
            return _BARE_BYTES
