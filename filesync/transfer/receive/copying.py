"""What is to be copied from old files, in the order in which it is best done. Pure."""

from heapq import heappop, heappush
from typing import Final

from filesync.transfer.receive.units import CopyRanges

TURN_BYTES: Final = 8 << 20
"""Copied in one turn of the disk: 5 ms. What comes meanwhile is written in between."""


class Copying:
    """Copies that wait, each file's from its start on: what is hashed follows what is there.

    The chunks of a segment that no old file has are known later than the segments after it, but
    nothing behind them can be hashed before they are copied.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, CopyRanges]] = []
        self._count = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, effect: CopyRanges) -> None:
        """Have ``effect`` wait for its turn."""
        self._count += 1
        first = effect.copies[0].offset
        heappush(self._waiting, (effect.work.file.ticket, first, self._count, effect))

    def take(self) -> list[CopyRanges]:
        """Return what is to be done next: one at least, and no more than TURN_BYTES if more."""
        taken: list[CopyRanges] = []
        room = TURN_BYTES
        while self._waiting and (not taken or self._waiting[0][-1].size <= room):
            taken.append(heappop(self._waiting)[-1])
            room -= taken[-1].size
        return taken
