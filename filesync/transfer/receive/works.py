"""Large files on their way: which are begun, and how many at once. Pure.

One that is made with the help of old ones is open from its beginning on, and so are they. It waits
for its turn; others are only begun by what comes of them. One whose old file is a guess may wait for what
others show, and come without its help.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from filesync.digest import Digest
from filesync.transfer.receive.guesses import Guesses
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
        self._guesses = Guesses()
        self._held: dict[bytes, list[Work]] = {}
        self._plain: list[Work] = []
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
            if not self._may_begin(work):
                continue
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
            if work.guess is not None:
                self._guesses.end(work.guess, work.file.size, work.copied)
                self._waiting.extendleft(reversed(self._held.pop(work.guess, [])))

    def take_plain(self) -> list[Work]:
        """Return those that are to come without the help of old ones after all, as of what was begun."""
        plain, self._plain = self._plain, []
        return plain

    def drop(self, digest: Digest) -> list[Work]:
        """Let go of the files of this content of which something is still to come; return them."""
        dropped = [work for work in self._all if work.file.digest == digest and work.left]
        for work in dropped:
            held = self._held.get(work.guess, []) if work.guess is not None else []
            for queue in (self._waiting, held):
                if work in queue:
                    queue.remove(work)
                    self._all.discard(work)
                    break
            else:
                self.end(work)
        return dropped

    def _may_begin(self, work: Work) -> bool:
        """Say whether a file is made with the help of old ones now; else it waits, or comes without."""
        if work.guess is None:
            return True
        may = self._guesses.begin(work.guess, work.file.size)
        if may is None:
            self._held.setdefault(work.guess, []).append(work)
        elif not may:
            work.is_delta = False
            self._plain.append(work)
        return bool(may)

    def _has_room(self, work: Work) -> bool:
        if not self._helped:
            return True
        is_small = self._helped_bytes + work.file.size <= MAX_DELTA_FILES_BYTES
        return is_small and self._helped < self.most
