"""What clients have, and what is read of images, as sources on workers, for one build."""

import asyncio
import contextlib
import time

import msgspec

from filesync.digest import Digest
from filesync.errors import ContentCorrupt, Unavailable
from filesync.transfer.threads import in_thread
from solver.errors import OrderFailed
from solver.graph import Graph
from solver.manager.moving.brought import Brought
from solver.manager.moving.offers import PASSED_BYTES, quietly
from solver.manager.moving.reach import Homes, Needed, Part, by_client, by_paths
from solver.manager.shared import Client, Shared, forwarding
from solver.manager.workers import WorkerLink
from solver.wire import StepDone, StepStarted
from worker.wire import orders
from worker.wire.orders import Ran, Replica


class _Source(msgspec.Struct, frozen=True):
    """What a worker has of a client's tree, or of an image.

    Attributes:
        steps: those that find in it what they read; None for all.
    """

    ref: Digest
    steps: frozenset[int] | None


class Coming(msgspec.Struct, frozen=True):
    """What a client sends to a worker, its home, now.

    Attributes:
        tree: the client's, or what is needed of it.
        steps: those that find in it what they read; None for all.
        begun: whether anything of it is there; known once it is, or the end came before.
    """

    home: WorkerLink
    tree: Digest
    steps: frozenset[int] | None
    begun: "asyncio.Future[bool]"

    async def has_begun(self) -> bool:
        """Wait until something of it is there; say whether that is so: its home may be busy."""
        return await asyncio.shield(self.begun)

    def note(self, begun: bool) -> None:
        """Note whether it has begun. The first note counts."""
        if not self.begun.done():
            self.begun.set_result(begun)


class Sources:
    """The sources that one build has made.

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
        self._coming: dict[int, Coming] = {}
        self._joined: set[tuple[int, int]] = set()

    def find(self, position: int, step: int) -> Digest | None:
        """Return a source that has what ``step`` reads of a result, if a worker has one."""
        for source in self._sources.get(position, ()):
            if _serves(source, step) and self._shared.cluster.holders(source.ref):
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

    def coming(self, step: int, part: Part, worker: WorkerLink) -> Coming | None:
        """Return what comes to another worker now, where ``worker`` may take ``part`` from there.

        That is so where this is large and ``worker`` has nothing like it: who has must know what
        is new before all of it has come.
        """
        coming = self._coming.get(part.position)
        if coming is None or coming.home is worker or not _serves(coming, step):
            return None
        if (part.position, step) in self._joined:
            return None  # it was let down
        reach = by_paths(worker, part.read)
        is_worth_it = reach.bytes_to_move >= PASSED_BYTES and not reach.basis
        return coming if is_worth_it else None

    def join(self, step: int, part: Part) -> None:
        """Note that ``step`` takes ``part`` as it comes; it does so once."""
        self._joined.add((part.position, step))

    async def sent(self, step: int, part: Part, worker: WorkerLink) -> Digest:
        """Return a source with what ``step`` reads of a client's tree.

        Where none is, the client sends it to where a step on ``worker`` is served best.

        Raises:
            Unavailable, OrderFailed: it cannot be sent there.
        """
        async with self._locks.setdefault(part.position, asyncio.Lock()):
            ref = self.find(part.position, step)
            if ref is not None:
                return ref
            home = Homes(part, self._shared.cluster).home(worker)
            if home is not worker:
                with contextlib.suppress(OrderFailed, Unavailable):
                    return await self._fill(part, home)
            return await self._fill(part, worker)

    async def release(self) -> None:
        """Let the workers collect them. Idempotent."""
        sources, self._sources = self._sources, {}
        for ref in {source.ref for some in sources.values() for source in some}:
            for worker in self._shared.cluster.holders(ref):
                self._shared.cluster.drop_ref(worker, ref)
                await quietly(worker.call(orders.Release(sources=(ref,))))

    async def _fill(self, part: Part, worker: WorkerLink) -> Digest:
        """Run a local op: sync what is needed of a client's tree to ``worker``; return the source."""
        position = part.position
        vertex = self._graph.vertices[position]
        began = time.monotonic()
        self._client.tell(StepStarted(position, worker.name))
        needed, reach = by_client(worker, part)
        tree = part.tree if needed is None else needed.tree
        steps = None if needed is None else needed.steps
        begun = asyncio.get_running_loop().create_future()
        coming = self._coming[position] = Coming(worker, tree.tree, steps, begun)
        try:
            ran, order = await self._send(part, needed, reach.basis, coming)
            self.hold(position, worker, ran.ref, steps)
        finally:
            del self._coming[position]
            coming.note(begun=False)
        brought = Brought(order, vertex.name, ("client",), ran.ref.tar_size)
        uses = tuple(brought.use(report) for report in ran.inputs)
        seconds = time.monotonic() - began
        self._client.tell(StepDone(position, worker.name, False, seconds, uses))
        return ran.ref.ref

    async def _send(
        self, part: Part, needed: Needed | None, basis: str, coming: Coming
    ) -> tuple[Ran, orders.FromPaths]:
        worker, vertex = coming.home, self._graph.vertices[part.position]
        key, selector = f"context {vertex.name}", None
        if needed is not None:
            await in_thread(self._shared.keep, needed.tree)
            key, selector = f"of context {vertex.name}", needed.selector
        await worker.send_tree(self._shared.nodes, coming.tree)
        token = await self._client.serve(part.tree.tree, worker.address, selector)
        try:
            order = orders.FromPaths(coming.tree, (Replica("client", "", token),), key, basis)
            run = orders.Run(vertex.op, (order,))
            forward = forwarding(self._client, part.position, worker)

            def on_event(event: orders.Event) -> None:
                coming.note(begun=True)
                forward(event)

            ran = await worker.call(run, on_event)
        except OrderFailed as exc:
            if exc.reason != ContentCorrupt.code:
                raise
            # What has grown since is sent as far as it went then, which may not be what was there.
            detail = f"{exc.detail}: the file changed after it was scanned; run again"
            raise OrderFailed(exc.worker, exc.reason, detail) from exc
        finally:
            await self._client.stop_serving(token)
        if not isinstance(ran, Ran):
            raise OrderFailed(worker.name, "protocol", "answered a run with something else")
        return ran, order


def _serves(given: _Source | Coming, step: int) -> bool:
    """Say whether ``step`` finds in it what it reads."""
    return given.steps is None or step in given.steps
