"""Which replica a pull asks next. Pure: told of times and bytes, asked for verdicts."""

from collections.abc import Sequence
from typing import Final

from filesync.transfer.replica import Replica

TRIAL_AFTER_S: Final = 3.0
"""So long at least the replicas that are asked first give alone."""
SPREAD_TIMES: Final = 3.0
"""Pulls that began together have their first trials spread over so many times that wait: they all
would ask the same replica at once."""
LATER_TIMES: Final = 4.0
"""After each trial the next one waits so many times longer."""
TRIAL_BYTES: Final = 2 << 20
TRIAL_S: Final = 2.0
"""What a trial takes at most."""
MUCH_FASTER: Final = 2.0


class Candidates:
    """Replicas that are not asked yet.

    Those that stand by are asked only when nobody else is left. But one that is asked first may
    be slow itself, where what it has comes to it slowly. So from time to time one of those that
    stand by is put on trial: where it turns out to be much faster it stays.

    Args:
        first: replicas to ask, best first.
        standby: those that stand by, best first.
        now: seconds on any monotonic clock; every later ``now`` uses the same one.
        spread: from 0 to 1, picked at random.
    """

    def __init__(
        self, first: Sequence[Replica], standby: Sequence[Replica], *, now: float, spread: float
    ) -> None:
        self._first = list(first)
        self._standby = list(standby)
        self._wait_s = TRIAL_AFTER_S * (1 + SPREAD_TIMES * spread)
        self._try_at_s = now + self._wait_s
        self._began_s = 0.0
        self._to_beat = 0.0

    def __len__(self) -> int:
        return len(self._first) + len(self._standby)

    def take(self, *, is_alone: bool) -> Replica | None:
        """Return whom to ask next, who is no candidate any more; ``is_alone`` if nobody gives."""
        if self._first:
            return self._first.pop(0)
        return self._standby.pop(0) if is_alone and self._standby else None

    @property
    def try_at_s(self) -> float | None:
        """When a trial is due; None if nobody stands by."""
        return self._try_at_s if self._standby else None

    def take_on_trial(self, now: float, rate: float) -> Replica | None:
        """Return whom to put on trial, if it is time; ``rate`` is what it has to beat."""
        if not self._standby or now < self._try_at_s:
            return None
        self._wait_s *= LATER_TIMES
        self._try_at_s = now + self._wait_s
        self._began_s, self._to_beat = now, rate
        return self._standby.pop(0)

    def stays(self, now: float, content_bytes: int) -> bool | None:
        """Say whether the one on trial stays, by what it has given; None while that is open."""
        seconds = now - self._began_s
        if content_bytes < TRIAL_BYTES and seconds < TRIAL_S:
            return None
        return content_bytes > seconds * self._to_beat * MUCH_FASTER

    def put_back(self, replica: Replica) -> None:
        """Have one that was on trial stand by again."""
        self._standby.append(replica)
