"""Which connections have to be cut, so that no peer takes this process's memory or its place.

ZeroMQ's own limits bound the length of a frame and the number of whole messages that wait, but not
the frames of a message that never ends. So this goes by what each connection has brought beyond the
whole messages that were taken from it: an honest one is never ahead by more than one message, or, as
long as nobody takes them, by those that may wait. Pure: readings and times in, verdicts out.
"""

from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Final, NamedTuple

import msgspec

PATIENCE_TURNS: Final = 3
"""Times the event loop must come round, taking all whole messages that wait, before a verdict."""

REFUSAL_S: Final = 1.0
"""What a refused peer has to read why."""
SLACK_BYTES: Final = 4 << 10
"""Bytes of handshake and heartbeats that are forgiven whenever a whole message was taken."""
SILENT_S: Final = 60.0
"""After which a connection is dead: who has greeted says something much more often."""


class Limits(NamedTuple):
    """What connections may take.

    Attributes:
        connections: how many at once.
        greeting_s: to greet in.
        greeting_bytes: that come before the greeting is taken.
        message_bytes: of one message and what ZeroMQ adds to it.
        queued_bytes: of the messages that may wait while nobody takes them.
        unfinished_bytes: of unfinished messages, of all connections together.
        silent_s: in which who has greeted is heard.
    """

    connections: int
    greeting_bytes: int
    message_bytes: int
    queued_bytes: int
    greeting_s: float = 10.0
    unfinished_bytes: int = 128 << 20
    silent_s: float = SILENT_S


class Cut(NamedTuple):
    """End this connection."""

    fd: int
    reason: str


class _Connection(msgspec.Struct):
    is_greeted: bool = False
    is_fresh: bool = False  # a whole message was taken since it was last read
    taken: int = 0  # bytes of whole messages that were taken, and what was forgiven
    held: int = 0  # bytes that have come beyond those
    since: int = 0  # the turn at which a message was last taken, or bytes came after none
    over_at: int | None = None  # the turn since which it has been over its limit without that


