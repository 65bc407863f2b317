"""Waiting for a place that somebody else gives to, who may be gone."""

from time import monotonic
from typing import Final

from filesync.errors import Unavailable
from filesync.sync.places import Identity
from filesync.sync.remote.holders import Holders
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.wire import Ping, Refuse

LOST_S: Final = 2.0
"""How long a gift waits for a place that somebody held who is lost."""
NOTICE_S: Final = 0.2
"""How long it takes to see that somebody is lost: all that he has sent is read before that."""
KNOWN_S: Final = 6.0
"""How long it takes until what had come is known, which the kernel is asked now and then."""
SILENT_S: Final = 15.0
"""Who gives, and from whom nothing comes for so long, is taken for lost where somebody else waits: as
when a machine was put to sleep, or has another address now. An honest one answers, and pings three times
meanwhile; of a message that takes longer, as over a slow link, the kernel says what has come."""
MOST_STEP_S: Final = 0.5
"""So much of the time between two looks counts at most: while this process is suspended it hears nobody."""


class Waiting:
    """How long ``channel`` waits for what others give to."""

    def __init__(self, holders: Holders, channel: Channel) -> None:
        self._holders = holders
        self._channel = channel
        self._looked_s = monotonic()
        self._waited_s = 0.0
        self._kept_s = 0.0  # of that, for who was not lost
        self._taken_bytes = 0  # in whole messages
        self._came_bytes = 0

    def goes_on(self, directory: Identity) -> bool:
        """Say whether to try again soon, as whoever gives to ``directory`` may be gone."""
        before_s, self._looked_s = self._looked_s, monotonic()
        self._waited_s += min(self._looked_s - before_s, MOST_STEP_S)
        if self._holders.is_losing(directory):
            return self._waited_s - self._kept_s <= LOST_S
        giver = self._holders.giver(directory)
        if giver is None or giver is self._channel:
            return self._waited_s <= NOTICE_S
        if self._is_heard(giver):
            return False
        self._kept_s = self._waited_s
        if self._waited_s > SILENT_S:
            _give_up(giver)
            self._waited_s = self._kept_s = 0.0
        return True

    def _is_heard(self, giver: Channel) -> bool:
        """Say whether ``giver`` has answered, or anything comes from it."""
        giver.send_nowait(Ping())  # who is lost shows by that
        came_bytes = giver.moved().came
        if self._waited_s <= NOTICE_S:
            self._taken_bytes = giver.wire_in
        if self._waited_s <= KNOWN_S:
            self._came_bytes = came_bytes
        return giver.wire_in != self._taken_bytes or came_bytes != self._came_bytes


def _give_up(giver: Channel) -> None:
    error = Unavailable(
        f"nothing came from this client for {SILENT_S:.0f} s, and another one gives to the same place now"
    )
    giver.send_nowait(Refuse(0, error.code, str(error)))  # it may wake up
    giver.lose(error)
