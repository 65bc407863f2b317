"""How far bytes to and from registries have come."""

import time
from collections.abc import Callable
from typing import Final

OnShare = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""
TELL_EVERY_S: Final = 0.2


class Meter:
    """Counts bytes and tells of them, now and then."""

    def __init__(self, on_share: OnShare) -> None:
        self.total = 0
        self.done = 0
        self._on_share = on_share
        self._told_s = 0.0

    def expect(self, size: int) -> None:
        """Note that ``size`` bytes more will come."""
        self.total += size

    def add(self, size: int) -> None:
        """Count ``size`` more bytes."""
        self.done += size
        now_s = time.monotonic()
        if now_s - self._told_s > TELL_EVERY_S:
            self._told_s = now_s
            self._on_share(min(self.done, self.total), self.total)
