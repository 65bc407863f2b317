"""One connected client, and its build."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError, NodeMissing
from filesync.manifest import Nodes, missing_nodes
from filesync.manifest.pack import pack_nodes
from filesync.select import Selector
from solver.errors import InputLost, NoWorker, OrderFailed, StepFailed, WorkerLost
from solver.manager.agents import AgentLines
from solver.manager.build import ATTEMPTS, Build
from solver.manager.caches.making import make_cache, with_inline_cache
from solver.manager.caches.pushing import push_cache
from solver.manager.images import only_pushed, push_order, relay_order
from solver.manager.moving.blobs import call_with_blobs
from solver.manager.moving.offers import REF_MISSING, quietly
from solver.manager.outbox import Outbox
from solver.manager.results.replicas import Replicas
from solver.manager.results.transferring import transfer_cache
from solver.manager.shared import Shared, Solved
from solver.manager.workers import WorkerLink
from solver.wire import (
    AgentSaid,
    BuildFailed,
    Built,
    CacheFrom,
    CacheMade,
    CachePushed,
    Denied,
    Event,
    Exported,
    ExportRequest,
    PushProgress,
    PushRequest,
    Serve,
    StartBuild,
    StopServing,
    TransferCache,
    Warned,
)
from worker.wire import orders
from worker.wire.agents import AgentAsked
from worker.wire.images import Pushed, PushImage, RelayImage
from worker.wire.ops import ImageOp, LocalOp
from worker.wire.orders import Offered

log = logging.getLogger(__name__)

Traffic = Callable[[], tuple[int, int]]
"""Bytes that the manager has received and sent so far."""


@dataclass(slots=True)
class _Made:
    """What a build's client gets of the result, as far as it has been made."""

    exported: list[Exported] = field(default_factory=list)
    pushed: list[Pushed] = field(default_factory=list)
    caches: list[CacheMade] = field(default_factory=list)
    caches_pushed: list[CachePushed] = field(default_factory=list)


