"""Brings an op's inputs to this worker, each by the mode that its order says, and holds them there."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self, assert_never

import msgspec

from filesync.digest import Digest
from filesync.disk.scanning.scan import scan
from filesync.disk.updating.update import TreeUpdate, WantedFile
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, put
from filesync.sources import Filling, SourceLease
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.threads import acquired, in_thread, while_wanted
from filesync.trees.retime import with_times
from worker.images import Images
from worker.moving.arrivals import Arrivals
from worker.moving.coming import ComingUpdate, Told
from worker.moving.move import in_turn
from worker.moving.passing import ComingTree
from worker.parts.errors import NotInParts
from worker.parts.part import ImagePart
from worker.store import Store, TreeView
from worker.wire import orders
from worker.wire.caches import FromRepository
from worker.wire.images import FromRegistry
from worker.wire.orders import InputOrder, InputReport, Mode, RefInfo
from worker.wire.urls import FromGit, FromUrl, UrlFile

log = logging.getLogger(__name__)

OnProgress = Callable[[int, int, int], None]
"""Told (input, bytes done, bytes in all) while an input is on its way."""


class Input(msgspec.Struct):
    """An input in place.

    Attributes:
        ref: the ref that it is; None for a partial source, which is no ref.
        source: the lease of a partial source; whoever takes it from here releases it.
        file: of a file from a URL, what is known of it.
    """

    tree: TreeView
    ref: Digest | None = None
    source: SourceLease | None = None
    file: UrlFile | None = None


class Inputs:
    """The inputs of one op. ``async with``: they stay in place until the block ends."""

    def __init__(
        self,
        store: Store,
        plane: DataPlane,
        images: Images,
        arrivals: Arrivals,
        on_progress: OnProgress,
    ) -> None:
        self._store = store
        self._arrivals = arrivals
        self._images = images
        self._plane = plane
        self._on_progress = on_progress
        self._stack = AsyncExitStack()
        self._holds = self._stack.enter_context(ExitStack())
        self._reports: dict[int, InputReport] = {}
        self._told_s = 0.0
        self.pulled: tuple[RefInfo, ...] = ()

    @property
    def reports(self) -> tuple[InputReport, ...]:
        """What each input took, in order."""
        return tuple(self._reports[index] for index in sorted(self._reports))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def bring_all(self, wanted: Sequence[InputOrder]) -> list[Input]:
        """Bring every input, at the same time; return them in order.

        Raises:
            RefMissing, Unavailable, StoreError, UrlNotModified: the first that failed.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._bring(index, one))
                    for index, one in enumerate(wanted)
                ]
        except BaseExceptionGroup as failures:
            first = failures.exceptions[0]
            # Its own cause stays: that a disk is full is found there.
            raise first from first.__cause__
        return [task.result() for task in tasks]

    async def _bring(self, index: int, order: InputOrder) -> Input:
        began_s = time.monotonic()
        stats, from_registry, whole = PullStats(), 0, 0
        match order:
            case orders.FromLocal(ref):
                found, mode = await self._view(ref), Mode.LOCAL
            case orders.FromPaths():
                found, stats = await self._sync(index, order)
                mode = Mode.PATHS
            case orders.FromLayers():
                stats = await self._pull_chain(index, order)
                found, mode = await self._view(order.chain[-1].ref.ref), Mode.LAYERS
            case FromRepository():
                found, from_registry = await self._pull_layers(index, order)
                mode = Mode.REGISTRY
            case FromRegistry():
                part = await self._read_parts(index, order)
                if part is None:
                    found, from_registry = await self._pull_image(index, order)
                else:
                    found = self._leased(part.tree, part.lease)
                    from_registry, whole = part.bytes_moved, part.bytes_whole
                    stats.files = part.files
                mode = Mode.REGISTRY
            case FromUrl():
                found, from_registry = await self._download(index, order)
                mode, stats.files = Mode.URL, 1
            case FromGit():
                found, from_registry = await self._fetch(order)
                mode = Mode.URL
            case _:
                assert_never(order)
        seconds = time.monotonic() - began_s
        moved = stats.wire_in + stats.wire_out + from_registry
        self._reports[index] = InputReport(mode, moved, stats.files, seconds, whole)
        return found

    async def _view(self, ref: Digest) -> Input:
        held = ExitStack()
        enter = partial(held.enter_context, self._store.view(ref))
        tree = await acquired(enter, lambda _: held.close())
        self._stack.push_async_callback(in_thread, held.close)
        return Input(tree, ref)

    async def _sync(self, index: int, order: orders.FromPaths) -> tuple[Input, PullStats]:
        """Fill an ephemeral source, starting from the idle one that is nearest; pass it on."""
        sources = self._store.sources
        take = partial(sources.take, order.key, basis=order.basis or None)
        filling = await acquired(take, sources.abandon)
        try:
            passed_on = self._arrivals.passing.coming_tree(Digest(order.tree), filling.path)
            with passed_on as coming:
                stats = await self._fill(index, order, filling, coming)
            seal = partial(sources.seal, filling, order.tree)
            lease = await acquired(seal, SourceLease.release)
        except BaseException:
            await in_thread(sources.abandon, filling)
            raise
        tree = TreeView(Manifest(order.tree, self._store.nodes), lease.path)
        return self._leased(tree, lease), stats

    async def _fill(
        self, index: int, order: orders.FromPaths, filling: Filling, coming: ComingTree
    ) -> PullStats:
        nodes = self._store.nodes
        target = Manifest(order.tree, nodes)
        basis = None if filling.tree is None else Manifest(filling.tree, nodes)
        told = self._progress(index, target.summary.size)

        def progress(progress: Progress) -> None:
            coming.on_come()
            told(progress)

        @contextmanager
        def telling(wanted: WantedFile) -> Iterator[Sequence[Told]]:
            with coming.coming(wanted.digest) as passed:
                yield (passed,)

        first, standby = in_turn(order.replicas, order.passing)
        return await self._plane.pull(
            ComingUpdate(TreeUpdate(filling.path, basis=basis, target=target), telling),
            first,
            tree=order.tree,
            standby=standby,
            progress=progress,
        )

    def _leased(self, tree: TreeView, lease: SourceLease) -> Input:
        found = Input(tree, None, lease)

        def release() -> None:
            if found.source is not None:
                found.source.release()

        self._stack.push_async_callback(in_thread, release)
        return found

    async def _pull_chain(self, index: int, order: orders.FromLayers) -> PullStats:
        total = sum(link.layer.size for link in order.chain)
        # Between its coming and its being a ref's, nothing else says that a blob is needed.
        blobs = [link.layer.digest for link in order.chain]
        self._holds.enter_context(self._store.blobs.holding(blobs))
        stats, pulled = await self._arrivals.pull(order, self._progress(index, total))
        self.pulled = (*self.pulled, *pulled)
        return stats

    async def _read_parts(self, index: int, order: FromRegistry) -> ImagePart | None:
        """Have what is read of an image in a source; None where it has to be taken whole."""
        if order.selector is None:
            return None
        try:
            return await self._images.read_parts(
                order, lambda done, total: self._on_progress(index, done, total)
            )
        except NotInParts as exc:
            log.info("image taken whole image=%s reason=%s", order.manifest[:19], exc)
            return None

    async def _pull_image(self, index: int, order: FromRegistry) -> tuple[Input, int]:
        """Have an image's blobs in the store, which is an image layout: that is the input."""
        moved = await self._images.pull(
            order,
            holds=self._holds.enter_context(ExitStack()),
            on_share=lambda done, total: self._on_progress(index, done, total),
        )
        return self._in_store(), moved

    async def _pull_layers(self, index: int, order: FromRepository) -> tuple[Input, int]:
        """Have blobs of a repository in the store."""
        moved = await self._images.pull_layers(
            order,
            holds=self._holds.enter_context(ExitStack()),
            on_share=lambda done, total: self._on_progress(index, done, total),
        )
        return self._in_store(), moved

    async def _download(self, index: int, order: FromUrl) -> tuple[Input, int]:
        """Have the file that a URL gives, proved if it can be, in a directory of its own."""
        directory = await self._work("url")
        file = await self._images.download(
            order,
            directory / order.name,
            lambda done, total: self._on_progress(index, done, total),
        )
        nodes = MemoryNodes()
        scanned = await in_thread(scan, directory, nodes)
        tree = Manifest(scanned.tree, nodes)
        return Input(TreeView(tree, directory), file=file), tree.summary.size

    async def _fetch(self, order: FromGit) -> tuple[Input, int]:
        """Have the tree of a commit, all of it from the commit's time, in a directory of its own."""
        fetched = await self._images.fetch(order, await self._work("git"))
        nodes = MemoryNodes()
        scanned = await while_wanted(scan, fetched.path, nodes)
        whole, at_ns = Manifest(scanned.tree, nodes), fetched.time_s * 1_000_000_000
        tree = await in_thread(with_times, whole, nodes, mtime_ns=at_ns)
        return Input(TreeView(tree, fetched.path)), fetched.bytes_moved

    async def _work(self, purpose: str) -> Path:
        """Return a directory for what is on its way, which is there until the inputs are let go of."""
        store = self._store
        directory = await acquired(partial(store.make_work, purpose), store.drop_work)
        self._stack.push_async_callback(in_thread, store.drop_work, directory)
        return directory

    def _in_store(self) -> Input:
        nothing = Manifest(put(self._store.nodes, EMPTY_DIRECTORY), self._store.nodes)
        return Input(TreeView(nothing, self._store.blobs.directory))

    def _progress(self, index: int, total: int) -> Callable[[Progress], None]:
        def tell(progress: Progress) -> None:
            now_s = time.monotonic()
            if now_s - self._told_s > 0.2:
                self._told_s = now_s
                self._on_progress(index, min(progress.content_bytes, total), total)

        return tell
