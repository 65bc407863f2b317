"""Has workers say what takes their disks, and remove what nobody needs: one worker at a time."""

import asyncio
import logging
import time
from collections.abc import Sequence

from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable
from solver.errors import OrderFailed
from solver.manager.results.lastcopies import Holder, holds_of
from solver.manager.shared import Shared
from solver.manager.workers import WorkerLink
from solver.wire import Usages
from worker.wire.disk import (
    Holdings,
    Holds,
    Prune,
    PrunePolicy,
    ReadHoldings,
    ReadUsage,
    Usage,
)

log = logging.getLogger(__name__)


class Pruning:
    """Drives the pruning of a manager's workers.

    Two workers that were pruned at once could each count on the other to keep a blob.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lock = asyncio.Lock()
        self._crowded: set[str] = set()
        self._unswept: set[str] = set()
        self._removed: set[Digest] = set()

    async def usage(self, *, verbose: bool) -> Usages:
        """Return what takes how much disk on each worker."""
        return await self._on_all(None, verbose=verbose)

    async def prune(self, policy: PrunePolicy, *, verbose: bool) -> Usages:
        """Prune every worker; return what was removed, and what stayed."""
        return await self._on_all((policy,), verbose=verbose)

    async def relieve(self, worker: WorkerLink, policies: Sequence[PrunePolicy]) -> None:
        """Prune a worker that is crowded, unless that is about to be done."""
        if worker.name in self._crowded:
            return
        self._crowded.add(worker.name)
        try:
            async with self._lock:
                holds = self._holds(worker, await self._holders())
                usage = await self._told(worker, Prune(tuple(policies), holds))
                freed = sum(row.size for row in usage.rows)
                log.info("worker relieved worker=%s freed_bytes=%d", worker.name, freed)
        except FilesyncError as exc:
            log.warning("not relieved worker=%s reason=%s", worker.name, exc)
        finally:
            self._crowded.discard(worker.name)

    def forget(self) -> None:
        """Forget results that were removed and that nobody has.

        Not while anybody builds: what had found one before has it made again, and asks what it was.
        """
        holders = self._shared.cluster.holders
        self._shared.records.forget([ref for ref in self._removed if not holders(ref)])
        self._removed.clear()

    async def sweep(self) -> None:
        """Have workers remove the manifests that they could not while something ran there."""
        async with self._lock:
            names, self._unswept = sorted(self._unswept), set()
            for worker in filter(None, map(self._shared.cluster.named, names)):
                try:
                    await self._told(worker, Prune((), Holds()))
                except FilesyncError as exc:
                    log.warning("not swept worker=%s reason=%s", worker.name, exc)

    async def _on_all(
        self, policies: tuple[PrunePolicy, ...] | None, *, verbose: bool
    ) -> Usages:
        found: list[tuple[str, Usage]] = []
        failed: list[tuple[str, str]] = []
        async with self._lock:
            holders = await self._holders()
            for worker in list(self._shared.cluster):
                try:
                    if policies is None:
                        holds = self._holds(worker, holders)
                        usage = await self._told(worker, ReadUsage(holds, verbose))
                    else:
                        # What it has made while others were pruned may have come to these.
                        holders[worker.name] = await self._holder(worker)
                        holds = self._holds(worker, holders)
                        usage = await self._told(worker, Prune(policies, holds, verbose))
                        holders[worker.name] = await self._holder(worker)
                    found.append((worker.name, usage))
                except FilesyncError as exc:
                    log.warning("no answer worker=%s reason=%s", worker.name, exc)
                    failed.append((worker.name, str(exc)))
                    holders.pop(worker.name, None)
        return Usages(tuple(found), tuple(failed))

    def _holds(self, worker: WorkerLink, holders: dict[str, Holder]) -> Holds:
        if worker.name not in holders:
            raise Unavailable(f"worker {worker.name} does not say what it holds")
        now = dict(holders)
        for other in self._shared.cluster:
            said = holders[other.name].holdings if other.name in holders else Holdings()
            now[other.name] = Holder(said, frozenset(other.refs))
        return holds_of(worker.name, now, self._shared.leases.held(time.monotonic()))

    async def _holders(self) -> dict[str, Holder]:
        """Ask every worker what it holds; one that does not answer is left out."""
        workers = list(self._shared.cluster)
        answers = await asyncio.gather(*map(self._holder, workers), return_exceptions=True)
        holders: dict[str, Holder] = {}
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, Holder):
                holders[worker.name] = answer
            elif not isinstance(answer, FilesyncError):
                raise answer
        return holders

    @staticmethod
    async def _holder(worker: WorkerLink) -> Holder:
        holdings = await worker.call(ReadHoldings())
        if not isinstance(holdings, Holdings):
            raise OrderFailed(worker.name, "protocol", "answered with something else")
        return Holder(holdings, frozenset(worker.refs))

    async def _told(self, worker: WorkerLink, order: ReadUsage | Prune) -> Usage:
        if isinstance(order, Prune):
            worker.known.clear()  # what is sent meanwhile must not stand on what goes
        usage = await worker.call(order)
        if not isinstance(usage, Usage):
            raise OrderFailed(worker.name, "protocol", "answered with something else")
        if isinstance(order, Prune):
            self._shared.cluster.forget(worker, usage.refs)
            self._removed.update(usage.refs)
            if not usage.swept:
                self._unswept.add(worker.name)
        return usage
