"""The solver's operations on cached results: who has one, hold it, move it, tell of it.

``Replicas`` is the public face of what the manager knows and the workers hold. What was announced
is looked up here and may be stale; what must be true is asked of the worker, and is held there by
a lease from that very answer on. docs/seed.md has examples.
"""

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from filesync.digest import Digest
from filesync.errors import Unavailable, UsageError
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes
from filesync.transfer.threads import in_thread, until_done
from filesync.trees.select import Pick, Selector, select
from solver.caches.config import encode
from solver.caches.graph import config_of_key
from solver.errors import OrderFailed
from solver.manager.moving.blobs import call_with_blobs
from solver.manager.moving.offers import Errands, open_offer, quietly, run_errands
from solver.manager.moving.reach import layer_bytes
from solver.manager.results.pulling import Pulls
from solver.manager.shared import Shared
from solver.manager.workers import OnEvent, WorkerLink
from solver.transfer import Transfer, Transferable
from worker.wire import orders
from worker.wire.images import MAX_LAYERS
from worker.wire.leases import (
    AskLacking,
    BlobPut,
    EndLeases,
    Held,
    Hold,
    HoldCached,
    Lacking,
    PutBlob,
    RenewLeases,
)
from worker.wire.ops import LocalOp
from worker.wire.orders import (
    InputReport,
    Layer,
    Offered,
    OrderBody,
    Ran,
    RefInfo,
    Replica,
    Result,
)

LEASE_S: Final = 60.0
"""How long a lease outlives a manager that has died."""
RENEW_S: Final = 20.0
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """A result as it stands on one worker, held there by a lease.

    A value: ``Replicas.worker_ref`` makes it again out of its three fields.
    """

    worker: str
    ref: Digest
    lease: bytes
    _replicas: "Replicas" = field(repr=False, compare=False)

    async def release(self) -> None:
        """Let the worker remove it. Idempotent; what is gone already is fine."""
        await self._replicas.end_lease(self.worker, self.lease)

    async def transfer(self) -> Transfer:
        """Return how others can fetch it; layers that never were made are made now.

        Asked twice it gives the same blobs.

        Raises:
            OrderFailed, WorkerLost: the worker does not hold it any more, or is gone.
        """
        return await self._replicas.transfer(self)

    async def checksum(self, selector: Selector | None = None) -> Digest:
        """Return the content digest of what ``selector`` leaves of it; of all without one.

        Equal contents have equal digests, whatever their times and on whichever worker. No
        file is read for it: it is in the manifest.

        Raises:
            PathMissing: a path of the selector is not there.
        """
        return await self._replicas.checksum(self, selector)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Some paths of a result as a read-only source of their own: no result, and never one.

    ``key`` names it on its worker, as an input of one op (``orders.FromLocal``); it is no cache
    key, nothing finds it, and it cannot be transferred, exported or built upon.
    """

    worker: str
    key: Digest
    tree: Manifest
    lease: bytes
    _replicas: "Replicas" = field(repr=False, compare=False)

    async def release(self) -> None:
        """Give the source back. Idempotent."""
        await self._replicas.end_lease(self.worker, self.lease)


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker, as somewhere that results can be pulled to."""

    name: str
    _replicas: "Replicas" = field(repr=False, compare=False)

    async def pull(self, transfer: Transfer) -> WorkerRef:
        """Have the worker fetch a result, straight from one that has it; return it, held.

        What the worker has is asked first and does not move. Two pulls of one result are one.
        Cancelled or cut, it goes on from what has come when it is asked again. Afterwards the
        worker answers to the same cache keys and exports the same bytes.

        Raises:
            Unavailable: nobody can give it.
            OrderFailed, WorkerLost: this worker cannot take it.
        """
        return await self._replicas.pull(self.name, transfer)


