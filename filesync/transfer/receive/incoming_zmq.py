"""The receiving side of a data plane."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from time import monotonic
from typing import Final, TypeVar

from filesync.digest import Digest
from filesync.process.descriptors import may_open
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.flow import ALL_WINDOWS_BYTES, LEAST_WINDOW_BYTES, Flow
from filesync.transfer.receive.effects import Feed
from filesync.transfer.receive.landing_disk import Update, cut_ahead
from filesync.transfer.receive.pull_zmq import Pull
from filesync.transfer.receive.told import Told
from filesync.transfer.receive.works import MAX_DELTA_FILES
from filesync.transfer.replica import Replica
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.threads import until_done, while_wanted
from filesync.transfer.timeouts import Timeouts

T = TypeVar("T")
DESCRIPTORS_A_FILE: Final = 8
"""Of those that this process may have, for each large file that is made with the help of old ones;
two or three of them are used."""
Reach = Callable[[Replica, bool, Timeouts], Awaitable[Channel]]
"""As ``pull_zmq.Connect``, with how long to wait."""


class Incoming:
    """Pulls into updates, and remembers the recipes of what it has put together.

    Args:
        pool: the updates are worked on in.
        reach: gives the connection to a replica.
        window_bytes: what one pull has wanted and not written at most, where few are under way.
    """

    def __init__(self, pool: Executor, reach: Reach, *, window_bytes: int) -> None:
        self._pool = pool
        self._reach = reach
        self._window_bytes = window_bytes
        self._pulls: set[Pull] = set()
        # Peers have told them: nobody else is told them again.
        self._landed = RecipeCache()
        self._ahead = asyncio.Lock()

    async def pull(
        self,
        update: Update,
        replicas: Sequence[Replica],
        *,
        tree: Digest,
        standby: Sequence[Replica],
        progress: Callable[[Progress], None] | None,
        timeouts: Timeouts,
        flow: Flow,
        feed: Feed | None,
        told: Told | None,
    ) -> PullStats:
        """Fetch all that ``update`` wants; see ``DataPlane.pull``."""
        started = monotonic()
        stats = PullStats()

        def note() -> None:
            if progress is not None:
                progress(stats.progress())

        try:
            await self._in_thread(update.prepare)
            pull = Pull(
                update,
                replicas,
                tree=tree,
                standby=standby,
                connect=lambda replica, is_only: self._reach(replica, is_only, timeouts),
                flow=flow,
                timeouts=timeouts,
                window_bytes=self._window_bytes,
                pool=self._pool,
                stats=stats,
                on_progress=note,
                feed=feed,
                told=told,
                recipes=self._landed,
            )
            with self._sharing(pull):
                await pull.run()
            await self._in_thread(update.finish)
        except BaseException:
            await self._in_thread(update.abort)
            raise
        stats.seconds = monotonic() - started
        return stats

    async def cut_ahead(self, digest: Digest, opening: Callable[[], int]) -> None:
        """Cut an old file that will be put together anew; see ``DataPlane.cut_ahead``."""
        async with self._ahead:
            await while_wanted(cut_ahead, self._landed, digest, opening)

    @contextmanager
    def _sharing(self, pull: Pull) -> Iterator[None]:
        """Have all pulls that are under way share what there is, and this one too for the block."""
        self._pulls.add(pull)
        self._share_out()
        try:
            yield
        finally:
            self._pulls.remove(pull)
            self._share_out()

    def _share_out(self) -> None:
        count = max(len(self._pulls), 1)
        window = max(ALL_WINDOWS_BYTES // count, LEAST_WINDOW_BYTES)
        files = may_open() // DESCRIPTORS_A_FILE // count
        for pull in self._pulls:
            pull.limit(min(window, self._window_bytes), min(files, MAX_DELTA_FILES))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        # Cancelled, the thread goes on: nobody may abort the update under its hands.
        return await until_done(asyncio.get_running_loop().run_in_executor(self._pool, call))