@dataclass(slots=True)
class ClientLink:
    """A client by its ZeroMQ identity; one build at a time.

    Attributes:
        outbox: what it is told.
        last_s: when it was heard last.
    """

    identity: bytes
    shared: Shared
    outbox: Outbox
    traffic: Traffic
    last_s: float
    _running: asyncio.Task[None] | None = None
    _asked: set[asyncio.Task[None]] = field(default_factory=set)
    _exports: list[tuple[WorkerLink, bytes]] = field(default_factory=list)
    _agent_lines: AgentLines = field(default_factory=AgentLines)
    _traffic_before: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._traffic_before = self.traffic()

    # --- what a build needs of its client -----------------------------------------------------

    def tell(self, event: Event | Warned) -> None:
        """Let it know of an event; never waits."""
        self.outbox.tell(event)

    async def serve(self, tree: Digest, address: str, part: Selector | None = None) -> bytes:
        """Have the client serve a tree of its own, or a part, to a data plane; return the token."""
        token = secrets.token_bytes(16)
        self.outbox.answer(Serve(tree, address, token, part))
        return token

    async def stop_serving(self, token: bytes) -> None:
        """End that."""
        self.outbox.answer(StopServing(token))

    def ask_agent(self, worker: WorkerLink, asked: AgentAsked) -> None:
        """Have an SSH agent of the client's asked; ``agent_said`` has the answer."""
        if (question := self._agent_lines.asked(worker, asked)) is not None:
            self.outbox.answer(question)

    # --- what the server does with it ---------------------------------------------------------

    async def agent_said(self, said: AgentSaid) -> None:
        """Pass on what an agent of the client's has answered."""
        if (told := self._agent_lines.answered(said)) is not None:
            worker, answer = told
            await worker.send(worker.identity, answer, b"")

    def start(self, request: StartBuild, group: asyncio.TaskGroup) -> None:
        """Begin a build, unless one runs already."""
        if request.version != orders.VERSION:
            detail = f"client speaks version {request.version}, the manager {orders.VERSION}"
            self.outbox.answer(Denied("version", detail))
            return
        if self._running is not None:
            self.outbox.answer(Denied("busy", "this client has a build that has not ended"))
            return
        unknown = [
            vertex.op.name
            for vertex in request.graph.vertices
            if isinstance(vertex.op, LocalOp) and vertex.op.tree not in self.shared.nodes
        ]
        unknown += [
            "cache"
            for cache in request.caches
            if isinstance(cache, CacheFrom) and cache.tree not in self.shared.nodes
        ]
        if unknown:
            # What a client sends when its connection is cut is lost; it has dialled again since.
            detail = f"the trees of {', '.join(unknown)} have not come; was the connection cut?"
            self.outbox.answer(Denied(NodeMissing.code, detail))
            return
        self._running = group.create_task(self._run(request))

    def ask(self, work: Coroutine[Any, Any, None], group: asyncio.TaskGroup) -> None:
        """Work on a question of this client, for as long as the client is there."""
        task = group.create_task(work)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    def start_transfer(
        self, request: TransferCache, replicas: Replicas, group: asyncio.TaskGroup
    ) -> None:
        """Begin to move a result, in place of a build; it ends with its client."""
        if self._running is not None:
            self.outbox.answer(Denied("busy", "this client has a build that has not ended"))
            return
        self._running = group.create_task(self._transfer(request, replicas))

    async def _transfer(self, request: TransferCache, replicas: Replicas) -> None:
        try:
            self.outbox.answer(await transfer_cache(replicas, request, self.outbox.tell))
        except OrderFailed as exc:
            self.outbox.answer(Denied(exc.reason, str(exc)))
        except FilesyncError as exc:
            self.outbox.answer(Denied(exc.code, str(exc)))
        except Exception as exc:
            log.exception("transfer ended by a bug")
            self.outbox.answer(Denied("internal", f"internal error: {exc!r}"))

    async def end(self) -> None:
        """Stop the build and let go of what it holds. Idempotent."""
        task, self._running = self._running, None
        for asked in self._asked:
            asked.cancel()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, request: StartBuild) -> None:
        build: Build | None = None
        try:
            try:
                build = Build(self.shared, request, self)
                # A worker that has just joined may still be telling what it holds.
                await self.shared.cluster.wait_until_learnt()
                await self._build(build, request)
            except FilesyncError as exc:
                log.info("build failed reason=%s", exc)
                self.outbox.answer(_failure(exc))
            except Exception as exc:
                log.exception("build ended by a bug")
                self.outbox.answer(BuildFailed("internal", f"internal error: {exc!r}"))
            # The exports stay open until the client has taken them and ends the build.
            await asyncio.Event().wait()
        finally:
            if build is not None:
                await build.release()
            exports, self._exports = self._exports, []
            for worker, token in exports:
                await quietly(worker.call(orders.Release(tokens=(token,))))

    async def _build(self, build: Build, request: StartBuild) -> None:
        image = only_pushed(request)
        if image is not None and not build.is_known(request.graph.target):
            relayed = [
                await self._relay(build, image, asked, request) for asked in request.pushes
            ]
            self.outbox.answer(Built(None, None, (), self._moved(), tuple(relayed)))
            return
        made = _Made()
        solved = await build.solve_target()
        misses = 0
        while True:
            try:
                if not await self._make_next(build, request, solved, made):
                    break
            except (OrderFailed, WorkerLost) as exc:
                misses += 1
                if solved.ref is None or misses == ATTEMPTS:
                    raise
                if isinstance(exc, OrderFailed):
                    if exc.reason != REF_MISSING:
                        raise
                    self._forget(exc.worker, solved.ref)
                solved = await build.solve_target()
        content = self.shared.nodes.summary(solved.tree).content
        done = (tuple(made.exported), self._moved(), tuple(made.pushed))
        caches = (tuple(made.caches), tuple(made.caches_pushed))
        self.outbox.answer(Built(solved.tree, content, *done, *caches))

    async def _make_next(
        self, build: Build, request: StartBuild, solved: Solved, made: "_Made"
    ) -> bool:
        """Make the next thing that was asked for of the result; False when all is made."""
        if len(made.exported) < len(request.exports):
            made.exported.append(await self._export(build, solved, request, len(made.exported)))
        elif len(made.pushed) < len(request.pushes):
            made.pushed.append(await self._push(build, solved, request, len(made.pushed)))
        elif len(made.caches) < len(request.cache_modes):
            mode = request.cache_modes[len(made.caches)]
            cache = make_cache(
                self.shared, request.graph, solved, mode, build.caches, self._open_layers
            )
            made.caches.append(await cache)
        elif len(made.caches_pushed) < len(request.cache_pushes):
            asked = request.cache_pushes[len(made.caches_pushed)]
            made.caches_pushed.append(
                await push_cache(
                    self.shared,
                    request.graph,
                    solved,
                    asked,
                    build.caches,
                    request.credentials,
                    self.outbox.tell,
                )
            )
        else:
            return False
        return True

    def _moved(self) -> tuple[int, int]:
        """Return the bytes that the manager has received and sent since this client came."""
        before, after = self._traffic_before, self.traffic()
        return after[0] - before[0], after[1] - before[1]

    def _forget(self, worker: str, ref: Digest) -> None:
        """Take a worker's word that it does not hold ``ref``."""
        link = self.shared.cluster.named(worker)
        if link is not None:
            self.shared.cluster.forget(link, [ref])

    async def _image_config(
        self,
        build: Build,
        solved: Solved,
        request: StartBuild,
        asked: ExportRequest | PushRequest,
    ) -> bytes:
        """Return an image's configuration, with a cache in it if one was asked for."""
        is_image = isinstance(asked, PushRequest) or asked.form is orders.ExportForm.OCI
        if not (request.inline_cache and is_image):
            return asked.config
        return await with_inline_cache(
            self.shared, request.graph, solved, build.caches, asked.config
        )

    def _holder(self, solved: Solved, what: str) -> tuple[Digest, WorkerLink]:
        """Return the result and a worker that has it.

        Raises:
            NoWorker: it is a context, which no worker has.
        """
        if solved.ref is None:
            raise NoWorker(f"the target is a context by itself; there is nothing to {what}")
        return solved.ref, self.shared.cluster.holder(solved.ref, solved.position)

    async def _export(
        self, build: Build, solved: Solved, request: StartBuild, number: int
    ) -> Exported:
        ref, worker = self._holder(solved, "export")
        asked = request.exports[number]
        order = orders.Export(
            ref,
            asked.form,
            await self._image_config(build, solved, request, asked),
            asked.name,
            asked.compression,
            asked.level,
            asked.annotations,
            asked.newest_s,
            asked.descriptor_annotations,
            asked.time_s,
        )
        offered = await call_with_blobs(self.shared, worker, self._chain(ref), order)
        if not isinstance(offered, Offered):
            raise OrderFailed(worker.name, "protocol", "answered an export with something else")
        await self._keep_open(worker, offered)
        return Exported(
            worker.name,
            worker.address,
            offered.token,
            offered.tree,
            offered.manifest,
            offered.config,
        )

    async def _open_layers(self, worker: WorkerLink, order: orders.OfferLayers) -> Offered:
        """Have a worker open layers until the client has taken them."""
        offered = await call_with_blobs(self.shared, worker, order.refs, order)
        if not isinstance(offered, Offered):
            raise OrderFailed(worker.name, "protocol", "answered an offer with something else")
        await self._keep_open(worker, offered)
        return offered

    def _chain(self, ref: Digest) -> list[Digest]:
        return [info.ref for info in self.shared.records.chain(ref)]

    async def _keep_open(self, worker: WorkerLink, offered: Offered) -> None:
        """Let the client know what was opened for it, and close that when the build ends."""
        self._exports.append((worker, offered.token))
        for pack in pack_nodes(missing_nodes(self.shared.nodes, offered.tree, _nobody_has)):
            self.outbox.answer(orders.Nodes(), pack)
            await asyncio.sleep(0)  # as in ``WorkerLink.send_tree``

    async def _push(
        self, build: Build, solved: Solved, request: StartBuild, number: int
    ) -> Pushed:
        """Have a worker that holds the result push it."""
        ref, worker = self._holder(solved, "push")
        asked = request.pushes[number]
        config = await self._image_config(build, solved, request, asked)
        order = push_order(ref, msgspec.structs.replace(asked, config=config), request)
        return await self._pushed(worker, order, asked.names)

    async def _relay(
        self, build: Build, image: ImageOp, asked: PushRequest, request: StartBuild
    ) -> Pushed:
        """Have a worker push an image on that is in a registry; another, if the first is lost."""
        order = relay_order(image, asked, request)
        misses = 0
        while True:
            worker = await build.worker_for(request.graph.target)
            try:
                return await self._pushed(worker, order, asked.names)
            except WorkerLost:
                misses += 1
                if misses == ATTEMPTS:
                    raise

    async def _pushed(
        self, worker: WorkerLink, order: PushImage | RelayImage, names: tuple[str, ...]
    ) -> Pushed:
        def progress(event: orders.Event) -> None:
            if isinstance(event, orders.Progress):
                done = (event.done_bytes, event.total_bytes)
                self.outbox.tell(PushProgress(names, worker.name, *done))

        self.outbox.tell(PushProgress(names, worker.name))
        chain = self._chain(order.ref) if isinstance(order, PushImage) else []
        pushed = await call_with_blobs(self.shared, worker, chain, order, progress)
        if not isinstance(pushed, Pushed):
            raise OrderFailed(worker.name, "protocol", "answered a push with something else")
        return pushed


def lacking(nodes: Nodes, trees: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Return those of ``trees`` that are not here whole."""
    return tuple(tree for tree in trees if tree not in nodes)


def _nobody_has(_: Digest) -> bool:
    return False


def _failure(exc: FilesyncError) -> BuildFailed:
    match exc:
        case StepFailed():
            return BuildFailed(exc.reason, str(exc), exc.position, exc.exit_status, exc.tail)
        case InputLost():
            return BuildFailed(exc.code, str(exc), exc.position)
        case OrderFailed():
            return BuildFailed(exc.reason, str(exc))
        case NodeMissing():
            return BuildFailed(exc.code, f"{exc}; build again")
        case _:
            return BuildFailed(exc.code, str(exc))
