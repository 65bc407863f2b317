"""The receiving half of a session, without I/O.

Everything that decides what is asked for, and whether what comes was asked for, is in this file.
Feed it messages, what the disk has done, and the time; perform what it returns, in order.

The sender's frames are one stream of bytes: all that was wanted, in the order of the wants. So
the machine keeps the wants that are on their way, and cuts each frame by them.

A file is fetched in one of three ways. A small one (``is_whole``) is wanted at once and written
when all of it is here. A large one is wanted and written piece by piece. A large one that
replaces another (``is_delta``) is preceded by its recipe, page by page: what the old file has is
copied, the rest is wanted.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from filesync.digest import Digest, short
from filesync.disk.update import WantedFile
from filesync.errors import ContentCorrupt, Unavailable, UnexpectedMessage
from filesync.transfer import recipe
from filesync.transfer.errors import Refused
from filesync.transfer.recipe import Chunk, CopyRange
from filesync.transfer.wire import (
    MAX_OUTSTANDING_BYTES,
    MAX_WANT_RANGES,
    AskRecipe,
    Buffer,
    Close,
    Codec,
    Frame,
    Open,
    Opened,
    Range,
    Recipe,
    Refuse,
    Want,
)

WINDOW_BYTES: Final = 16 << 20
SMALL_BYTES: Final = 256 << 10
"""Files up to this size are written whole; larger ones piece by piece."""
DELTA_BYTES: Final = 64 << 10
"""A file up to this size travels whole: its recipe would save little and cost a round trip."""
MAX_DELTAS: Final = 8
"""Files whose recipes are asked for or being worked off at once."""
MAX_WINDOW_RANGES: Final = 16_384
PROGRESS_BYTES: Final = 64 << 10
"""What must come within ``stall_s``, unless less is wanted; a byte a second is no progress."""

Find = Callable[[Chunk], int | None]


def is_delta(file: WantedFile) -> bool:
    """Say whether ``file`` is worth a recipe."""
    return file.size > DELTA_BYTES and file.replaces > recipe.AVG_CHUNK_BYTES


def is_whole(file: WantedFile) -> bool:
    """Say whether ``file`` is written in one go, when all of it is here."""
    return file.size <= SMALL_BYTES and not is_delta(file)


class Piece(NamedTuple):
    """The next ``length`` bytes of a frame are ``file``'s from ``offset`` on."""

    file: WantedFile
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to the peer."""

    message: Open | Want | AskRecipe | Close


@dataclass(frozen=True, slots=True)
class Store:
    """Decompress a frame and write its pieces; then call ``stored``."""

    codec: Codec
    payload: Buffer
    raw_bytes: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class OpenBasis:
    """Open the large file and cut the one that it replaces; then call ``based``."""

    file: WantedFile


@dataclass(frozen=True, slots=True)
class CopyRanges:
    """Copy from the basis; then call ``copied``."""

    file: WantedFile
    copies: tuple[CopyRange, ...]


@dataclass(frozen=True, slots=True)
class FinishFile:
    """Verify a large file and put it in place; then call ``finished`` or ``corrupt``."""

    file: WantedFile


@dataclass(frozen=True, slots=True)
class NeedFiles:
    """Call ``add`` with more files."""


@dataclass(frozen=True, slots=True)
class Finish:
    """All files are in place."""


Effect = Send | Store | OpenBasis | CopyRanges | FinishFile | NeedFiles | Finish


class State(Enum):
    """Where a session is."""

    OPENING = "opening"
    MOVING = "moving"
    CLOSED = "closed"


class _Work:
    """A file on its way.

    Attributes:
        left: bytes that are not on disk yet.
        planned: up to here it is known where the bytes come from.
        asked: the offset of the page that is asked for, if one is.
        page: a page that waits for the basis.
    """

    __slots__ = ("asked", "file", "find", "is_delta", "left", "page", "planned")

    def __init__(self, file: WantedFile, *, delta: bool) -> None:
        self.file = file
        self.is_delta = delta
        self.left = file.size
        self.planned = 0 if delta else file.size
        self.asked: int | None = None
        self.page: list[Chunk] | None = None
        self.find: Find | None = None


class _Span(NamedTuple):
    work: _Work
    offset: int
    length: int


class Receiver:
    """Decides what one session asks for, and takes what comes.

    Args:
        session: the session's number, picked at random.
        token: names the offer.
        tree: what the offer must be.
        window_bytes: wanted and not yet written at most.
        opening_s: the peer must answer the opening within this time.
        stall_s: PROGRESS_BYTES must come within this time, while anything is wanted.
        now: seconds on any monotonic clock; every later ``now`` uses the same one.

    Attributes:
        deadline: call ``expire`` then; None while it is not the peer's turn.
        pending: the files that were added and are not in place, by ticket.
        files_done: how many are in place.
    """

    def __init__(
        self,
        session: int,
        token: bytes,
        tree: Digest,
        *,
        now: float,
        window_bytes: int = WINDOW_BYTES,
        opening_s: float = 10.0,
        stall_s: float = 60.0,
    ) -> None:
        self.state = State.OPENING
        self.deadline: float | None = now + opening_s
        self.pending: dict[int, WantedFile] = {}
        self.files_done = 0
        self.session = session
        self._open = Open(session, token, tree)
        self._window_bytes = min(window_bytes, MAX_OUTSTANDING_BYTES)
        self._stall_s = stall_s
        self._files: deque[_Work] = deque()
        self._is_last = False
        self._is_fed = False
        self._spans: deque[_Span] = deque()
        self._stream: deque[_Span] = deque()
        self._works: dict[int, _Work] = {}
        self._deltas: dict[Digest, _Work] = {}
        self._on_wire_bytes = 0
        self._unwritten_bytes = 0
        self._progress_bytes = 0

    # --- what comes from the peer ---------------------------------------------------------

    def start(self) -> list[Effect]:
        """Return what opens the session."""
        return [Send(self._open)]

    def receive(
        self, message: Opened | Frame | Recipe | Refuse, payload: Buffer, now: float
    ) -> list[Effect]:
        """Take one message and return what to do about it, in order.

        Raises:
            PeerError: the message is not allowed now, or what is in it is wrong. Close the
                session.
            Refused: the peer ended it.
        """
        match message:
            case Refuse():
                self._close()
                raise Refused(message.code, message.detail)
            case Opened() if self.state is State.OPENING:
                self.state = State.MOVING
                self.deadline = None
            case Frame() if self.state is State.MOVING:
                return [self._take(message, payload, now), *self._advance(now)]
            case Recipe() if self.state is State.MOVING:
                return [*self._take_recipe(message, payload, now), *self._advance(now)]
            case _:
                raise UnexpectedMessage(
                    f"{type(message).__name__} is not allowed while {self.state.value}"
                )
        return self._advance(now)

    def expire(self, now: float) -> None:
        """Act on the passing of time; call it once ``deadline`` is reached.

        Raises:
            Unavailable: the peer has had its time.
        """
        if self.deadline is not None and now >= self.deadline:
            state = self.state
            self._close()
            raise Unavailable(f"the peer fell silent while {state.value}")

    # --- what comes from this side --------------------------------------------------------

    def add(self, files: Sequence[WantedFile], *, is_last: bool, now: float) -> list[Effect]:
        """Take more files to fetch, none of them empty; answers ``NeedFiles``."""
        self._is_fed = False
        self._is_last = is_last
        for file in files:
            self.pending[file.ticket] = file
            self._files.append(_Work(file, delta=is_delta(file)))
        return self._advance(now)

    def stored(self, pieces: Sequence[Piece], now: float) -> list[Effect]:
        """Take note that a frame is written; its room is free again."""
        effects: list[Effect] = []
        for file, _, length in pieces:
            self._unwritten_bytes -= length
            effects += self._put(self._works[file.ticket], length)
        return effects + self._advance(now)

    def based(self, file: WantedFile, find: Find, now: float) -> list[Effect]:
        """Take note that the basis is cut; ``find`` says where in it a chunk is."""
        work = self._works[file.ticket]
        work.find = find
        return self._plan(work) + self._advance(now)

    def copied(self, file: WantedFile, length: int, now: float) -> list[Effect]:
        """Take note that ``length`` bytes were copied from the basis."""
        return self._put(self._works[file.ticket], length) + self._advance(now)

    def finished(self, file: WantedFile, now: float) -> list[Effect]:
        """Take note that a large file is in place."""
        self._drop(file)
        return self._advance(now)

    def corrupt(self, file: WantedFile, error: ContentCorrupt, now: float) -> list[Effect]:
        """Take note that a large file was not what it should be, and has been removed.

        What was put together with the help of an old file is fetched once more, whole: the old
        file may have changed under our hands, for which the peer is not to blame.

        Raises:
            ContentCorrupt: it came from the peer as a whole.
        """
        if not self._works.pop(file.ticket).is_delta:
            raise error
        self._files.appendleft(_Work(file, delta=False))
        return self._advance(now)

    # --- inside ---------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Effect]:
        if self.state is not State.MOVING:
            return []
        effects = self._start_files()
        effects += self._ask_pages()
        effects += self._want()
        if not self._is_last and not self._is_fed and len(self._files) < MAX_WANT_RANGES:
            self._is_fed = True
            effects.append(NeedFiles())
        if self._is_last and not self.pending:
            self._close()
            return [*effects, Send(Close(self.session)), Finish()]
        if not self._on_wire_bytes and not any(
            work.asked is not None for work in self._deltas.values()
        ):
            self.deadline = None
        elif self.deadline is None:
            self._progress_bytes = 0
            self.deadline = now + self._stall_s
        return effects

    def _start_files(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._files and len(self._spans) < MAX_WANT_RANGES:
            work = self._files[0]
            if work.is_delta:
                if len(self._deltas) >= MAX_DELTAS:
                    break
                self._deltas[work.file.digest] = work
                effects.append(OpenBasis(work.file))
            else:
                self._spans.append(_Span(work, 0, work.file.size))
            self._works[work.file.ticket] = work
            self._files.popleft()
        return effects

    def _ask_pages(self) -> list[Effect]:
        effects: list[Effect] = []
        for work in self._deltas.values():
            is_idle = work.asked is None and work.page is None
            if is_idle and len(self._spans) < MAX_WINDOW_RANGES:
                work.asked = work.planned
                effects.append(Send(AskRecipe(self.session, work.file.digest, work.planned)))
        return effects

    def _want(self) -> list[Effect]:
        room = self._window_bytes - self._unwritten_bytes
        # Fewer and larger wants: wait until a quarter of the window is free.
        if self._unwritten_bytes and room < self._window_bytes // 4:
            return []
        effects: list[Effect] = []
        ranges: list[Range] = []
        while self._spans and room > 0 and len(self._stream) < MAX_WINDOW_RANGES:
            work, offset, length = self._spans[0]
            # An idle link always asks, or a file larger than the window would never come.
            if room < length <= SMALL_BYTES and self._unwritten_bytes:
                break
            part = min(length, room)
            if part == length:
                self._spans.popleft()
            else:
                self._spans[0] = _Span(work, offset + part, length - part)
            room -= part
            self._unwritten_bytes += part
            self._on_wire_bytes += part
            self._stream.append(_Span(work, offset, part))
            ranges.append((work.file.digest, offset, part))
            if len(ranges) == MAX_WANT_RANGES:
                effects.append(Send(Want(self.session, tuple(ranges))))
                ranges = []
        if ranges:
            effects.append(Send(Want(self.session, tuple(ranges))))
        return effects

    def _take(self, frame: Frame, payload: Buffer, now: float) -> Store:
        if frame.raw_bytes > self._on_wire_bytes:
            raise UnexpectedMessage("a frame holds more than was wanted")
        self._on_wire_bytes -= frame.raw_bytes
        self._note_progress(frame.raw_bytes, now)
        pieces: list[Piece] = []
        left = frame.raw_bytes
        while left:
            work, offset, length = self._stream[0]
            part = min(length, left)
            if part == length:
                self._stream.popleft()
            else:
                self._stream[0] = _Span(work, offset + part, length - part)
            pieces.append(Piece(work.file, offset, part))
            left -= part
        return Store(frame.codec, payload, frame.raw_bytes, tuple(pieces))

    def _take_recipe(self, message: Recipe, payload: Buffer, now: float) -> list[Effect]:
        work = self._deltas.get(message.digest)
        if work is None or work.asked is None or work.asked != message.offset:
            raise UnexpectedMessage(f"a recipe of {short(message.digest)} was not asked for")
        work.page = recipe.unpack(payload, room=work.file.size - work.planned)
        work.asked = None
        self._note_progress(PROGRESS_BYTES, now)
        return self._plan(work)

    def _plan(self, work: _Work) -> list[Effect]:
        if work.page is None or work.find is None:
            return []
        plan = recipe.plan(work.page, work.planned, work.find)
        work.page = None
        work.planned = plan.end
        if plan.end == work.file.size:
            del self._deltas[work.file.digest]
        self._spans.extend(_Span(work, offset, length) for offset, length in plan.fetches)
        return [CopyRanges(work.file, tuple(plan.copies))] if plan.copies else []

    def _put(self, work: _Work, length: int) -> list[Effect]:
        work.left -= length
        if work.left:
            return []
        if is_whole(work.file):
            self._drop(work.file)
            return []
        return [FinishFile(work.file)]

    def _drop(self, file: WantedFile) -> None:
        del self._works[file.ticket]
        del self.pending[file.ticket]
        self.files_done += 1

    def _note_progress(self, added_bytes: int, now: float) -> None:
        self._progress_bytes += added_bytes
        if self._progress_bytes >= PROGRESS_BYTES:
            self._progress_bytes = 0
            self.deadline = now + self._stall_s

    def _close(self) -> None:
        self.state = State.CLOSED
        self.deadline = None
