"""Large files that come while the peer still reads them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Container, Iterable
from functools import partial
from typing import Final

from filesync.digest import Digest
from filesync.disk.updating.early import EarlyFile, Keeper
from filesync.early import EARLY_BYTES, stand_in_of
from filesync.errors import FilesyncError, StoreError
from filesync.sync.remote.fields import MAX_BEGUN, Begun
from filesync.transfer.stats import PullStats
from filesync.transfer.threads import until_done

MOST_AT_ONCE: Final = 2
MOST_WAITING: Final = MAX_BEGUN
"""Those that are told of while so many wait come with all others."""
log = logging.getLogger(__name__)


class Earlies:
    """Those of one place; ``stop`` before its last update is begun, or what they come to is given up.

    Attributes:
        pulled: what they took, each that has come whole.
    """

    def __init__(
        self,
        keeper: Keeper,
        pull: Callable[[EarlyFile], Awaitable[PullStats]],
        *,
        most: int = MOST_AT_ONCE,
    ) -> None:
        """Begin nothing yet.

        Args:
            keeper: of what has come.
            pull: brings one; any error costs no more than what has come.
            most: so many come at once.
        """
        self.pulled: list[PullStats] = []
        self._keeper = keeper
        self._pull = pull
        self._most = most
        # By what stands for the digest: of those that have that in common the peer gives but one.
        self._waiting: dict[Digest, Begun] = {}
        self._coming: dict[Digest, tuple[bytes, asyncio.Task[None]]] = {}

    def begin(self, begun: Iterable[Begun]) -> None:
        """Have files come in this order, as many at once as may."""
        for one in begun:
            _, size, mtime_ns = one
            digest = stand_in_of(size, mtime_ns)
            has_room = len(self._waiting) < MOST_WAITING
            if has_room and size >= EARLY_BYTES and digest not in self._coming:
                self._waiting.setdefault(digest, one)
        self._begin_next()

    async def come(self, directories: Container[bytes]) -> None:
        """Return when none that are in ``directories`` come any more; those that wait will not."""
        self._waiting = {
            digest: one
            for digest, one in self._waiting.items()
            if _above(one[0]) not in directories
        }
        await _end(
            [task for path, task in self._coming.values() if _above(path) in directories]
        )

    async def come_all(self) -> None:
        """Return when none come any more; those that wait will not."""
        self._waiting.clear()
        await _end([task for _, task in self._coming.values()])

    async def stop(self) -> None:
        """Let no more come; nobody writes to the place any more then, however often it is cancelled. Idempotent."""
        self._waiting.clear()
        tasks = [task for _, task in self._coming.values()]
        for task in tasks:
            task.cancel()
        await until_done(_end(tasks))

    def _begin_next(self) -> None:
        while self._waiting and len(self._coming) < self._most:
            digest = next(iter(self._waiting))
            path, size, mtime_ns = self._waiting.pop(digest)
            file = EarlyFile(self._keeper, path, size, mtime_ns)
            task = asyncio.create_task(self._bring(file, path))
            self._coming[digest] = path, task
            task.add_done_callback(partial(self._note_ended, digest))

    def _note_ended(self, digest: Digest, _: asyncio.Task[None]) -> None:
        del self._coming[digest]
        self._begin_next()

    async def _bring(self, file: EarlyFile, path: bytes) -> None:
        try:
            self.pulled.append(await self._pull(file))
        except FilesyncError as exc:
            log.info("a file comes with all others: path=%r why=%s", path, exc)
            if isinstance(exc, StoreError):
                self._most = 0  # most likely the disk is full: no more is sent in vain


def _above(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
