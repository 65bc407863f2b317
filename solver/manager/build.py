"""One build: which steps are known, which must run, and in what order.

A step is solved in this order: its definition key; then its inputs; then its content key; only
then does it run. Independent steps are solved at the same time, and two steps of equal content
keys, in one build or in two, run once. A step whose worker is lost runs on another, and an input
whose last holder is lost is solved again: what it is then may be something else, so whatever comes
after the inputs is done anew at each try.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable
from filesync.manifest import Manifest
from filesync.transfer.threads import in_thread
from solver.errors import WORKERS_OWN, NoWorker, OrderFailed, StepFailed, first_failure
from solver.graph import Vertex, above_ignored
from solver.imageparts import image_parts
from solver.keys import content_key, definition_keys, part_read
from solver.manager.caches.importing import CachedResult, Caches, missed
from solver.manager.cluster import start_one
from solver.manager.deciding import Deciding
from solver.manager.moving.brought import Brought, from_registry, from_url
from solver.manager.moving.deliver import Delivery
from solver.manager.moving.offers import REF_MISSING, Errands, quietly, run_errands
from solver.manager.moving.reach import Part, needed_of, reaches
from solver.manager.moving.sources import Sources
from solver.manager.shared import Client, Shared, Solved, forwarding
from solver.manager.workers import WorkerLink
from solver.place import Placement, explain, fits, place
from solver.wire import Explained, StartBuild, StepDone, StepStarted, Warned
from worker.wire import orders
from worker.wire.agents import agents_for
from worker.wire.disk import Touch
from worker.wire.ops import GitOp, HttpOp, ImageOp, LocalOp, selector_of
from worker.wire.orders import Ran
from worker.wire.secrets import secrets_for

log = logging.getLogger(__name__)

PAUSES_S: Final = (0.0, 0.5, 2.0, 5.0)
"""Before each try of a step that others did not give its inputs to: links come back."""
ATTEMPTS: Final = len(PAUSES_S)
"""How often a step is tried when workers are lost under it."""
WAIT_FOR_WORKER_S: Final = 15.0
"""How long a step waits for a worker that fits before it says that there is none."""
RETRIED: Final = frozenset({"unavailable", "node-missing", "ref-missing", "stale", "cancelled"})
"""Codes of failures that are not the op's own: place the step again."""

Keys = tuple[Digest, Digest]
"""A step's definition key, and its content key."""


