"""The receiving half of a session, without I/O.

A session works for one ``Fetch``: it takes units and asks from it, and says of each what came. Feed
it messages and the time; send what it returns, in order. What it has taken and not brought when
it ends goes back to the fetch, for another session.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.errors import Unavailable, UnexpectedMessage
from filesync.transfer.errors import Refused
from filesync.transfer.flow import Flow
from filesync.transfer.receive.fetch import Fetch
from filesync.transfer.receive.policy import Link
from filesync.transfer.receive.units import (
    Ask,
    Batch,
    Coded,
    DeltaAsk,
    Piece,
    RecipeAsk,
    StoreBatch,
    StorePiece,
    Unit,
)
from filesync.transfer.timeouts import LEAST_BYTES
from filesync.transfer.wire import (
    MAX_OUTSTANDING_RANGES,
    AskDeltas,
    AskRecipes,
    Buffer,
    Close,
    Deltas,
    Frame,
    FromReceiver,
    FromSender,
    Open,
    Opened,
    Recipes,
    Refuse,
    Want,
)

WINDOW_BYTES: Final = 16 << 20
FIRST_WINDOW_BYTES: Final = 512 << 10
"""Wanted before anything has come, and more by what has. What a slow link has to carry before it is known to
be slow, all else waits for; of 128 KiB at first, small files that changed took a third more bytes, as
each want is compressed by itself."""
GROWTH: Final = 4
"""On loopback 16 MiB are on their way after some ten messages."""
LEAST_WINDOW_BYTES: Final = 64 << 10
WINDOW_S: Final = 8.0
"""A session wants no more than comes within this time, or the answer to whatever is asked comes late."""
MIN_SHARE_BYTES: Final = 1 << 20
SHARE_S: Final = 0.25
"""Beside others, within this time, so that the end comes for all at once."""
PAGES_BYTES: Final = 32 << 10
"""Pieces of a file begin at multiples of this, which are what is written fastest."""
UNITS: Final = 2
"""Into so many wants a window is divided: what of one has come when a link is cut is lost, of small files,
and of a large one what is in its last frame."""
MAX_ASKS: Final = 16
MAX_RANGES: Final = MAX_OUTSTANDING_RANGES // 2
"""Wanted and not come: 16 MiB of very small files are more than a sender takes at once."""

Sent = tuple[FromReceiver, Buffer]
"""A message and its payload."""


class State(Enum):
    """Where a session is."""

    OPENING = "opening"
    MOVING = "moving"
    CLOSED = "closed"


class _Wanted(msgspec.Struct):
    """A unit on its way: ``left`` bytes are to come, ``parts`` have."""

    unit: Unit
    left: int
    parts: list[Coded]


class Receiver:
    """Decides what one session asks for, and takes what comes.

    Args:
        fetch: gives the work.
        session: the session's number, picked at random.
        token: names the offer.
        tree: what the offer must be.
        flow: what the sender is asked to keep to.
        is_only: nobody else will work for the fetch. It asks before the peer has answered the
            opening then, which saves a round trip: nothing is lost if the peer never does.
        is_greeted: the peer has greeted. Else say ``greeted`` when it has: until then its
            connection is what runs out of time.
        opening_s: the peer must answer the opening within this time.
        stall_s: LEAST_BYTES must come within this time, while anything is wanted, unless less is.
        moved: returns how many bytes the peer's connection has carried. While it carries LEAST_BYTES
            neither time is over: what is waited for stands behind others, or takes the link longer.
        now: seconds on any monotonic clock; every later ``now`` uses the same one.

    Attributes:
        deadline: call ``expire`` then; None while it is not the peer's turn.
        link: what was seen of the wire to the peer.
        coming: of the content that comes over it, which may be much more: of a hole a byte is sent.
        content_bytes: what came, before compression.
    """

    def __init__(
        self,
        fetch: Fetch,
        session: int,
        token: bytes,
        tree: Digest,
        *,
        now: float,
        flow: Flow,
        is_only: bool = False,
        is_greeted: bool = True,
        opening_s: float = 10.0,
        stall_s: float = 60.0,
        moved: Callable[[], int] = lambda: 0,
    ) -> None:
        self.state = State.OPENING
        self.deadline: float | None = None
        self.session = session
        self.link = Link()
        self.coming = Link()
        self.content_bytes = 0
        self._fetch = fetch
        self._open = Open(session, token, tree, flow.compress, flow.bytes_per_s)
        self._is_only = is_only
        self._opening_s = opening_s
        self._stall_s = stall_s
        self._moved = moved
        self._wait_s = 0.0
        self._moved_bytes = 0
        self._wanted: deque[_Wanted] = deque()
        self._asked: dict[int, Ask] = {}
        self._last_ask = 0
        self._on_wire_bytes = 0
        self._on_wire_ranges = 0
        self._progress_bytes = 0
        self._seen_at = now
        if is_greeted:
            self._wait(now, opening_s)

    # --- what comes ---------------------------------------------------------------------------

    def start(self) -> list[Sent]:
        """Return what opens the session."""
        return [(self._open, b"")]

    def greeted(self, now: float) -> None:
        """Take note that the peer has greeted: its time to answer the opening begins."""
        if self.state is State.OPENING:
            self._wait(now, self._opening_s)

    def receive(self, message: FromSender, payload: Buffer, now: float) -> None:
        """Take one message. The fetch has new effects then.

        Raises:
            PeerError: the message is not allowed now, or what is in it is wrong. Close the
                session.
            Refused: the peer ended it.
        """
        match message:
            case Refuse():
                raise Refused(message.code, message.detail, message.path)
            case Opened() if self.state is State.OPENING:
                self.state = State.MOVING
                self._wait_unless_idle(now)
            case Frame() if self.state is State.MOVING:
                self._take_frame(Coded(message.codec, payload, message.raw_bytes))
                self.coming.note(message.raw_bytes, now - self._seen_at)
                self._note_progress(message.raw_bytes, len(payload), now)
            case Recipes() if self.state is State.MOVING:
                ask = self._asked.get(message.ask)
                if not isinstance(ask, RecipeAsk):
                    raise UnexpectedMessage("recipes came that were not asked for")
                self._fetch.take_recipes(ask, payload)
                del self._asked[message.ask]
                self._note_progress(LEAST_BYTES, len(payload), now)
            case Deltas() if self.state is State.MOVING:
                ask = self._asked.get(message.ask)
                if not isinstance(ask, DeltaAsk):
                    raise UnexpectedMessage("deltas came that were not asked for")
                del self._asked[message.ask]
                self.content_bytes += message.raw_bytes
                coded = Coded(message.codec, payload, message.raw_bytes)
                self._fetch.take_deltas(self.session, ask, coded)
                self._note_progress(LEAST_BYTES, len(payload), now)
            case _:
                raise UnexpectedMessage(
                    f"{type(message).__name__} is not allowed while {self.state.value}"
                )

    def expire(self, now: float) -> None:
        """Act on the passing of time; call it once ``deadline`` is reached.

        Raises:
            Unavailable: the peer has had its time.
        """
        if self.deadline is None or now < self.deadline:
            return
        if self._moved() - self._moved_bytes < LEAST_BYTES:
            raise Unavailable(f"the peer fell silent while {self.state.value}")
        self._wait(now, self._wait_s)

    # --- what goes ----------------------------------------------------------------------------

    def advance(self, now: float, *, is_alone: bool) -> list[Sent]:
        """Take what work there is room for, and return what to send.

        Args:
            now: the time.
            is_alone: no other session works for the fetch.
        """
        is_opening = self.state is State.OPENING
        if self.state is State.CLOSED or (is_opening and not self._is_only):
            return []
        was_idle = self.is_idle
        sent: list[Sent] = []
        while len(self._asked) < MAX_ASKS and (ask := self._fetch.take_ask()):
            self._last_ask += 1
            self._asked[self._last_ask] = ask
            sent.append(self._ask(self._last_ask, ask))
        window = self._window(is_alone=is_alone)
        unit_bytes = window // UNITS // PAGES_BYTES * PAGES_BYTES
        while (
            self._on_wire_bytes < window
            and self._on_wire_ranges < MAX_RANGES
            and (unit := self._fetch.take_unit(self.session, unit_bytes))
        ):
            ranges = _ranges(unit)
            self._wanted.append(_Wanted(unit, unit.size, []))
            self._on_wire_bytes += unit.size
            self._on_wire_ranges += len(ranges)
            sent.append((Want(self.session, ranges), b""))
        if was_idle and sent:
            self._seen_at = now
            self._progress_bytes = 0
        if not is_opening and (was_idle or self.is_idle):
            self._wait_unless_idle(now)
        return sent

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way from the peer."""
        return not self._wanted and not self._asked

    def seconds_left(self, now: float) -> float:
        """Return how long what is on its way will take at the speed seen, or since its last sign."""
        silent_s = now - self._seen_at
        rate = self.coming.bytes_per_s
        return max(silent_s, self._on_wire_bytes / rate if rate else 0.0)

    @property
    def on_wire_bytes(self) -> int:
        """Bytes of content that are on their way."""
        return self._on_wire_bytes

    def end(self) -> Close:
        """End the session and give back what it has not brought; return what to send."""
        self.state = State.CLOSED
        self.deadline = None
        units: list[Unit] = []
        for wanted in self._wanted:
            unit = wanted.unit
            if isinstance(unit, Piece):
                # Those of its bytes that came are written as they come.
                unit = Piece(unit.work, unit.offset + unit.size - wanted.left, wanted.left)
            units.append(unit)
        self._fetch.give_back(units, list(self._asked.values()))
        self._fetch.forget(self.session)
        self._wanted.clear()
        self._asked.clear()
        self._on_wire_bytes = 0
        return Close(self.session)

    # --- inside -------------------------------------------------------------------------------

    def _take_frame(self, data: Coded) -> None:
        if not self._wanted or data.raw_bytes > self._wanted[0].left:
            raise UnexpectedMessage("a frame holds more than was wanted")
        wanted = self._wanted[0]
        unit, done = wanted.unit, wanted.unit.size - wanted.left
        wanted.left -= data.raw_bytes
        self._on_wire_bytes -= data.raw_bytes
        self.content_bytes += data.raw_bytes
        if not wanted.left:
            self._wanted.popleft()
            self._on_wire_ranges -= len(unit.files) if isinstance(unit, Batch) else 1
        if isinstance(unit, Piece):
            unit.work.givers.add(self.session)
            piece = Piece(unit.work, unit.offset + done, data.raw_bytes)
            self._fetch.effects.append(StorePiece(self.session, piece, data))
            return
        wanted.parts.append(data)
        if not wanted.left:
            parts = tuple(wanted.parts)
            self._fetch.effects.append(StoreBatch(self.session, unit, parts))

    def _ask(self, number: int, ask: Ask) -> Sent:
        if isinstance(ask, RecipeAsk):
            stretches = tuple(
                [(s.work.file.digest, s.offset, s.end, s.level) for s in ask.stretches]
            )
            return AskRecipes(self.session, number, stretches), b""
        items = []
        signatures = []
        for gap in ask.gaps:
            assert gap.pieces is not None
            items.append((gap.file.digest, gap.offset, gap.size, gap.pieces.count))
            signatures.append(gap.pieces.signatures)
        message = AskDeltas(self.session, number, ask.key, tuple(items))
        return message, b"".join(signatures)

    def _window(self, *, is_alone: bool) -> int:
        """Return how many bytes may be on their way."""
        window = min(FIRST_WINDOW_BYTES + GROWTH * self.content_bytes, WINDOW_BYTES)
        if rate := self.coming.bytes_per_s:
            window = min(window, max(int(rate * WINDOW_S), LEAST_WINDOW_BYTES))
        if not is_alone:
            window = min(window, max(int(rate * SHARE_S), MIN_SHARE_BYTES))
        return window

    def _note_progress(self, raw_bytes: int, wire_bytes: int, now: float) -> None:
        self.link.note(wire_bytes, now - self._seen_at)
        self._seen_at = now
        self._progress_bytes += raw_bytes
        if self._progress_bytes >= LEAST_BYTES or self.is_idle:
            self._progress_bytes = 0
            self._wait(now, self._stall_s)

    def _wait_unless_idle(self, now: float) -> None:
        if self.is_idle:
            self.deadline = None
        else:
            self._wait(now, self._stall_s)

    def _wait(self, now: float, wait_s: float) -> None:
        """Give the peer so long from now on."""
        self.deadline = now + wait_s
        self._wait_s = wait_s
        self._moved_bytes = self._moved()


def _ranges(unit: Unit) -> tuple[tuple[Digest, int, int], ...]:
    if isinstance(unit, Batch):
        return tuple([(file.digest, 0, file.size) for file in unit.files])
    return ((unit.work.file.digest, unit.offset, unit.size),)
