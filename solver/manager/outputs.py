"""What a build's client asked to be made of the result: exports, pushes and caches."""

import asyncio
from collections.abc import Sequence

import msgspec

from filesync.digest import Digest
from filesync.errors import NodeMissing, Unavailable
from filesync.manifest import missing_nodes
from filesync.manifest.pack import pack_nodes
from solver.errors import NoWorker, OrderFailed, WorkerLost
from solver.manager.build import ATTEMPTS, Build
from solver.manager.caches.making import make_cache, with_inline_cache
from solver.manager.caches.pushing import push_cache
from solver.manager.images import only_pushed, push_order, relay_order
from solver.manager.moving.blobs import BLOB_MISSING, call_with_blobs
from solver.manager.moving.offers import REF_MISSING, quietly
from solver.manager.outbox import Outbox
from solver.manager.shared import Shared, Solved
from solver.manager.workers import WorkerLink
from solver.wire import (
    Built,
    CacheMade,
    CachePushed,
    Exported,
    ExportRequest,
    PushProgress,
    PushRequest,
    StartBuild,
)
from worker.wire import orders
from worker.wire.images import Pushed, PushImage, RelayImage
from worker.wire.ops import ImageOp
from worker.wire.orders import Offered


class Outputs:
    """All that one build's client gets of the result, and what workers keep open for that.

    Args:
        outbox: the client's, which is told of nodes and progress; the answer is the caller's.
    """

    def __init__(self, shared: Shared, request: StartBuild, outbox: Outbox) -> None:
        self._shared = shared
        self._request = request
        self._outbox = outbox
        self._open: list[tuple[WorkerLink, bytes]] = []
        self._exported: list[Exported] = []
        self._pushed: list[Pushed] = []
        self._caches: list[CacheMade] = []
        self._caches_pushed: list[CachePushed] = []
        self._are_images_brought = False

    async def make(self, build: Build) -> Built:
        """Have the target solved and make all of it, or push it on where nobody need have it.

        What was made is not made again where the result's last holder is lost meanwhile, or does
        not have it any more: the target is solved again, a few times.
        """
        image = only_pushed(self._request)
        if image is not None and not build.is_known(self._request.graph.target):
            pushes = self._request.pushes
            relayed = [await self._relay(build, image, asked) for asked in pushes]
            return Built(None, pushed=tuple(relayed))
        solved = await build.solve_target()
        misses = 0
        while True:
            try:
                if not await self._make_next(build, solved):
                    return self._built(solved)
            except (OrderFailed, Unavailable) as exc:
                misses += 1
                if solved.ref is None or misses == ATTEMPTS:
                    raise
                if isinstance(exc, OrderFailed) and not await self._help(build, exc):
                    raise
                solved = await build.solve_target()

    async def release(self) -> None:
        """Close what was kept open for the client. Idempotent."""
        kept, self._open = self._open, []
        for worker, token in kept:
            await quietly(worker.call(orders.Release(tokens=(token,))))

    async def _make_next(self, build: Build, solved: Solved) -> bool:
        """Make the next thing that was asked for of the result; False when all is made."""
        shared, request = self._shared, self._request
        if len(self._exported) < len(request.exports):
            export = request.exports[len(self._exported)]
            self._exported.append(await self._export(build, solved, export))
        elif len(self._pushed) < len(request.pushes):
            push = request.pushes[len(self._pushed)]
            self._pushed.append(await self._push(build, solved, push))
        elif len(self._caches) < len(request.cache_modes):
            mode = request.cache_modes[len(self._caches)]
            cache = make_cache(
                shared, request.graph, solved, mode, build.caches, self._open_layers
            )
            self._caches.append(await cache)
        elif len(self._caches_pushed) < len(request.cache_pushes):
            pushing = push_cache(
                shared,
                request.graph,
                solved,
                request.cache_pushes[len(self._caches_pushed)],
                build.caches,
                request.credentials,
                self._outbox.tell,
            )
            self._caches_pushed.append(await pushing)
        else:
            return False
        return True

    def _built(self, solved: Solved) -> Built:
        return Built(
            self._shared.nodes.summary(solved.tree).content,
            exports=tuple(self._exported),
            pushed=tuple(self._pushed),
            caches=tuple(self._caches),
            caches_pushed=tuple(self._caches_pushed),
        )

    async def _help(self, build: Build, failure: OrderFailed) -> bool:
        """Do what may help where a result could not be had of a worker; False if nothing may.

        A result can outlive an image's blob: its worker was away while others were pruned, or its
        disk has lost it.
        """
        if failure.reason == BLOB_MISSING and not self._are_images_brought:
            self._are_images_brought = True
            await build.bring_images()
            return True
        build.doubt(failure)
        return failure.reason in (REF_MISSING, NodeMissing.code)

    def _holder(self, solved: Solved, what: str) -> tuple[Digest, WorkerLink]:
        """Return the result and a worker that has it.

        Raises:
            NoWorker: it is a context, which no worker has.
        """
        if solved.ref is None:
            raise NoWorker(f"the target is a context by itself; there is nothing to {what}")
        return solved.ref, self._shared.cluster.holder(solved.ref, solved.position)

    def _chain(self, ref: Digest) -> list[Digest]:
        return [info.ref for info in self._shared.records.chain(ref)]

    async def _image_config(
        self, build: Build, solved: Solved, asked: ExportRequest | PushRequest
    ) -> bytes:
        """Return an image's configuration, with a cache in it if one was asked for."""
        is_image = isinstance(asked, PushRequest) or asked.form is orders.ExportForm.OCI
        if not (self._request.inline_cache and is_image):
            return asked.config
        return await with_inline_cache(
            self._shared, self._request.graph, solved, build.caches, asked.config
        )

    # --- what the client takes itself ---------------------------------------------------------

    async def _export(self, build: Build, solved: Solved, asked: ExportRequest) -> Exported:
        ref, worker = self._holder(solved, "export")
        order = orders.Export(
            ref,
            asked.form,
            await self._image_config(build, solved, asked),
            asked.name,
            asked.compression,
            asked.level,
            asked.annotations,
            asked.newest_s,
            asked.descriptor_annotations,
            asked.time_s,
        )
        offered = await self._opened(worker, self._chain(ref), order)
        return Exported(
            worker.name,
            worker.address,
            offered.token,
            offered.tree,
            offered.manifest,
            offered.config,
        )

    async def _open_layers(self, worker: WorkerLink, order: orders.OfferLayers) -> Offered:
        return await self._opened(worker, order.refs, order)

    async def _opened(
        self,
        worker: WorkerLink,
        refs: Sequence[Digest],
        order: orders.Export | orders.OfferLayers,
    ) -> Offered:
        """Have a worker open something, until the client has taken it and ends the build."""
        offered = await call_with_blobs(self._shared, worker, refs, order)
        if not isinstance(offered, Offered):
            raise OrderFailed(worker.name, "protocol", "answered an offer with something else")
        self._open.append((worker, offered.token))
        for pack in pack_nodes(missing_nodes(self._shared.nodes, offered.tree, _nobody_has)):
            self._outbox.answer(orders.Nodes(), pack)
            await asyncio.sleep(0)  # as in ``WorkerLink.send_tree``
        return offered

    # --- what goes to a registry --------------------------------------------------------------

    async def _push(self, build: Build, solved: Solved, asked: PushRequest) -> Pushed:
        """Have a worker that holds the result push it."""
        ref, worker = self._holder(solved, "push")
        config = await self._image_config(build, solved, asked)
        order = push_order(ref, msgspec.structs.replace(asked, config=config), self._request)
        return await self._pushed_by(worker, order, asked.names)

    async def _relay(self, build: Build, image: ImageOp, asked: PushRequest) -> Pushed:
        """Have a worker push an image on that is in a registry; another, if the first is lost."""
        order = relay_order(image, asked, self._request)
        misses = 0
        while True:
            worker = await build.worker_for(self._request.graph.target)
            try:
                return await self._pushed_by(worker, order, asked.names)
            except WorkerLost:
                misses += 1
                if misses == ATTEMPTS:
                    raise

    async def _pushed_by(
        self, worker: WorkerLink, order: PushImage | RelayImage, names: tuple[str, ...]
    ) -> Pushed:
        def progress(event: orders.Event) -> None:
            if isinstance(event, orders.Progress):
                done = (event.done_bytes, event.total_bytes)
                self._outbox.tell(PushProgress(names, worker.name, *done))

        self._outbox.tell(PushProgress(names, worker.name))
        chain = self._chain(order.ref) if isinstance(order, PushImage) else []
        pushed = await call_with_blobs(self._shared, worker, chain, order, progress)
        if not isinstance(pushed, Pushed):
            raise OrderFailed(worker.name, "protocol", "answered a push with something else")
        return pushed


def _nobody_has(_: Digest) -> bool:
    return False
