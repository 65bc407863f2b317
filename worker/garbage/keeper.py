"""A worker's orders about its disk, and whether it is crowded."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from filesync.disk.reserve import keep_reserve, make_room
from filesync.transfer.threads import acquired, in_thread
from worker.exec import ExecState
from worker.garbage.choice import Plan, may_remove
from worker.garbage.collector import Collector
from worker.store import Store
from worker.wire.disk import (
    Holdings,
    Holds,
    Kind,
    Prune,
    PrunePolicy,
    ReadHoldings,
    ReadUsage,
    Touch,
    Usage,
)
from worker.wire.orders import Finished

log = logging.getLogger(__name__)


class DiskKeeper:
    """Looks after what is in ``store`` and in the caches of ``exec_state``."""

    def __init__(self, store: Store, exec_state: ExecState | None) -> None:
        self._store = store
        self._exec_state = exec_state
        self._collector = Collector(store)
        self._lock = asyncio.Lock()

    async def perform(
        self,
        order: ReadUsage | Prune | ReadHoldings | Touch,
        *,
        sweep_nodes: Callable[[], bool],
    ) -> Usage | Holdings | Finished:
        """Carry out an order; ``sweep_nodes`` says whether manifests that nothing needs may go."""
        if isinstance(order, Touch):
            for ref in order.refs:
                self._store.refs.touch(ref, time.time())
            return Finished()
        async with self._lock:
            match order:
                case ReadUsage(holds, verbose):
                    caches = self._caches_in_use()
                    usage = self._collector.usage
                    return await in_thread(usage, holds, caches, verbose=verbose)
                case Prune():
                    state = self._store.work.parent
                    await in_thread(make_room, state)
                    try:
                        return await self._prune_all(order, sweep_nodes)
                    finally:
                        await in_thread(keep_reserve, state)
                case ReadHoldings():
                    return await in_thread(self._collector.holdings)

    async def is_crowded(self, policies: Sequence[PrunePolicy]) -> bool:
        """Whether the policies would remove something that nobody here holds."""
        free_bytes = shutil.disk_usage(self._store.work).free
        if not any(may_remove(policy, free_bytes) for policy in policies):
            return False  # counting takes time, and a default policy must not cost any
        async with self._lock:
            plan = await self._plan(policies, Holds())
            return bool(plan.remove)

    async def _plan(self, policies: Sequence[PrunePolicy], holds: Holds) -> Plan:
        return await in_thread(self._collector.plan, policies, holds, self._caches_in_use())

    async def _prune_all(self, order: Prune, sweep_nodes: Callable[[], bool]) -> Usage:
        usage = await self._prune(order.policies, order.holds, verbose=order.verbose)
        if sweep_nodes():
            swept = await in_thread(self._collector.sweep_nodes)
            rows = (*usage.rows, *([swept] if swept.count else []))
            usage = msgspec.structs.replace(usage, rows=rows)
        else:
            usage = msgspec.structs.replace(usage, swept=False)
        _log_removed(usage)
        # What was made again meanwhile has been told of.
        gone = tuple(ref for ref in usage.refs if self._store.refs.find(ref) is None)
        return msgspec.structs.replace(usage, refs=gone)

    async def _prune(
        self, policies: Sequence[PrunePolicy], holds: Holds, *, verbose: bool
    ) -> Usage:
        plan = await self._plan(policies, holds)
        make = partial(self._store.make_work, "caches")
        aside = await acquired(make, self._store.drop_work)
        try:
            detached = self._detach(plan, aside)
            removing = self._collector.remove
            return await in_thread(removing, plan, detached, verbose=verbose)
        finally:
            await in_thread(self._store.drop_work, aside)

    def _detach(self, plan: Plan, aside: Path) -> set[str]:
        if self._exec_state is None:
            return set()
        caches = self._exec_state.caches
        names = [item.key.id for item in plan.remove if item.key.kind is Kind.CACHE]
        return {name for name in names if caches.detach(name, aside / name)}

    def _caches_in_use(self) -> frozenset[str]:
        return frozenset() if self._exec_state is None else self._exec_state.caches.in_use()


def _log_removed(usage: Usage) -> None:
    for row in usage.rows:
        log.info("removed kind=%s count=%d bytes=%d", row.kind, row.count, row.size)
