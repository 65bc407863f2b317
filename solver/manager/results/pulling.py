"""Results on their way from worker to worker without a build: each once at a time."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable
from solver.errors import OrderFailed
from solver.manager.moving.offers import (
    Errands,
    forget_lacking,
    open_chain,
    quietly,
    run_errands,
)
from solver.manager.shared import Shared
from solver.manager.workers import OnEvent, WorkerLink
from solver.transfer import Transfer, Transferable
from worker.wire.leases import EndLeases, Pull
from worker.wire.orders import Event, FromLayers, InputReport, Ran

log = logging.getLogger(__name__)

HOLD_S: Final = 60.0
"""How long a result that was pulled is held for those who waited, to hold it themselves."""
ELSEWHERE: Final = frozenset({"unavailable", "node-missing", "ref-missing", "stale"})
"""Codes of a taker's failures that another giver may not cause."""


class _Flight(msgspec.Struct):
    lease: bytes
    task: "asyncio.Task[InputReport | None]"
    told: list[OnEvent]
    waiting: int = 0


class Pulls:
    """Pulls that are under way, by worker and result."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._flights: dict[tuple[str, Digest], _Flight] = {}

    @contextlib.asynccontextmanager
    async def pulled(
        self, link: WorkerLink, transfer: Transfer, tell: OnEvent
    ) -> AsyncIterator[InputReport | None]:
        """Have a result be on a worker, where it stays while the block runs.

        Gives what it took; None where nothing was lacking. Who comes while it is under way
        waits for the same pull; it is cancelled with the last who waits. ``tell`` is told of
        what the worker says meanwhile.

        Raises:
            Unavailable: nobody can give it.
            OrderFailed, WorkerLost: the worker cannot take it.
        """
        place = (link.name, transfer.target.ref)
        flight = self._flights.get(place)
        if flight is None:
            lease = secrets.token_bytes(16)
            told: list[OnEvent] = []
            task = asyncio.create_task(self._pull(link, transfer, lease, told))
            flight = self._flights[place] = _Flight(lease, task, told)
        flight.waiting += 1
        flight.told.append(tell)
        try:
            yield await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            flight.told.remove(tell)
            if not flight.waiting:
                del self._flights[place]
                flight.task.cancel()
                await asyncio.gather(flight.task, return_exceptions=True)
                await quietly(link.call(EndLeases((flight.lease,))))

    async def _pull(
        self, link: WorkerLink, transfer: Transfer, lease: bytes, told: Sequence[OnEvent]
    ) -> InputReport | None:
        chain = transfer.target.chain()
        refs = await forget_lacking(self._shared, link, [one.ref for one in chain])
        lacking = [one for one in chain if one.ref in refs]
        if not lacking:
            await self._order(link, chain, None, lease, told)
            return None
        failure: FilesyncError | None = None
        holders = self._holders(link, transfer)
        for at, holder in enumerate(holders):
            errands: Errands = []
            try:
                infos = [one.info for one in lacking]
                source, _ = await open_chain(self._shared, holders[at:], link, infos, errands)
                ran = await self._order(link, chain, source, lease, told)
            except (OrderFailed, Unavailable) as exc:
                if _is_takers(exc, link):
                    raise
                log.warning("not pulled from=%s reason=%s", holder.name, exc)
                failure = exc
            else:
                return ran.inputs[0] if ran.inputs else None
            finally:
                await run_errands(errands)
        detail = f": {failure}" if failure is not None else ""
        raise Unavailable(f"no worker can give {transfer.target.ref.hex()[:16]}{detail}")

    def _holders(self, link: WorkerLink, transfer: Transfer) -> list[WorkerLink]:
        """Return who may give it: the one that offered it, then others by load."""
        found = self._shared.cluster.holders(transfer.target.ref)
        found.sort(key=lambda one: one.name != transfer.holder)
        return [one for one in found if one is not link]

    async def _order(
        self,
        link: WorkerLink,
        chain: Sequence[Transferable],
        source: FromLayers | None,
        lease: bytes,
        told: Sequence[OnEvent],
    ) -> Ran:
        keys = tuple((one.ref, one.keys) for one in chain if one.keys)
        order = Pull(chain[-1].ref, source, keys, lease, HOLD_S)

        def tell(event: Event) -> None:
            for one in told:
                one(event)

        ran = await link.call(order, tell)
        if not isinstance(ran, Ran):
            raise OrderFailed(link.name, "protocol", "answered a pull with something else")
        for info in (*ran.pulled, ran.ref):
            self._shared.records.add(info)
            self._shared.cluster.add_ref(link, info)
            link.learn_tree(self._shared.nodes, info.tree)
        return ran


def _is_takers(exc: OrderFailed | Unavailable, link: WorkerLink) -> bool:
    """Whether a pull failed for what is wrong at the taker, whoever gives."""
    return (
        isinstance(exc, OrderFailed) and exc.worker == link.name and exc.reason not in ELSEWHERE
    )
