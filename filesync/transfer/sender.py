"""The sending half of a session, without I/O.

It turns wants into the next thing to read. Nothing is read before it is asked for, one frame at a
time, so a session's memory does not depend on what is wanted of it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

from filesync.digest import Digest, short
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.wire import (
    MAX_OUTSTANDING_ASKS,
    MAX_OUTSTANDING_BYTES,
    MAX_OUTSTANDING_RANGES,
    AskRecipe,
    Range,
    Want,
)

FRAME_BYTES: Final = 1 << 20
"""Content in a frame: what the loopback and zstd are best at."""
WHOLE_BYTES: Final = 256 << 10
"""A range up to this size is not cut in two to fill a frame."""


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Read ``ranges`` and send them as one frame of ``raw_bytes``."""

    ranges: tuple[Range, ...]
    raw_bytes: int


@dataclass(frozen=True, slots=True)
class SendRecipe:
    """Cut ``digest`` from ``offset`` on and send a page of its recipe."""

    digest: Digest
    offset: int


Job = SendFrame | SendRecipe


class Sender:
    """Decides what one session sends next.

    Args:
        size_of: a content's size, or None if it is not on offer.
        frame_bytes: content in a frame; a single range may make it larger by WHOLE_BYTES.
    """

    def __init__(
        self, size_of: Callable[[Digest], int | None], *, frame_bytes: int = FRAME_BYTES
    ) -> None:
        self._size_of = size_of
        self._frame_bytes = frame_bytes
        self._wants: deque[Range] = deque()
        self._wanted_bytes = 0
        self._asks: deque[SendRecipe] = deque()

    def receive(self, message: Want | AskRecipe) -> None:
        """Take one request.

        Raises:
            NotOffered: it asks for what the tree does not list, or past a content's end.
            TooMuchWanted: more is outstanding than a session may have.
        """
        match message:
            case Want():
                self._want(message.ranges)
            case AskRecipe():
                self._ask(message)
            case _:
                assert_never(message)

    def next_job(self) -> Job | None:
        """Return what to read and send now, or None when nothing is asked for.

        A recipe goes first: the receiver cannot want anything of that content before it has it.
        """
        if self._asks:
            return self._asks.popleft()
        if not self._wants:
            return None
        ranges: list[Range] = []
        room = self._frame_bytes
        while self._wants and room > 0:
            digest, offset, length = self._wants[0]
            if length > room and length <= WHOLE_BYTES and ranges:
                break
            part = length if length <= max(room, WHOLE_BYTES) else room
            ranges.append((digest, offset, part))
            room -= part
            if part == length:
                self._wants.popleft()
            else:
                self._wants[0] = (digest, offset + part, length - part)
        raw_bytes = sum(part for _, _, part in ranges)
        self._wanted_bytes -= raw_bytes
        return SendFrame(tuple(ranges), raw_bytes)

    def _want(self, ranges: tuple[Range, ...]) -> None:
        added = sum(length for _, _, length in ranges)
        if (
            self._wanted_bytes + added > MAX_OUTSTANDING_BYTES
            or len(self._wants) + len(ranges) > MAX_OUTSTANDING_RANGES
        ):
            raise TooMuchWanted("more is wanted at once than a session may have outstanding")
        for digest, offset, length in ranges:
            if offset + length > self._size(digest):
                raise NotOffered(f"content {short(digest)} ends before {offset + length}")
        self._wants.extend(ranges)
        self._wanted_bytes += added

    def _ask(self, ask: AskRecipe) -> None:
        if len(self._asks) >= MAX_OUTSTANDING_ASKS:
            raise TooMuchWanted("more recipes are asked for at once than a session may")
        if ask.offset >= self._size(ask.digest):
            raise NotOffered(f"content {short(ask.digest)} ends before {ask.offset}")
        self._asks.append(SendRecipe(ask.digest, ask.offset))

    def _size(self, digest: Digest) -> int:
        size = self._size_of(digest)
        if size is None:
            raise NotOffered(f"content {short(digest)} is not in the tree on offer")
        return size