class Build:
    """Solves one client's graph."""

    def __init__(self, shared: Shared, request: StartBuild, client: Client) -> None:
        self._shared = shared
        self._request = request
        self._graph = request.graph
        self._client = client
        self._holder = secrets.token_bytes(16)
        self._keys = definition_keys(request.graph)
        self._solving: dict[int, asyncio.Task[Solved]] = {}
        # Of each step what this build has had of it: that is asked for first where it is asked again.
        self._results: dict[int, Solved] = {}
        self._group = asyncio.TaskGroup()
        self._sources = Sources(shared, request.graph, client)
        self._delivery = Delivery(shared, request.graph, self._sources)
        self._above_ignored = above_ignored(request.graph)
        self._image_parts = image_parts(request.graph)
        self._unable: dict[int, set[str]] = {}
        """By step, the workers that could not do it for a reason that may be theirs alone."""
        self._waited_for: set[tuple[tuple[str, str], ...]] = set()
        self._deciding = Deciding(request.graph, self._solving)
        self.caches = Caches(shared, client, request.caches, request.graph, request.credentials)

    async def solve_target(self) -> Solved:
        """Solve the graph's target and return its result, held by at least one worker.

        May be asked again, when that worker turns out not to hold it.

        Raises:
            StepFailed, NoWorker, FilesyncError: the first thing that went wrong.
        """
        await self.caches.open()
        self._solving.clear()
        self._group = asyncio.TaskGroup()
        try:
            async with self._group:
                solved = await self._held(self._graph.target)
        except BaseExceptionGroup as group:
            raise first_failure(group) from None
        return solved

    async def bring_images(self) -> None:
        """Have the images that come whole brought again, with blobs that nobody has any more."""
        for position, vertex in enumerate(self._graph.vertices):
            if isinstance(vertex.op, ImageOp) and position not in self._image_parts:
                inputs = [await self._solve(one) for one in vertex.inputs]
                parts = await in_thread(self._select, position, inputs)
                keys = self._keys_of(position, await self._contents(parts))
                await self._run(position, parts, keys)

    def is_known(self, position: int) -> bool:
        """Whether a worker holds the result of a step, by its definition."""
        return self._find(position, self._keys[position]) is not None

    async def worker_for(self, position: int) -> WorkerLink:
        """Return the worker that would run a step which has no inputs.

        Raises:
            NoWorker: none may.
            Unavailable: it has left just now.
        """
        placement = await self._place(position, ())
        worker = self._shared.cluster.named(placement.chosen.worker)
        if worker is None:
            raise Unavailable(f"worker {placement.chosen.worker} left")
        return worker

    async def release(self) -> None:
        """Let the workers collect this build's sources and what it held. Idempotent."""
        await self._sources.release()
        held = self._shared.leases.release(self._holder)
        # After the sources: what they were for is worth more than they are.
        for worker in self._shared.cluster:
            if used := held & worker.refs:
                await quietly(worker.call(Touch(tuple(sorted(used)))))

    # --- solving ------------------------------------------------------------------------------

    async def _solved(self, position: int, *, again: bool = False) -> Solved:
        task = self._solving.get(position)
        if task is None or (again and task.done()):
            task = self._group.create_task(self._solve(position))
            self._solving[position] = task
        # Shielded: a cancellation would go from step to step down the whole graph, and asyncio does
        # that by recursion, which ends in the middle of a chain of 330. The group cancels each.
        solved = await asyncio.shield(task)
        if solved.ref is not None:
            self._shared.leases.hold(self._holder, [solved.ref])
        return solved

    async def _held(self, position: int) -> Solved:
        """Return a result that somebody holds, solving it again where nobody does any more."""
        solved = await self._solved(position)
        if solved.ref is not None and not self._shared.cluster.holders(solved.ref):
            solved = await self._solved(position, again=True)
        return solved

    async def _solve(self, position: int) -> Solved:
        vertex = self._graph.vertices[position]
        if isinstance(vertex.op, LocalOp):
            return Solved(position, vertex.op.tree, None, "")
        before = self._results.get(position)
        if before is not None and before.ref and self._shared.cluster.holders(before.ref):
            return before
        self._deciding.begin(position)
        try:
            solved = await self._find_or_run(position, vertex)
        finally:
            self._deciding.end(position)
        self._results[position] = solved
        return solved

    async def _find_or_run(self, position: int, vertex: Vertex) -> Solved:
        # What comes from elsewhere is what its digest says: it cannot come as anything else.
        fixed = isinstance(vertex.op, ImageOp | HttpOp | GitOp)
        cacheable = fixed or not (self._request.no_cache or vertex.ignore_cache)
        key = self._keys[position]
        if cacheable and position not in self._above_ignored:
            if found := self._find(position, key):
                return self._report_cached(found)
            known = self.caches.by_definition(position)
            if brought := await self._import(position, (key,), known):
                return brought
        failure: FilesyncError | None = None
        for pause_s in PAUSES_S:
            if failure is not None:
                if isinstance(failure, OrderFailed) and failure.reason == Unavailable.code:
                    await asyncio.sleep(pause_s)
                log.warning("step runs again step=%s reason=%s", vertex.name, failure)
                self._client.tell(Warned(f"{vertex.name} runs again: {failure}"))
            try:
                return await self._try(position, cacheable=cacheable)
            except OrderFailed as exc:
                self.doubt(exc)
                if exc.reason not in RETRIED and not self._may_try_elsewhere(position, exc):
                    raise StepFailed(
                        position, vertex.name, exc.detail, exc.exit_status, exc.tail, exc.reason
                    ) from exc
                failure = exc
            except Unavailable as exc:
                failure = exc
        raise StepFailed(position, vertex.name, f"gave up after {ATTEMPTS} tries: {failure}")

    async def _try(self, position: int, *, cacheable: bool) -> Solved:
        """Find a step's result by what it reads now, or run it."""
        vertex = self._graph.vertices[position]
        parts = await self._parts(position)
        contents = await self._contents(parts)
        keys = self._keys_of(position, contents)
        if cacheable:
            if found := await self._find_by_content(position, keys):
                return found
            known = self.caches.by_content(position, contents)
            if brought := await self._import(position, keys, known):
                return brought
        self._deciding.end(position)
        had_to_wait = await self._wait_for_worker(vertex)
        # Who comes now, after a manager was started anew, may have it.
        if had_to_wait and cacheable and (found := await self._find_by_content(position, keys)):
            return found
        if position in self._image_parts:
            # Its result is a source of this build's own, and no other build's.
            return await self._run(position, parts, keys)
        return await self._fly(position, parts, keys)

    def _keys_of(self, position: int, contents: Sequence[Digest]) -> Keys:
        return self._keys[position], content_key(self._graph.vertices[position].op, contents)

    async def _contents(self, parts: Sequence[Part]) -> list[Digest]:
        """Return what a step reads of each input, as its key has it."""
        made_on = self._shared.content_on
        return [
            part.read.content if part.partial or part.ref is None else await made_on(part.ref)
            for part in parts
        ]

    async def _parts(self, position: int) -> list[Part]:
        """Solve a step's inputs and return what the step reads of each."""
        vertex = self._graph.vertices[position]
        inputs = await asyncio.gather(*(self._held(i) for i in vertex.inputs))
        return await in_thread(self._select, position, inputs)

    def _select(self, position: int, inputs: Sequence[Solved]) -> list[Part]:
        vertex = self._graph.vertices[position]
        parts: list[Part] = []
        for index, solved in enumerate(inputs):
            tree = Manifest(solved.tree, self._shared.nodes)
            try:
                read = part_read(vertex.op, index, tree)
            except FilesyncError as exc:
                source = self._graph.vertices[solved.position].name
                detail = f"{exc} in {source}" if source else str(exc)
                raise StepFailed(position, vertex.name, detail, reason=exc.code) from exc
            partial = selector_of(vertex.op, index) is not None
            parts.append(Part(solved.position, solved.ref, tree, read, partial))
        return parts

    def _find(self, position: int, key: Digest) -> Solved | None:
        shared = self._shared
        for info in shared.records.find(key):
            if info.tree in shared.nodes and (held := shared.cluster.holders(info.ref)):
                return Solved(position, info.tree, info.ref, held[0].name)
        return None

    async def _find_by_content(self, position: int, keys: Keys) -> Solved | None:
        if found := self._find(position, keys[1]):
            await self._add_key(found, keys[0])
            return self._report_cached(found)
        return None

    def _report_cached(self, found: Solved) -> Solved:
        self._client.tell(StepDone(found.position, found.worker, cached=True))
        return found

    async def _add_key(self, found: Solved, key: Digest) -> None:
        assert found.ref is not None
        self._shared.records.add_keys(found.ref, [key])
        for worker in self._shared.cluster.holders(found.ref):
            await quietly(worker.call(orders.AddKeys(found.ref, (key,))))

    async def _import(
        self, position: int, keys: tuple[Digest, ...], known: Sequence[CachedResult]
    ) -> Solved | None:
        """Bring a result out of the client's caches to a worker; None where none is good."""
        for found in known:
            self._deciding.end(position)
            began = time.monotonic()
            placement = await self._place(position, ())
            worker = self._shared.cluster.named(placement.chosen.worker)
            if worker is None:
                continue
            step = worker.begin_step()
            try:
                forward = forwarding(self._client, position, worker)
                ran, brought = await self.caches.bring(found, worker, keys, forward)
            except FilesyncError as exc:
                missed(found, exc)
                continue
            finally:
                worker.end_step(step)
            self._keep(position, worker, ran, keys)
            uses = (brought.use(ran.inputs[0]),)
            seconds = time.monotonic() - began
            self._client.tell(StepDone(position, worker.name, True, seconds, uses))
            return Solved(position, ran.ref.tree, ran.ref.ref, worker.name)
        return None

    # --- running ------------------------------------------------------------------------------

    async def _fly(self, position: int, parts: Sequence[Part], keys: Keys) -> Solved:
        """Run a step, or wait for an equal one that runs already.

        All that it reads is solved by then: an input may be an equal step, which would wait for it.
        """
        flights = self._shared.flights
        while (flight := flights.get(keys[1])) is not None:
            # For long, where that build's client was killed: it is missed after a while.
            self._client.tell(StepStarted(position, "", shared=True))
            landed = await asyncio.shield(flight)
            if landed is not None:
                await self._add_key(landed, keys[0])
                done = StepDone(position, landed.worker, cached=True, shared=True)
                self._client.tell(done)
                return msgspec.structs.replace(landed, position=position)
        flight = asyncio.get_running_loop().create_future()
        flights[keys[1]] = flight
        solved: Solved | None = None
        try:
            solved = await self._run(position, parts, keys)
        finally:
            del flights[keys[1]]
            flight.set_result(solved)
        return solved

    def _may_try_elsewhere(self, position: int, failure: OrderFailed) -> bool:
        """Say whether what a worker could not do may be done by one that has not tried."""
        unable = self._unable.get(position, set())
        constraints = self._graph.vertices[position].constraints
        return failure.worker in unable and any(
            fits(worker.view(), constraints) and worker.name not in unable
            for worker in self._shared.cluster
        )

    def doubt(self, failure: OrderFailed) -> None:
        """Believe nothing of what a worker was thought to know, when it did not."""
        worker = self._shared.cluster.named(failure.worker)
        if worker is not None and failure.reason == "node-missing":
            worker.known.clear()

    async def _run(self, position: int, parts: Sequence[Part], keys: Keys) -> Solved:
        """Run a step on ``parts``, which it reads, and whose content keys[1] is of."""
        vertex = self._graph.vertices[position]
        parts = [await self._where_now(position, part) for part in parts]
        placement = await self._place(position, parts)
        worker = self._shared.cluster.named(placement.chosen.worker)
        if worker is None:
            raise Unavailable(f"worker {placement.chosen.worker} left")
        step = worker.begin_step()
        errands: Errands = []
        brought: list[Brought] = []
        try:
            # A context that has to be sent first is a step of its own, with its own time.
            await self._delivery.send_contexts(position, parts, worker)
            began = time.monotonic()
            brought = await self._bring(position, parts, placement, worker, errands)
            self._client.tell(StepStarted(position, worker.name))
            shown = secrets_for(vertex.op, self._request.secrets)
            agents = agents_for(vertex.op, self._request.agents)
            inputs = tuple(b.order for b in brought)
            run = orders.Run(vertex.op, inputs, keys, shown, agents)
            answer = await worker.call(run, forwarding(self._client, position, worker))
            seconds = time.monotonic() - began
            ran = _checked(answer, worker, len(inputs))
            # Before the errands: whoever is cancelled during these has it all the same.
            self._keep(position, worker, ran, keys)
        except OrderFailed as exc:
            if exc.worker == worker.name:
                if exc.reason == REF_MISSING:
                    await self._delivery.unlearn(worker, brought)
                if exc.reason in WORKERS_OWN:
                    self._unable.setdefault(position, set()).add(worker.name)
            raise
        finally:
            worker.end_step(step)
            await run_errands(errands)
        uses = tuple(b.use(report) for b, report in zip(brought, ran.inputs, strict=True))
        self._client.tell(StepDone(position, worker.name, False, seconds, uses))
        return Solved(position, ran.ref.tree, ran.ref.ref, worker.name)

    async def _bring(
        self,
        position: int,
        parts: Sequence[Part],
        placement: Placement,
        worker: WorkerLink,
        errands: Errands,
    ) -> list[Brought]:
        brought: list[Brought] = []
        op = self._graph.vertices[position].op
        if isinstance(op, ImageOp) and op.repository:
            asked = self._image_parts.get(position)
            brought.append(from_registry(op, self._request.credentials, asked))
        if isinstance(op, HttpOp | GitOp):
            brought.append(from_url(op))
        for index, (part, reach) in enumerate(
            zip(parts, placement.chosen.reaches, strict=True)
        ):
            brought.append(
                await self._delivery.bring(position, index, part, reach, worker, errands)
            )
        return brought

    async def _where_now(self, position: int, part: Part) -> Part:
        """Return ``part`` with the source that a client's tree has got meanwhile, or is to get."""
        if part.ref is not None:
            return part
        source = self._sources.find(part.position, position)
        if source is None:
            still = await self._deciding.still_read(part.position)
            return msgspec.structs.replace(
                part, needed=await in_thread(needed_of, self._graph, part, still)
            )
        # A source has no layers: even one that is read whole comes as paths.
        return msgspec.structs.replace(part, ref=source, partial=True)

    async def _place(self, position: int, parts: Sequence[Part]) -> Placement:
        vertex = self._graph.vertices[position]
        cluster, records = self._shared.cluster, self._shared.records
        placement: Placement | None = None
        while placement is None:
            await self._wait_for_worker(vertex)
            options = [reaches(part, cluster, records) for part in parts]
            unable = self._unable.get(position, ())
            views = [worker.view() for worker in cluster]
            able = [view for view in views if view.name not in unable]
            placement = place(options, able, constraints=vertex.constraints) or place(
                options, views, constraints=vertex.constraints
            )
        if self._request.explain:
            self._client.tell(Explained(position, explain(placement)))
        return placement

    async def _wait_for_worker(self, vertex: Vertex) -> bool:
        """Wait until a worker that fits a step has come and told what it holds.

        Returns:
            Whether there was none.

        Raises:
            NoWorker: none comes.
        """
        cluster, constraints = self._shared.cluster, vertex.constraints
        deadline_s = time.monotonic() + WAIT_FOR_WORKER_S
        had_to_wait = False
        while not any(fits(worker.view(), constraints) for worker in cluster):
            if constraints not in self._waited_for:
                self._waited_for.add(constraints)
                why = cluster.lacks(constraints)
                self._client.tell(Warned(f"{why}; waiting {WAIT_FOR_WORKER_S:.0f} s for one"))
            had_to_wait = True
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not await cluster.wait_for_join(left_s):
                why = cluster.lacks(constraints)
                raise NoWorker(f"{vertex.name}: {why}; {start_one(constraints)}")
        if had_to_wait:
            await cluster.wait_until_learnt()
        return had_to_wait

    def _keep(
        self, position: int, worker: WorkerLink, ran: Ran, keys: Sequence[Digest]
    ) -> None:
        """Note a new result and what came to the worker on the way."""
        shared = self._shared
        if ran.ref.source:
            self._sources.hold(position, worker, ran.ref)
            return
        for info in (*ran.pulled, ran.ref):
            shared.records.add(info)
            shared.cluster.add_ref(worker, info)
            worker.learn_tree(shared.nodes, info.tree)
        shared.records.add_keys(ran.ref.ref, keys)


def _checked(answer: orders.Result, worker: WorkerLink, inputs: int) -> Ran:
    """Return what a worker says of a step that has so many inputs.

    Raises:
        OrderFailed: it is not about that.
    """
    if not isinstance(answer, Ran):
        raise OrderFailed(worker.name, "protocol", "answered a run with something else")
    if len(answer.inputs) != inputs:
        detail = f"reports on {len(answer.inputs)} of {inputs} inputs"
        raise OrderFailed(worker.name, "protocol", detail)
    return answer
