"""Large files that come while the peer still reads them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Container, Iterable
from typing import Final

from filesync.disk.updating.early import EarlyFile
from filesync.disk.updating.update import TreeUpdate
from filesync.early import EARLY_BYTES
from filesync.errors import FilesyncError
from filesync.sync.remote.fields import Begun
from filesync.transfer.stats import PullStats

MOST_AT_ONCE: Final = 2
MOST: Final = 64
"""Of one place: those that are whole are held open until they are put in place."""
log = logging.getLogger(__name__)


class Earlies:
    """Those of one update; ``stop`` before it is finished, or given up.

    Attributes:
        pulled: what they took, each that has come whole.
    """

    def __init__(
        self,
        update: TreeUpdate,
        pull: Callable[[EarlyFile], Awaitable[PullStats]],
        *,
        most: int = MOST_AT_ONCE,
    ) -> None:
        """Begin nothing yet.

        Args:
            update: where they go.
            pull: brings one; any error costs no more than what has come.
            most: so many come at once.
        """
        self.pulled: list[PullStats] = []
        self._update = update
        self._pull = pull
        self._most = most
        self._coming: dict[bytes, asyncio.Task[None]] = {}

    def begin(self, begun: Iterable[Begun]) -> None:
        """Have files come, unless as many as come at once do so already."""
        for path, size, mtime_ns in begun:
            running = sum(not task.done() for task in self._coming.values())
            has_room = running < self._most and len(self._coming) < MOST
            if has_room and size >= EARLY_BYTES and path not in self._coming:
                file = EarlyFile(self._update, path, size, mtime_ns)
                self._coming[path] = asyncio.create_task(self._bring(file, path))

    async def come(self, directories: Container[bytes]) -> None:
        """Return when those that are in ``directories`` have come, or will not."""
        await self._end(
            [
                task
                for path, task in self._coming.items()
                if path.rpartition(b"/")[0] in directories
            ]
        )

    async def stop(self) -> None:
        """Let no more come; nobody writes to the place any more then. Idempotent."""
        for task in self._coming.values():
            task.cancel()
        await self._end(self._coming.values())

    @staticmethod
    async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)

    async def _bring(self, file: EarlyFile, path: bytes) -> None:
        try:
            self.pulled.append(await self._pull(file))
        except FilesyncError as exc:
            log.info("a file comes with all others: path=%r why=%s", path, exc)
