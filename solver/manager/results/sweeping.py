"""Removes the manifests that nothing needs any more, while nobody can be about to need one."""

import logging
from collections.abc import Callable, Iterator

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.manifest.store import SqliteNodes
from filesync.transfer.threads import while_wanted
from solver.manager.results.pruning import Pruning
from solver.manager.shared import Shared
from solver.manager.workers import Sent
from worker.wire.orders import Swept

log = logging.getLogger(__name__)


class Sweeping:
    """Sweeps a manager's nodes, and those of workers that could not themselves.

    What no result and no idle source is made of goes.

    Args:
        nodes: those of ``shared``.
        pruning: says what of the results was removed, and has workers sweep.
        is_idle: says that nobody builds or moves anything, nor has sent trees, or asked which are
            here: these come before the order that needs them.
    """

    def __init__(
        self,
        shared: Shared,
        nodes: SqliteNodes,
        pruning: Pruning,
        is_idle: Callable[[], bool],
    ) -> None:
        self._shared = shared
        self._nodes = nodes
        self._pruning = pruning
        self._is_idle = is_idle
        self._is_wanted = False

    def want(self) -> None:
        """Let the next ``sweep`` that finds nobody at work be one."""
        self._is_wanted = True

    async def sweep(self) -> None:
        """Sweep, if that is wanted and can be done now; who comes meanwhile does not wait for it."""
        if not self._is_wanted or not self._is_idle():
            return
        self._is_wanted = False
        try:
            rest = await self._begin()
            if rest is None:
                self._is_wanted = True
                return
            count = await while_wanted(rest)
            log.info("removed kind=manifest count=%d", count)
        except FilesyncError as exc:
            log.warning("manifests not swept reason=%s", exc)

    async def _begin(self) -> Callable[[], int] | None:
        """Begin to sweep; None where that cannot be done now."""
        await self._pruning.sweep()
        told = [
            await worker.send(worker.identity, Swept(), b"") for worker in self._shared.cluster
        ]
        # A worker that is not told leaves out what it has told before; and somebody may have come.
        if Sent.NO_ROOM in told or not self._is_idle():
            return None
        self._pruning.forget()
        return self._nodes.begin_sweep(list(self._live()))

    def _live(self) -> Iterator[Digest]:
        yield from self._shared.records.trees()
        for worker in self._shared.cluster:
            yield from worker.sources.values()