class Replicas:
    """Cached results on the workers of one manager. For one event loop.

    Where a worker is named, ``UsageError`` is raised if none of that name is connected.

    Attributes:
        shared: what the manager knows.
        leases: those that are renewed, and on which worker each is.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.leases: dict[bytes, str] = {}
        self._pulls = Pulls(shared)

    # --- who has it ---------------------------------------------------------------------------

    def find_workers_with_cache(self, cache_key: Digest) -> list[str]:
        """Return the workers that are likely to have a result of ``cache_key``.

        Asks nobody: it is what they announced. One that is wrongly named costs a ``has_cache``
        that says so, one that is left out a build that could have been quicker.
        """
        records, cluster = self.shared.records, self.shared.cluster
        found = [
            one.name for info in records.find(cache_key) for one in cluster.holders(info.ref)
        ]
        return list(dict.fromkeys(found))

    async def has_cache(self, worker: str, cache_key: Digest) -> WorkerRef | None:
        """Ask a worker whether it has a result of ``cache_key``; if so it is held from then on.

        Raises:
            WorkerLost: it is gone.
        """
        link = self._link(worker)
        known = tuple(info.ref for info in self.shared.records.find(cache_key))[:MAX_LAYERS]
        lease = secrets.token_bytes(16)
        held = await self._asked(link, HoldCached(cache_key, lease, LEASE_S, known), Held)
        if held.ref is None:
            for ref in known:
                self.shared.cluster.drop_ref(link, ref)
            return None
        await self._learn(link, held.ref)
        self.leases[lease] = worker
        return self.worker_ref(worker, held.ref.ref, lease)

    def worker(self, name: str) -> Worker:
        """Return a connected worker."""
        return Worker(self._link(name).name, self)

    def worker_ref(self, worker: str, ref: Digest, lease: bytes) -> WorkerRef:
        """Return the value that these fields are of."""
        return WorkerRef(worker, ref, lease, self)

    # --- parts, and what tells of it ----------------------------------------------------------

    async def trim_cache(
        self, worker: str, cache_key: Digest, needed_paths: Iterable[str]
    ) -> Trimmed:
        """Make a source of just ``needed_paths`` of a result, on the worker that has it.

        Raises:
            PathMissing: one of them is not there.
            Unavailable: the worker does not have the result.
        """
        held = await self._held(worker, cache_key)
        link = self._link(worker)
        errands: Errands = []
        try:
            selector = Selector(tuple(map(Pick, needed_paths)))
            part = await in_thread(self._part, await self._tree(held), selector)
            offered = await open_offer(
                self.shared, link, orders.Offer(held.ref, selector), errands
            )
            await link.send_tree(part.nodes, part.tree)
            replica = Replica(link.name, link.address, offered.token)
            source = orders.FromPaths(part.tree, (replica,), "trimmed")
            op = LocalOp("trimmed", part.content, part.tree)
            ran = await self._asked(link, orders.Run(op, (source,)), Ran)
            lease = await self._hold_source(link, ran.ref.ref)
        finally:
            await run_errands(errands)
            await held.release()
        # Not before: what is renewed and nobody was told of is held for ever.
        self.leases[lease] = worker
        return Trimmed(worker, ran.ref.ref, part, lease, self)

    async def _hold_source(self, link: WorkerLink, source: Digest) -> bytes:
        """Hold a source that was just made; it is released where that fails."""
        lease = secrets.token_bytes(16)
        try:
            await self._asked(link, Hold(source, lease, LEASE_S), Held)
        except BaseException:
            await until_done(quietly(link.call(orders.Release(sources=(source,)))))
            raise
        return lease

    async def populate_cache_layers(self, worker: str, cache_key: Digest) -> str:
        """Have the layers of a result in its worker's blob store, with a config that names them.

        Returns the digest of that config, a blob beside them: a ``cacheconfig.v0`` with one
        record, found by the key alone. For one result it is the same on every worker and
        each time; layers that are there are not made again.

        Raises:
            Unavailable: the worker does not have the result.
        """
        held = await self._held(worker, cache_key)
        try:
            link = self._link(worker)
            layers = await self._opened(link, held, blobs_only=True)
            config = encode(config_of_key(cache_key, [layer.digest for layer in layers]))
            return (await self._asked(link, PutBlob(config), BlobPut)).digest
        finally:
            await held.release()

    # --- moving -------------------------------------------------------------------------------

    async def transfer(self, held: WorkerRef) -> Transfer:
        """Return how others can fetch what is held; see ``WorkerRef.transfer``."""
        link = self._link(held.worker)
        chain = self.shared.records.chain(held.ref)
        layers = await self._opened(link, held)
        target: Transferable | None = None
        for info, layer in zip(chain, layers, strict=True):
            known = msgspec.structs.replace(info, layer=layer)
            self.shared.records.add(known)
            keys = self.shared.records.keys(info.ref)
            target = Transferable(known, layer, target, keys)
        assert target is not None
        return Transfer(target, link.name)

    async def _opened(
        self, link: WorkerLink, held: WorkerRef, *, blobs_only: bool = False
    ) -> tuple[Layer, ...]:
        """Have the layers of a result made, parents first; return them."""
        refs = tuple(info.ref for info in self.shared.records.chain(held.ref))
        order = orders.OfferLayers(refs, blobs_only)
        offered = await call_with_blobs(self.shared, link, refs, order)
        if not isinstance(offered, Offered):
            raise OrderFailed(link.name, "protocol", "answered an offer with something else")
        await quietly(link.call(orders.Release(tokens=(offered.token,))))
        if len(offered.layers) != len(refs):
            detail = f"offered {len(offered.layers)} of {len(refs)} layers"
            raise OrderFailed(link.name, "protocol", detail)
        return offered.layers

    async def pull(self, worker: str, transfer: Transfer) -> WorkerRef:
        """Have a worker fetch a result; see ``Worker.pull``."""
        return (await self.pull_reported(worker, transfer))[0]

    async def pull_reported(
        self, worker: str, transfer: Transfer, tell: OnEvent = lambda _: None
    ) -> tuple[WorkerRef, InputReport | None]:
        """Do the same, and return what it took; None where nothing was lacking.

        ``tell`` is told how far it has come.
        """
        link, ref = self._link(worker), transfer.target.ref
        async with self._pulls.pulled(link, transfer, tell) as report:
            lease = secrets.token_bytes(16)
            held = await self._asked(link, Hold(ref, lease, LEASE_S), Held)
            if held.ref is None:
                raise Unavailable(f"{worker} does not hold what it has just pulled")
        self.leases[lease] = worker
        return self.worker_ref(worker, ref, lease), report

    async def bytes_to_pull(self, worker: str, held: WorkerRef) -> int:
        """Return how many bytes of layers a worker lacks of a result, at most. Makes nothing.

        A layer that never was made counts as its plain tar.
        """
        chain = self.shared.records.chain(held.ref)
        question = AskLacking(tuple(info.ref for info in chain))
        lacking = set((await self._asked(self._link(worker), question, Lacking)).refs)
        return sum(layer_bytes(info) for info in chain if info.ref in lacking)

    # --- holding ------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Renew what is held, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            by_worker: dict[str, list[bytes]] = {}
            for lease, worker in self.leases.items():
                by_worker.setdefault(worker, []).append(lease)
            for worker, leases in by_worker.items():
                link = self.shared.cluster.named(worker)
                if link is not None:
                    await quietly(link.call(RenewLeases(tuple(leases), LEASE_S)))

    async def end_lease(self, worker: str, lease: bytes) -> None:
        """Let go of what a lease holds. Idempotent; a worker that is gone holds nothing."""
        self.leases.pop(lease, None)
        link = self.shared.cluster.named(worker)
        if link is not None:
            await quietly(link.call(EndLeases((lease,))))

    async def checksum(self, held: WorkerRef, selector: Selector | None) -> Digest:
        """Return a content digest; see ``WorkerRef.checksum``."""
        tree = await self._tree(held)
        if selector is None:
            return tree.content
        return (await in_thread(self._part, tree, selector)).content

    async def _held(self, worker: str, cache_key: Digest) -> WorkerRef:
        held = await self.has_cache(worker, cache_key)
        if held is None:
            raise Unavailable(f"{worker} does not hold a result of {cache_key.hex()[:16]}")
        return held

    async def _tree(self, held: WorkerRef) -> Manifest:
        info = self.shared.records.ref(held.ref)
        if info is None:
            raise Unavailable(f"nothing is known of {held.ref.hex()[:16]}")
        return Manifest(info.tree, self.shared.nodes)

    def _part(self, tree: Manifest, selector: Selector) -> Manifest:
        return select(tree, selector, LayeredNodes(MemoryNodes(), tree.nodes))

    async def _learn(self, link: WorkerLink, info: RefInfo) -> None:
        if info.tree not in self.shared.nodes:
            await link.call(orders.ReadTree(info.tree))
        self.shared.records.add(info)
        self.shared.cluster.add_ref(link, info)

    def _link(self, worker: str) -> WorkerLink:
        link = self.shared.cluster.named(worker)
        if link is None:
            there = ", ".join(one.name for one in self.shared.cluster) or "none"
            raise UsageError(f"no worker {worker!r} is connected; connected: {there}")
        return link

    @staticmethod
    async def _asked(link: WorkerLink, order: OrderBody, answer: type[R]) -> R:
        result = await link.call(order)
        if not isinstance(result, answer):
            raise OrderFailed(link.name, "protocol", "answered with something else")
        return result
