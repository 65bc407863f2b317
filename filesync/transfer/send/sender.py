"""The sending half of a session, without I/O.

It turns wants and asks into the next thing to read. Nothing is read before it is asked for, one
frame at a time, so a session's memory does not depend on what is wanted of it. Whether a content
is on offer at all is judged when it is read.
"""

from collections import deque
from typing import Final, assert_never

import msgspec

from filesync.transfer.errors import TooMuchWanted
from filesync.transfer.wire import (
    MAX_DELTAS_BYTES,
    MAX_OUTSTANDING_ASKS,
    MAX_OUTSTANDING_BYTES,
    MAX_OUTSTANDING_RANGES,
    MAX_OUTSTANDING_SIGNATURES,
    MAX_SIGNATURES,
    SIGNATURE_BYTES,
    AskDeltas,
    AskRecipes,
    Buffer,
    DeltaItem,
    Range,
    RecipeItem,
    Request,
    Want,
)

FRAME_BYTES: Final = 1 << 20
"""Content in a frame: what the loopback and zstd are best at."""
WHOLE_BYTES: Final = 256 << 10
"""A range up to this size is not cut in two to fill a frame."""


class SendFrame(msgspec.Struct, frozen=True):
    """Read ``ranges`` and send them as one frame of ``raw_bytes``."""

    ranges: tuple[Range, ...]
    raw_bytes: int


class SendRecipes(msgspec.Struct, frozen=True):
    """Cut what ``items`` name and send what goes into one message."""

    ask: int
    items: tuple[RecipeItem, ...]


class SendDeltas(msgspec.Struct, frozen=True):
    """Read what ``items`` name and send what differs from what was signed."""

    ask: int
    key: int
    items: tuple[DeltaItem, ...]
    signatures: bytes


Job = SendFrame | SendRecipes | SendDeltas


class Sender:
    """Decides what one session sends next.

    Args:
        frame_bytes: content in a frame; a single range may make it larger by WHOLE_BYTES, and at most
            by as much again.
    """

    def __init__(self, *, frame_bytes: int = FRAME_BYTES) -> None:
        self._frame_bytes = frame_bytes
        self._whole_bytes = min(WHOLE_BYTES, frame_bytes)
        self._wants: deque[deque[Range]] = deque()
        self._ranges = 0
        self._wanted_bytes = 0
        self._asks: deque[SendRecipes | SendDeltas] = deque()
        self._signatures = 0

    def receive(self, message: Request, payload: Buffer) -> None:
        """Take one request.

        Raises:
            TooMuchWanted: more is outstanding, or asked for at once, than a session may have.
        """
        match message:
            case Want():
                self._want(message.ranges)
            case AskRecipes():
                self._ask(SendRecipes(message.ask, message.items))
            case AskDeltas():
                self._ask_deltas(message, payload)
            case _:
                assert_never(message)

    @property
    def is_asked(self) -> bool:
        """There is something to read and send."""
        return bool(self._asks or self._wants)

    def next_job(self) -> Job | None:
        """Return what to read and send now, or None when nothing is asked for.

        An ask goes first: until it is answered the receiver does not know what to want. A frame
        never has ranges of two wants, so that a want of a frame's size is answered by one.
        """
        if self._asks:
            return self._note_begun(self._asks.popleft())
        if not self._wants:
            return None
        want = self._wants[0]
        ranges: list[Range] = []
        room = self._frame_bytes
        while want and room > 0:
            digest, offset, length = want[0]
            if length > room and length <= self._whole_bytes and ranges:
                break
            part = length if length <= max(room, self._whole_bytes) else room
            ranges.append((digest, offset, part))
            room -= part
            if part == length:
                want.popleft()
                self._ranges -= 1
            else:
                want[0] = (digest, offset + part, length - part)
        if not want:
            self._wants.popleft()
        raw_bytes = sum([part for _, _, part in ranges])
        self._wanted_bytes -= raw_bytes
        return SendFrame(tuple(ranges), raw_bytes)

    def _note_begun(self, job: SendRecipes | SendDeltas) -> Job:
        if isinstance(job, SendDeltas):
            self._wanted_bytes -= _size(job.items)
            self._signatures -= _signatures(job.items)
        return job

    def _want(self, ranges: tuple[Range, ...]) -> None:
        self._owe(sum([length for _, _, length in ranges]))
        self._ranges += len(ranges)
        if self._ranges > MAX_OUTSTANDING_RANGES:
            raise TooMuchWanted("more is wanted at once than a session may have outstanding")
        self._wants.append(deque(ranges))

    def _ask(self, job: SendRecipes | SendDeltas) -> None:
        if len(self._asks) >= MAX_OUTSTANDING_ASKS:
            raise TooMuchWanted("more is asked for at once than a session may")
        self._asks.append(job)

    def _ask_deltas(self, message: AskDeltas, payload: Buffer) -> None:
        size, count = _size(message.items), _signatures(message.items)
        if size > MAX_DELTAS_BYTES or count > MAX_SIGNATURES:
            raise TooMuchWanted("one ask for deltas is too large")
        if len(payload) != count * SIGNATURE_BYTES:
            raise TooMuchWanted(f"{len(payload)} bytes cannot be {count} signatures")
        self._owe(size)
        self._signatures += count
        if self._signatures > MAX_OUTSTANDING_SIGNATURES:
            raise TooMuchWanted("more signatures wait at once than a session may have")
        self._ask(SendDeltas(message.ask, message.key, message.items, bytes(payload)))

    def _owe(self, added: int) -> None:
        self._wanted_bytes += added
        if self._wanted_bytes > MAX_OUTSTANDING_BYTES:
            raise TooMuchWanted("more is wanted at once than a session may have outstanding")


def _size(items: tuple[DeltaItem, ...]) -> int:
    return sum(item[2] for item in items)


def _signatures(items: tuple[DeltaItem, ...]) -> int:
    return sum(item[3] for item in items)