class Connections:
    """The connections of some sockets, by file descriptor. Not safe across threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all: dict[int, _Connection] = {}
        self._silent: dict[int, float] = {}  # not greeted, since when; oldest first
        self._refused: dict[int, float] = {}  # likewise
        self._heard: dict[int, float] = {}  # greeted, when last; longest ago first
        self._over: set[int] = set()
        self._held = 0
        self._held_over_at: int | None = None
        self._turn = 0

    def __len__(self) -> int:
        return len(self._all)

    # --- what has happened ------------------------------------------------------------------

    def opened(self, fd: int, now: float) -> None:
        """A connection has been made."""
        self.closed(fd)
        self._all[fd] = _Connection()
        self._silent[fd] = now

    def closed(self, fd: int) -> None:
        """A connection has ended; unknown ones are fine."""
        if connection := self._all.pop(fd, None):
            self._hold(fd, connection, 0)
            self._silent.pop(fd, None)
            self._refused.pop(fd, None)
            self._heard.pop(fd, None)
            self._over.discard(fd)

    def greeted(self, fd: int) -> None:
        """A peer has greeted as it should."""
        if (connection := self._all.get(fd)) and fd not in self._refused:
            connection.is_greeted = True
            if (since := self._silent.pop(fd, None)) is not None:
                self._heard[fd] = since

    def refused(self, fd: int, now: float) -> None:
        """A peer was told that this side talks to it no more."""
        if fd in self._all:
            self._silent.pop(fd, None)
            self._heard.pop(fd, None)
            self._refused.setdefault(fd, now)

    def heard(self, fd: int, now: float) -> None:
        """Something has come by a connection, or what was sent has arrived."""
        if self._heard.pop(fd, None) is not None:
            self._heard[fd] = now

    def quiet(self, since: float) -> list[int]:
        """Return who has greeted and was not heard after ``since``."""
        return [fd for fd, _ in takewhile(lambda one: one[1] <= since, self._heard.items())]

    def delivered(self, fd: int, wire_bytes: int) -> None:
        """A whole message of this connection was taken; see ``channel_zmq.wire_bytes_of``."""
        if connection := self._all.get(fd):
            connection.is_fresh = True
            connection.taken += wire_bytes
            connection.since = self._turn
            if connection.over_at is not None:
                connection.over_at = self._turn
            self._hold(fd, connection, max(0, connection.held - wire_bytes))

    def read(self, fd: int, came_bytes: int) -> None:
        """ZeroMQ has read ``came_bytes`` of this connection, ever."""
        if connection := self._all.get(fd):
            # What waits unread was looked at before what has come: the next look may find less read.
            connection.taken = min(connection.taken, came_bytes)
            held = came_bytes - connection.taken
            if connection.is_fresh and held <= SLACK_BYTES:
                connection.taken, held = came_bytes, 0
            connection.is_fresh = False
            if not connection.held:
                connection.since = self._turn
            self._hold(fd, connection, held)

    def turned(self) -> None:
        """The event loop has come round: whole messages that waited before have been taken."""
        self._turn += 1

    def _hold(self, fd: int, connection: _Connection, held: int) -> None:
        self._held += held - connection.held
        connection.held = held
        limit = self._limits
        if held <= (limit.message_bytes if connection.is_greeted else limit.greeting_bytes):
            connection.over_at = None
            self._over.discard(fd)
        elif connection.over_at is None:
            connection.over_at = self._turn
            self._over.add(fd)
        if self._held <= limit.unfinished_bytes:
            self._held_over_at = None
        elif self._held_over_at is None:
            self._held_over_at = self._turn

    # --- what follows -----------------------------------------------------------------------

    @property
    def awaits_turn(self) -> bool:
        """Whether a verdict waits for the event loop to come round."""
        return bool(self._over) or self._held_over_at is not None

    def wake_s(self, now: float) -> float | None:
        """Return in how many seconds somebody's time is over; None for nobody's."""
        waits = [max(0.0, since + time_s - now) for _, since, time_s, _ in self._on_notice()]
        return min(waits, default=None)

    def verdicts(self, now: float) -> list[Cut]:
        """Return what is to be cut; it is forgotten here."""
        cuts = [*self._too_late(now), *self._too_much()]
        for cut in cuts:
            self.closed(cut.fd)
        while len(self._all) > self._limits.connections:
            # Who has greeted stays; of the others goes who has had the most time to.
            fd = next(iter(self._refused or self._silent or reversed(self._all)))
            cuts.append(Cut(fd, "too many connections"))
            self.closed(fd)
        while (most := self._most_unfinished()) is not None:
            cuts.append(Cut(most, "too much is unfinished, and most of it here"))
            self.closed(most)
        return cuts

    def _most_unfinished(self) -> int | None:
        """Return who holds most of too much; what moves is no one's unfinished message."""
        if self._held_over_at is None or self._turn - self._held_over_at < PATIENCE_TURNS:
            return None
        stuck = {
            fd: connection.held
            for fd, connection in self._all.items()
            if self._turn - connection.since >= PATIENCE_TURNS
        }
        if sum(stuck.values()) <= self._limits.unfinished_bytes:
            return None
        return max(stuck, key=lambda fd: (stuck[fd], fd))

    def _on_notice(self) -> Iterator[tuple[int, float, float, str]]:
        """Yield who has least time to greet, to speak, to take a refusal: whom, since when, how long."""
        limit_s = self._limits.greeting_s
        for fd, since in islice(self._silent.items(), 1):
            yield fd, since, limit_s, f"no greeting within {limit_s:.0f} s"
        for fd, since in islice(self._refused.items(), 1):
            yield fd, since, REFUSAL_S, "it was refused"
        for fd, since in islice(self._heard.items(), 1):
            yield fd, since, self._limits.silent_s, "it fell silent"

    def _too_late(self, now: float) -> list[Cut]:
        late: list[Cut] = []
        while due := [
            Cut(fd, reason)
            for fd, since, time_s, reason in self._on_notice()
            if now - since >= time_s
        ]:
            for cut in due:
                self.closed(cut.fd)
            late += due
        return late

    def _too_much(self) -> list[Cut]:
        return [
            Cut(fd, f"{connection.held:,} bytes came that are no whole message")
            for fd in sorted(self._over)
            if (connection := self._all[fd]).held > self._limits.queued_bytes
            or (
                connection.over_at is not None
                and self._turn - connection.over_at >= PATIENCE_TURNS
            )
        ]
