"""Large files on their way: which are begun, and how many at once. Pure.

One that is made with the help of old ones is open from its beginning on, and so are they. It waits
for its turn; others are only begun by what comes of them.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from filesync.digest import Digest
from filesync.transfer.receive.units import Work

MAX_DELTA_FILES: Final = 128
MAX_DELTA_FILES_BYTES: Final = 256 << 20
"""Large files whose old ones are cut, or whose recipes are worked off, at once; one at least."""
CUT_BYTES: Final = 4 << 20
"""Files whose old ones are cut by one turn of a thread: a turn costs as much as 100 kB."""


class Works:
    """The large files that are wanted and not in place.

    Attributes:
        most: how many are made with the help of old ones at once.
    """

    def __init__(self) -> None:
        self.most = MAX_DELTA_FILES
        self._all: set[Work] = set()
        self._waiting: deque[Work] = deque()
        self._helped = 0
        self._helped_bytes = 0

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def add(self, work: Work) -> None:
        """Take a file; with the help of old ones it is begun when its turn comes."""
        self._all.add(work)
        if work.is_delta:
            self._waiting.append(work)

    def begin(self) -> Iterator[list[Work]]:
        """Yield those whose turn it is, as many at once as one turn of a thread cuts old files for."""
        begun: list[Work] = []
        while self._waiting and self._has_room(self._waiting[0]):
            work = self._waiting.popleft()
            self._helped += 1
            self._helped_bytes += work.file.size
            begun.append(work)
            if sum(work.file.size for work in begun) >= CUT_BYTES:
                yield begun
                begun = []
        if begun:
            yield begun

    def end(self, work: Work) -> None:
        """Let go of a file that was begun; another may have its turn."""
        self._all.discard(work)
        if work.is_delta:
            self._helped -= 1
            self._helped_bytes -= work.file.size

    def drop(self, digest: Digest) -> list[Work]:
        """Let go of the files of this content of which something is still to come; return them."""
        dropped = [work for work in self._all if work.file.digest == digest and work.left]
        for work in dropped:
            if work in self._waiting:
                self._waiting.remove(work)
                self._all.discard(work)
            else:
                self.end(work)
        return dropped

    def _has_room(self, work: Work) -> bool:
        if not self._helped:
            return True
        is_small = self._helped_bytes + work.file.size <= MAX_DELTA_FILES_BYTES
        return is_small and self._helped < self.most
