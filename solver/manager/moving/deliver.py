"""Bringing a step's inputs to the worker that will run it.

For each input: ask its holder to open what is read, tell the worker where to take it, and close
it again afterwards. The bytes go from worker to worker; only manifests pass through here.
"""

import contextlib
from collections.abc import Sequence

import msgspec

from filesync.errors import Unavailable
from filesync.transfer.threads import in_thread
from solver.errors import OrderFailed
from solver.graph import Graph
from solver.manager.moving.brought import Brought
from solver.manager.moving.offers import (
    PASSED_BYTES,
    SHARED_BYTES,
    Errands,
    forget_lacking,
    join_row,
    open_chain,
    open_offer,
    open_subset,
)
from solver.manager.moving.reach import Part, by_paths, lacking_links, layer_bytes
from solver.manager.moving.sources import Coming, Sources
from solver.manager.shared import Shared
from solver.manager.workers import WorkerLink
from solver.place import Reach
from worker.wire import orders
from worker.wire.ops import selector_of
from worker.wire.orders import Mode, Replica


class Delivery:
    """Brings inputs to workers for one build."""

    def __init__(self, shared: Shared, graph: Graph, sources: Sources) -> None:
        self._shared = shared
        self._graph = graph
        self._sources = sources

    async def send_contexts(
        self, consumer: int, parts: Sequence[Part], worker: WorkerLink
    ) -> None:
        """Have the clients' trees among ``parts``, for a step on ``worker``, on some worker.

        Those that are on their way to one, and that it may take from there as they come, are
        not waited for.
        """
        for part in parts:
            if part.ref is None and self._sources.coming(consumer, part, worker) is None:
                await self._sources.sent(consumer, part, worker)

    async def bring(
        self,
        consumer: int,
        index: int,
        part: Part,
        reach: Reach,
        worker: WorkerLink,
        errands: Errands,
    ) -> Brought:
        """Make ready for ``worker`` to take one input; return how.

        What must be done afterwards is in ``errands`` as soon as it must, so that it is done
        even when this fails.

        Raises:
            InputLost, Unavailable, OrderFailed: a holder is gone or will not; place again.
        """
        if part.ref is None:
            return await self._bring_context(consumer, index, part, worker, errands)
        name = self._graph.vertices[part.position].name
        # While a context was sent, another step may have brought it here.
        match Mode.LOCAL if part.ref in worker.refs else reach.mode:
            case Mode.LOCAL:
                return Brought(orders.FromLocal(part.ref), name)
            case Mode.PATHS:
                return await self._bring_paths(consumer, index, part, reach, worker, errands)
            case Mode.LAYERS | Mode.REGISTRY | Mode.URL:
                return await self._bring_layers(part, worker, errands)

    async def unlearn(self, worker: WorkerLink, brought: Sequence[Brought]) -> None:
        """Believe no longer that a worker holds what it lacks, of what was brought or is below that.

        Raises:
            OrderFailed, WorkerLost: it does not say.
        """
        shared = self._shared
        for order in [one.order for one in brought]:
            match order:
                case orders.FromLocal(ref):
                    await forget_lacking(shared, worker, [ref])
                case orders.FromLayers(chain):
                    # What these stand on may have been pruned, of which it tells in the end.
                    links = shared.records.chain(chain[-1].ref.ref)
                    await forget_lacking(shared, worker, [link.ref for link in links])
                case _:
                    pass

    async def _bring_context(
        self, consumer: int, index: int, part: Part, worker: WorkerLink, errands: Errands
    ) -> Brought:
        coming = self._sources.coming(consumer, part, worker)
        if coming is not None and await coming.has_begun():
            self._sources.join(consumer, part)
            with contextlib.suppress(OrderFailed, Unavailable):
                return await self._bring_coming(consumer, part, coming, worker, errands)
        ref = await self._sources.sent(consumer, part, worker)
        if ref in worker.refs:
            name = self._graph.vertices[part.position].name
            return Brought(orders.FromLocal(ref), name)
        held = msgspec.structs.replace(part, ref=ref)
        reach = by_paths(worker, part.read)
        return await self._bring_paths(consumer, index, held, reach, worker, errands)

    async def _bring_coming(
        self, consumer: int, part: Part, coming: Coming, worker: WorkerLink, errands: Errands
    ) -> Brought:
        """Have ``worker`` take its part of what comes to another, or to who takes the same there."""
        shared, home = self._shared, coming.home
        read = await in_thread(shared.keep, part.read)
        await worker.send_tree(read.nodes, read.tree)
        await home.send_tree(read.nodes, read.tree)
        part_of_it = orders.PassOn(read.tree, are_blobs=False, within=coming.tree)
        offered = await open_offer(shared, home, part_of_it, errands)
        first = Replica(home.name, home.address, offered.token)
        whole = orders.PassOn(read.tree, are_blobs=False)
        passing = await join_row(shared, worker, whole, errands)
        key = self._key(consumer, part)
        order = orders.FromPaths(read.tree, (first,), key, passing=passing)
        name = self._graph.vertices[part.position].name
        return Brought(order, name, ((passing or first).worker,), part.tree.summary.size)

    async def _bring_paths(
        self,
        consumer: int,
        index: int,
        part: Part,
        reach: Reach,
        worker: WorkerLink,
        errands: Errands,
    ) -> Brought:
        assert part.ref is not None
        op = self._graph.vertices[consumer].op
        holder = self._shared.cluster.holder(part.ref, part.position)
        others = self._shared.cluster.holders(part.ref)
        read = await in_thread(self._shared.keep, part.read)
        await worker.send_tree(read.nodes, read.tree)
        passing = None
        if reach.bytes_to_move >= PASSED_BYTES:
            passed = orders.PassOn(read.tree, are_blobs=False)
            passing = await join_row(self._shared, worker, passed, errands)
        are_asked = reach.bytes_to_move >= SHARED_BYTES and passing is None
        replicas = await open_subset(
            self._shared,
            [holder, *others] if are_asked else [holder],
            orders.Offer(part.ref, selector_of(op, index) if part.partial else None),
            read.tree,
            errands,
        )
        key = self._key(consumer, part)
        order = orders.FromPaths(read.tree, replicas, key, reach.basis, passing)
        givers = tuple(one.worker for one in ((passing,) if passing else replicas))
        name = self._graph.vertices[part.position].name
        return Brought(order, name, givers, self._whole_bytes(part, worker))

    async def _bring_layers(self, part: Part, worker: WorkerLink, errands: Errands) -> Brought:
        assert part.ref is not None
        holder = self._shared.cluster.holder(part.ref, part.position)
        holders = self._shared.cluster.holders(part.ref)
        lacking = lacking_links(worker, self._shared.records.chain(part.ref))
        order, givers = await open_chain(
            self._shared, [holder, *holders], worker, lacking, errands
        )
        source = self._graph.vertices[part.position].name
        size = sum(link.layer.size for link in order.chain)
        return Brought(order, source, givers, size)

    def _key(self, consumer: int, part: Part) -> str:
        """Return what the source is for that a step has of an input."""
        reader, source = self._graph.vertices[consumer], self._graph.vertices[part.position]
        return f"{source.stage}:{source.name}:{reader.stage}:{reader.name}"

    def _whole_bytes(self, part: Part, worker: WorkerLink) -> int:
        """Return what it would have taken to move the whole input as layers."""
        assert part.ref is not None
        if self._shared.records.ref(part.ref) is None:
            return part.tree.summary.size
        chain = self._shared.records.chain(part.ref)
        return sum(map(layer_bytes, lacking_links(worker, chain)))
