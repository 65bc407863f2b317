"""Bringing a step's inputs to the worker that will run it.

For each input: ask its holder to open what is read, tell the worker where to take it, and close
it again afterwards. The bytes go from worker to worker; only manifests pass through here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from filesync.digest import Digest
from filesync.errors import Unavailable
from filesync.select import Selector
from filesync.transfer.threads import in_thread
from solver.errors import OrderFailed
from solver.graph import Graph
from solver.manager.moving.offers import (
    PASSED_BYTES,
    SHARED_BYTES,
    Errands,
    join_row,
    open_chain,
    open_subset,
    quietly,
)
from solver.manager.moving.reach import (
    Homes,
    Part,
    by_client,
    by_paths,
    lacking_links,
    layer_bytes,
)
from solver.manager.shared import Client, Shared
from solver.manager.workers import OnEvent, WorkerLink
from solver.place import Reach
from solver.wire import InputUse, StepDone, StepOutput, StepProgress, StepStarted
from worker.wire import orders
from worker.wire.agents import AgentAsked
from worker.wire.images import Credential, FromRegistry, credential_for
from worker.wire.ops import GitOp, HttpOp, ImageOp, selector_of
from worker.wire.orders import (
    InputOrder,
    InputReport,
    Mode,
    Ran,
    Replica,
)
from worker.wire.urls import FromGit, FromUrl, without_secrets

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Brought:
    """How an input will reach its step; ``use`` adds what it took."""

    order: InputOrder
    source: str
    workers: tuple[str, ...] = ()
    bytes_if_layers: int = 0

    def use(self, report: InputReport) -> InputUse:
        """Return the whole story of this input, for the client."""
        return InputUse(
            report.mode,
            self.source,
            self.workers,
            report.bytes_moved,
            report.files_moved,
            self.bytes_if_layers or report.bytes_whole,
            report.seconds,
        )


def from_registry(
    op: ImageOp, credentials: tuple[Credential, ...], part: Selector | None = None
) -> Brought:
    """Return how an image, or a part of it, comes to whoever runs ``op``: from its registry."""
    credential = credential_for(op.repository.partition("/")[0], credentials)
    return Brought(FromRegistry(op.repository, op.manifest, credential, part), op.repository)


def from_url(op: HttpOp | GitOp) -> Brought:
    """Return how a file or a commit comes to whoever runs ``op``: from its web server."""
    order: FromUrl | FromGit
    if isinstance(op, HttpOp):
        order = FromUrl(op.url, op.name, op.checksum)
    else:
        order = FromGit(op.url, op.commit, op.subdir, op.keep_git_dir, op.ref)
    return Brought(order, without_secrets(op.url))


@dataclass(frozen=True, slots=True)
class _Source:
    """What a worker has of a client's tree, or of an image.

    Attributes:
        steps: those that find in it what they read; None for all.
    """

    ref: Digest
    steps: frozenset[int] | None

    def serves(self, step: int) -> bool:
        return self.steps is None or step in self.steps


class Delivery:
    """Brings inputs to workers for one build, and holds the sources that this made.

    What is needed of a client's tree (a context) becomes a source on one worker, its home, and
    stays there until the build ends, so that the client sends it once. So does what the build
    reads of an image, so that it is read once.
    """

    def __init__(self, shared: Shared, graph: Graph, client: Client) -> None:
        self._shared = shared
        self._graph = graph
        self._client = client
        self._sources: dict[int, list[_Source]] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    def source_of(self, position: int, step: int) -> Digest | None:
        """Return a source that has what ``step`` reads of a client's tree, if a worker has one."""
        for source in self._sources.get(position, ()):
            if source.serves(step) and self._shared.cluster.holders(source.ref):
                return source.ref
        return None

    def hold(
        self,
        position: int,
        worker: WorkerLink,
        source: orders.RefInfo,
        steps: frozenset[int] | None = None,
    ) -> None:
        """Note that a worker has a step's result as a source, which is let go of at the end.

        It is for those ``steps`` that read it; None for all.
        """
        self._shared.cluster.add_ref(worker, source)
        worker.learn_tree(self._shared.nodes, source.tree)
        self._sources.setdefault(position, []).append(_Source(source.ref, steps))

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

    async def send_contexts(
        self, consumer: int, parts: Sequence[Part], worker: WorkerLink
    ) -> None:
        """Have the client's trees among ``parts``, which a step on ``worker`` reads, on some worker."""
        for part in parts:
            if part.ref is None:
                await self._sent(consumer, part, worker)

    async def release(self) -> None:
        """Let the workers collect this build's sources. Idempotent."""
        sources, self._sources = self._sources, {}
        for ref in {source.ref for some in sources.values() for source in some}:
            for worker in self._shared.cluster.holders(ref):
                self._shared.cluster.drop_ref(worker, ref)
                await quietly(worker.call(orders.Release(sources=(ref,))))

    async def _bring_context(
        self, consumer: int, index: int, part: Part, worker: WorkerLink, errands: Errands
    ) -> Brought:
        ref = await self._sent(consumer, part, worker)
        held = Part(part.position, ref, part.tree, part.read, part.partial)
        if ref in worker.refs:
            name = self._graph.vertices[part.position].name
            return Brought(orders.FromLocal(ref), name)
        reach = by_paths(worker, part.read)
        return await self._bring_paths(consumer, index, held, reach, worker, errands)

    async def _sent(self, consumer: int, part: Part, worker: WorkerLink) -> Digest:
        """Return a source with what ``consumer`` reads, made where ``worker`` is served best."""
        async with self._locks.setdefault(part.position, asyncio.Lock()):
            ref = self.source_of(part.position, consumer)
            if ref is not None:
                return ref
            home = Homes(part, self._shared.cluster).home(worker)
            if home is not worker:
                with contextlib.suppress(OrderFailed, Unavailable):
                    return await self._fill_source(part, home)
            return await self._fill_source(part, worker)

    async def _fill_source(self, part: Part, worker: WorkerLink) -> Digest:
        """Run a local op: sync what is needed of a client's tree to ``worker``; return the source."""
        position = part.position
        vertex = self._graph.vertices[position]
        began = time.monotonic()
        self._client.tell(StepStarted(position, worker.name))
        needed, reach = by_client(worker, part)
        if needed is None:
            tree, key, selector, steps = part.tree, f"context {vertex.name}", None, None
        else:
            tree = await in_thread(self._shared.keep, needed.tree)
            key, selector, steps = f"of context {vertex.name}", needed.selector, needed.steps
        await worker.send_tree(self._shared.nodes, tree.tree)
        token = await self._client.serve(part.tree.tree, worker.address, selector)
        try:
            replica = Replica("client", "", token)
            order = orders.FromPaths(tree.tree, (replica,), key, reach.basis)
            run = orders.Run(vertex.op, (order,), (), vertex.name)
            ran = await worker.call(run, self.forward(position, worker))
        finally:
            await self._client.stop_serving(token)
        if not isinstance(ran, Ran):
            raise OrderFailed(worker.name, "protocol", "answered a run with something else")
        self.hold(position, worker, ran.ref, steps)
        brought = Brought(order, vertex.name, ("client",), ran.ref.tar_size)
        uses = tuple(brought.use(report) for report in ran.inputs)
        seconds = time.monotonic() - began
        self._client.tell(StepDone(position, worker.name, False, seconds, uses))
        return ran.ref.ref

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
        vertex = self._graph.vertices[consumer]
        source = self._graph.vertices[part.position]
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
            orders.Offer(part.ref, selector_of(vertex.op, index) if part.partial else None),
            read.tree,
            errands,
        )
        key = f"{source.stage}:{source.name}:{vertex.stage}:{vertex.name}"
        order = orders.FromPaths(read.tree, replicas, key, reach.basis, passing)
        givers = tuple(one.worker for one in ((passing,) if passing else replicas))
        return Brought(order, source.name, givers, self._whole_bytes(part, worker))

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

    def _whole_bytes(self, part: Part, worker: WorkerLink) -> int:
        """Return what it would have taken to move the whole input as layers."""
        assert part.ref is not None
        if self._shared.records.ref(part.ref) is None:
            return part.tree.summary.size
        chain = self._shared.records.chain(part.ref)
        return sum(map(layer_bytes, lacking_links(worker, chain)))

    def forward(self, position: int, worker: WorkerLink) -> OnEvent:
        """Return what passes on to the client what a step on ``worker`` has to say."""

        def pass_on(message: orders.Event) -> None:
            match message:
                case orders.Output(_, stream, data):
                    self._client.tell(StepOutput(position, stream, data))
                case orders.Progress(_, index, done, total):
                    self._client.tell(StepProgress(position, index, done, total))
                case AgentAsked():
                    self._client.ask_agent(worker, message)

        return pass_on
