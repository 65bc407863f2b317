"""Who is not let in, as far as that is worth a line in the log: strangers must not fill it. Pure."""

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from filesync.keys.files import PublicKey

EVERY_S: Final = 60.0
"""A key has a line at most so often."""
MAX_KEYS: Final = 16
"""Keys that have one in that time: whoever makes up keys has no more."""


class Told(NamedTuple):
    """What a line has to say.

    Attributes:
        times: how often the key was refused since its last line, this time too.
        others: how often keys were that had no line.
    """

    times: int
    others: int


class _Known(msgspec.Struct):
    told_at: float
    untold: int = 0


class Strangers:
    """Keys that were refused, those with the latest line last."""

    def __init__(self) -> None:
        self._known: dict[PublicKey, _Known] = {}
        self._others = 0

    def note(self, key: "PublicKey", now: float) -> Told | None:
        """Take note that ``key`` was refused; return what a line of it says, if it is to have one."""
        count = 1
        if (known := self._known.get(key)) is not None:
            if now - known.told_at < EVERY_S:
                known.untold += 1
                return None
            count += self._known.pop(key).untold
        elif not self._has_room(now):
            self._others += 1
            return None
        told = Told(count, self._others)
        self._known[key], self._others = _Known(now), 0
        return told

    def _has_room(self, now: float) -> bool:
        """Say whether a key may have its first line; the one whose last is oldest may give way."""
        if len(self._known) == MAX_KEYS:
            key = next(iter(self._known))
            if now - self._known[key].told_at < EVERY_S:
                return False
            self._others += self._known.pop(key).untold
        return True
