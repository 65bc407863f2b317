"""Workers that take the same layers at the same time, in a row: each passes them on to the next.

So whoever holds them gives them once, and all of the row have them about as soon as its first.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from filesync.digest import Digest
from worker.wire.orders import Replica

OPENING_S: Final = 2.0
"""How long to wait for a worker to say that it passes on what it takes."""


class Passer:
    """A worker's place in a row; made by ``Passers``.

    Attributes:
        worker: its name.
        before: whom it takes from; None for the first of a row.
        next: who takes from it.
        is_over: it takes no more itself.
    """

    def __init__(self, worker: str, before: "Passer | None") -> None:
        self.worker = worker
        self.before = before
        self.next: Passer | None = None
        self.is_over = False
        self._replica: asyncio.Future[Replica | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._close: Callable[[], Awaitable[None]] | None = None

    def open(self, replica: Replica, close: Callable[[], Awaitable[None]]) -> None:
        """It passes on, at ``replica``, what it takes, until ``close``."""
        self._replica.set_result(replica)
        self._close = close

    async def opened(self) -> Replica | None:
        """Return where the next takes from it; None where it passes nothing on, or not soon."""
        await asyncio.wait([self._replica], timeout=OPENING_S)
        return self._replica.result() if self._replica.done() else None

    async def close(self) -> None:
        """Have it pass on nothing more, or never begin. Idempotent."""
        if not self._replica.done():
            self._replica.set_result(None)
        close, self._close = self._close, None
        if close is not None:
            await close()


class Passers:
    """All rows, by the tree of the blobs that are taken. For one event loop."""

    def __init__(self) -> None:
        self._rows: dict[Digest, list[Passer]] = {}

    def join(self, blobs: Digest, worker: str) -> Passer | None:
        """Return a place for ``worker`` in a row, to be left at its end; None if it has one.

        It is behind the first one there that nobody takes from.
        """
        row = self._rows.setdefault(blobs, [])
        if any(one.worker == worker for one in row):
            return None  # it would come to wait for itself
        before = next((one for one in row if one.next is None), None)
        place = Passer(worker, before)
        if before is not None:
            before.next = place
        row.append(place)
        return place

    async def leave(self, blobs: Digest, place: Passer) -> None:
        """Take no more. It is passed on still to who takes it now."""
        row = self._rows[blobs]
        row.remove(place)
        if not row:
            del self._rows[blobs]
        place.is_over = True
        if place.next is None:
            await place.close()
        if (before := place.before) is not None:
            before.next = None
            if before.is_over:
                await before.close()
