"""Chains on their way to this worker from others.

Each layer comes as its blob or as what it is made of, whichever is fewer bytes, and is proved by
its diffID, by the digest of its blob where that came, and by the ref's tree digest. So a replica
is equal to what was built and exports the same image; no worker but the builder diffs trees.

Layers arrive a few at a time, and each is applied as soon as it and its parent are there. A ref is
brought by one order at a time: a second one that wants it waits, and finds it done. What had come
when an order ended, or this process was killed, stays in a directory named by the ref, where the
next order goes on.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from filesync.digest import Digest
from filesync.disk.scanning.scan import scan
from filesync.disk.updating.local import LocalTree
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import PeerError, Unavailable
from filesync.manifest import (
    EMPTY_DIRECTORY,
    File,
    Manifest,
    MemoryNodes,
    Nodes,
    put,
    with_entries,
)
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.threads import acquired, in_thread, until_done
from worker.blobs import Blob
from worker.layers.rebuild import ContentGone
from worker.layers.skeleton import contents_of, read_skeleton, skeleton_limits_of
from worker.layers.way import Choice, Way, choose_trees, is_worth_a_look, way_of
from worker.moving.coming import ComingFile, ComingUpdate
from worker.moving.errors import CameOtherwise
from worker.moving.unpacking import (
    adopt,
    apply_coming,
    apply_held,
    apply_parts,
    contents_tree,
    take_in,
)
from worker.store import Store
from worker.wire import orders
from worker.wire.orders import Layer, Link, LinkParts, RefInfo

log = logging.getLogger(__name__)

AT_ONCE: Final = 3
"""Layers of one chain that come at the same time: small ones do not wait for each other's round trips."""
MAX_CANDIDATES: Final = 32
"""Trees here that are looked into for contents."""
_SQUEEZED: Final = Flow(Compress.ZSTD)


class Arrivals:
    """Brings chains to one worker's store. For one event loop."""

    def __init__(self, store: Store, plane: DataPlane) -> None:
        self._store = store
        self._plane = plane
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()

    async def pull(
        self, order: orders.FromLayers, on_progress: Callable[[Progress], None]
    ) -> tuple[PullStats, tuple[RefInfo, ...]]:
        """Make every ref of a chain be here; return what moved and which refs are new.

        What is here already is not asked for. Cancelled, or failed, it leaves whole refs, and
        what had come of others for the next pull.

        Raises:
            Unavailable: no replica has what is lacking.
            ImageMalformed: a layer does not give the tree that it should.
            PeerError, StoreError: as ``DataPlane.pull``.
        """
        store = self._store
        moving = _Moving(order, on_progress)
        missing = [link for link in order.chain if store.refs.find(link.ref.ref) is None]
        held = {layer.digest for link in missing for layer in _blobs_of(link)}
        with store.blobs.holding(held):
            await self._bring_skeletons(missing, moving)
            tasks: list[asyncio.Task[RefInfo | None]] = []
            try:
                async with asyncio.TaskGroup() as group:
                    for link in missing:
                        below = tasks[-1] if tasks else None
                        tasks.append(group.create_task(self._bring(link, below, moving)))
            except BaseExceptionGroup as failures:
                first = failures.exceptions[0]
                raise first from first.__cause__
        pulled = [info for task in tasks if (info := task.result()) is not None]
        return moving.stats, tuple(pulled)

    async def pull_blobs(self, order: orders.PullBlobs) -> PullStats:
        """Have the blobs of layers in the store, and nothing else.

        Raises:
            Unavailable, PeerError, StoreError: as ``DataPlane.pull``.
        """
        moving = _Moving(order, lambda _: None)
        lacking = [one for one in order.layers if one.digest not in self._store.blobs]
        with self._store.blobs.holding([one.digest for one in order.layers]):
            await self._bring_blobs(lacking, moving)
        return moving.stats

    # --- one link -----------------------------------------------------------------------------

    async def _bring(
        self, link: Link, below: "asyncio.Task[RefInfo | None] | None", moving: "_Moving"
    ) -> RefInfo | None:
        """Make one ref be here; return it if it is new. ``below`` makes its parent be here."""
        lock = self._locks.setdefault(link.ref.ref, asyncio.Lock())
        # Whoever holds the lock of a ref waits for those of its parents at most, never of its
        # children: there is no circle.
        async with lock:
            if self._store.refs.find(link.ref.ref) is not None:
                return None
            with self._store.arriving(link.ref.ref) as staging:
                try:
                    return await self._fetch_and_apply(link, staging, below, moving)
                except ContentGone as exc:
                    log.warning("nothing here is used for a layer any more reason=%s", exc)
                    moving.uses_nearby = False
                    return await self._fetch_and_apply(link, staging, below, moving)

    async def _fetch_and_apply(
        self,
        link: Link,
        staging: Path,
        below: "asyncio.Task[RefInfo | None] | None",
        moving: "_Moving",
    ) -> RefInfo:
        async with AsyncExitStack() as holds:
            apply = await self._fetch(link, staging, moving, holds)
            if apply is None:
                return await self._stream(link, staging, below, moving)
            if below is not None:
                await below
            return await in_thread(apply)

    async def _stream(
        self,
        link: Link,
        staging: Path,
        below: "asyncio.Task[RefInfo | None] | None",
        moving: "_Moving",
    ) -> RefInfo:
        """Have a layer's blob come, and apply it while it does."""
        blob = moving.blob(link.layer)
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        coming = ComingFile(
            staging / moving.entry(link.layer).name.decode(),
            blob.size,
            on_begun=partial(loop.call_soon_threadsafe, begun.set),
        )
        entries = [moving.entry(link.layer)]
        pulling = asyncio.ensure_future(self._pull_flat(entries, staging, moving, coming))

        def ended(_: object) -> None:
            coming.end()
            begun.set()

        pulling.add_done_callback(ended)
        is_refused = False
        try:
            await begun.wait()
            if below is not None:
                await below
            try:
                info = await self._apply_coming(link, coming)
            except CameOtherwise:
                await pulling
                coming.rewind()
                info = await self._apply_coming(link, coming)
            await pulling
        except PeerError:
            is_refused = not pulling.done() or pulling.exception() is None
            raise
        finally:
            pulling.cancel()
            try:
                await until_done(asyncio.wait([pulling]))
            finally:
                coming.close()
            if is_refused:
                await in_thread(self._store.drop_arriving, staging)
        await in_thread(take_in, self._store, blob, staging)
        return info

    async def _apply_coming(self, link: Link, coming: ComingFile) -> RefInfo:
        # A thread of its own: it waits for a peer, and those that all share must not.
        thread = ThreadPoolExecutor(1, thread_name_prefix="layer")
        applying = asyncio.get_running_loop().run_in_executor(
            thread, apply_coming, self._store, link, coming
        )
        thread.shutdown(wait=False)
        try:
            return await asyncio.shield(applying)
        except asyncio.CancelledError:
            coming.stop()
            await until_done(asyncio.wait([applying]))
            if not applying.cancelled():
                applying.exception()
            raise

    async def _fetch(
        self, link: Link, staging: Path, moving: "_Moving", holds: AsyncExitStack
    ) -> Callable[[], RefInfo] | None:
        """Have what a layer is made of on this disk; return what applies it. Blocks, that one.

        None if its blob has yet to come. ``holds`` keeps in place what is read.
        """
        store = self._store
        if link.layer.digest in store.blobs:
            return partial(apply_held, store, link)
        has_blob = moving.offers(link.layer)
        if link.parts is not None and link.parts.skeleton.digest in store.blobs:
            try:
                apply = await self._fetch_parts(link, link.parts, staging, moving, holds)
            except (PeerError, Unavailable) as exc:
                if not has_blob:
                    raise
                log.warning("layer comes as its blob after all reason=%s", exc)
            else:
                if apply is not None:
                    return apply
        if not has_blob:
            raise Unavailable(f"nobody offers the layer {link.layer.digest}")
        return None

    async def _fetch_parts(
        self,
        link: Link,
        parts: LinkParts,
        staging: Path,
        moving: "_Moving",
        holds: AsyncExitStack,
    ) -> Callable[[], RefInfo] | None:
        """Have a layer's contents here; None where its blob is the better way."""
        wanted = await in_thread(self._wanted, parts)
        nearby = _Nearby([], wanted)
        if moving.uses_nearby:
            look = partial(self._nearby, wanted)
            nearby, views = await acquired(look, lambda found: found[1].close())
            holds.push_async_callback(in_thread, views.close)
        way = way_of(
            blob_bytes=link.layer.size if moving.offers(link.layer) else None,
            skeleton_bytes=parts.skeleton.size,
            wanted_bytes=sum(wanted.values()),
            lacking_bytes=sum(nearby.lacking.values()),
        )
        if way is Way.BLOB:
            return None
        target = contents_tree(nearby.lacking)
        basis = await in_thread(_arrived, staging, target.nodes)
        update = TreeUpdate(staging, basis=basis, target=target)
        replicas, told = _replicas(parts.replicas), moving.progress()
        async with moving.slots:
            moving.add(
                await self._plane.pull(
                    update, replicas, tree=link.ref.tree, progress=told, flow=_SQUEEZED
                )
            )
        trees = [LocalTree(target, staging), *nearby.trees]
        return partial(apply_parts, self._store, link, parts, trees, staging)

    async def _pull_flat(
        self,
        entries: Sequence[File],
        staging: Path,
        moving: "_Moving",
        coming: ComingFile | None = None,
    ) -> None:
        """Pull blobs into ``staging``; ``coming`` is told of it, where it is but one."""
        nodes = MemoryNodes()
        target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)
        async with moving.slots:
            basis = await in_thread(_arrived, staging, nodes)
            update = TreeUpdate(staging, basis=basis, target=target)
            stats = await self._plane.pull(
                update if coming is None else ComingUpdate(update, coming),
                moving.replicas,
                tree=moving.order.blobs,
                progress=moving.progress(),
            )
        moving.add(stats)

    # --- what is decided by -------------------------------------------------------------------

    async def _bring_skeletons(self, links: Sequence[Link], moving: "_Moving") -> None:
        """Have the skeletons in the store that may help to decide how layers come."""
        store = self._store
        moving.learn(store)
        is_empty = not store.refs.infos() and not store.sources.idle()
        wanted: list[Layer] = []
        for link in links:
            if link.parts is None or link.layer.digest in store.blobs:
                continue
            skeleton = link.parts.skeleton
            has_blob = moving.offers(link.layer)
            if has_blob and is_empty:
                continue
            blob_bytes = link.layer.size if has_blob else None
            if skeleton.digest not in store.blobs and is_worth_a_look(
                blob_bytes, skeleton.size
            ):
                wanted.append(skeleton)
        await self._bring_blobs(wanted, moving)

    async def _bring_blobs(self, wanted: Sequence[Layer], moving: "_Moving") -> None:
        """Have blobs in the store that may be pulled all at once."""
        moving.learn(self._store)
        wanted = list({one.digest: one for one in wanted}.values())
        if not wanted:
            return
        entries = [moving.entry(one) for one in wanted]
        make = partial(self._store.make_work, "blobs")
        staging = await acquired(make, self._store.drop_work)
        try:
            await self._pull_flat(entries, staging, moving)
            for one in wanted:
                await in_thread(adopt, self._store, one, staging, moving.blob(one))
        finally:
            await in_thread(self._store.drop_work, staging)

    def _wanted(self, parts: LinkParts) -> dict[Digest, int]:
        limits = skeleton_limits_of(parts.skeleton.size)
        with self._store.blobs.open(parts.skeleton.digest) as stream:
            return contents_of(read_skeleton(stream, limits=limits))

    def _nearby(self, wanted: dict[Digest, int]) -> tuple["_Nearby", ExitStack]:
        """Choose trees here to read contents from, and hold them in place."""
        store = self._store
        refs = store.refs.infos()[::-1][:MAX_CANDIDATES]
        idle = store.sources.idle()[:MAX_CANDIDATES]
        trees = [info.tree for info in refs] + [one.tree for one in idle]
        choice: Choice = choose_trees(wanted, (Manifest(one, store.nodes) for one in trees))
        with ExitStack() as stack:
            local: list[LocalTree] = []
            for number in choice.trees:
                tree = Manifest(trees[number], store.nodes)
                if number < len(refs):
                    view = stack.enter_context(store.view(refs[number].ref))
                    local.append(LocalTree(tree, view.root))
                else:
                    # Who takes it meanwhile may change it: what is read is verified.
                    local.append(
                        LocalTree(tree, store.sources.path_of(idle[number - len(refs)]))
                    )
            return _Nearby(local, choice.lacking), stack.pop_all()


@dataclass(frozen=True, slots=True)
class _Nearby:
    trees: Sequence[LocalTree]
    lacking: Mapping[Digest, int]


@dataclass(slots=True)
class _Moving:
    """One pull: what it is told to do, and how far it is.

    Attributes:
        uses_nearby: contents may be read from other trees here.
    """

    order: orders.FromLayers | orders.PullBlobs
    on_progress: Callable[[Progress], None]
    stats: PullStats = field(default_factory=lambda: PullStats(replicas=[]))
    uses_nearby: bool = True
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _offered: dict[bytes, File] = field(default_factory=dict)
    _under_way: list[Progress] = field(default_factory=list)

    @property
    def replicas(self) -> list[Replica]:
        return _replicas(self.order.replicas)

    def learn(self, store: Store) -> None:
        """Look up which blobs are on offer."""
        tree = Manifest(self.order.blobs, store.nodes)
        self._offered = {one.name: one for one in tree.root.entries if isinstance(one, File)}

    def offers(self, layer: Layer) -> bool:
        return _name(layer) in self._offered

    def entry(self, layer: Layer) -> File:
        """Return the entry of a blob on offer.

        Raises:
            Unavailable: it is not.
        """
        found = self._offered.get(_name(layer))
        if found is None or found.size != layer.size:
            raise Unavailable(f"nobody offers the blob {layer.digest}")
        return found

    def blob(self, layer: Layer) -> Blob:
        return Blob(layer.digest, layer.size, self.entry(layer).digest)

    def add(self, done: PullStats) -> None:
        self.stats.files += done.files
        self.stats.content_bytes += done.content_bytes
        self.stats.copied_bytes += done.copied_bytes
        self.stats.replicas.extend(done.replicas)

    def progress(self) -> Callable[[Progress], None]:
        """Return what takes the progress of one transfer and tells that of all."""
        number = len(self._under_way)
        self._under_way.append(Progress(0, 0, 0))

        def tell(progress: Progress) -> None:
            self._under_way[number] = progress
            self.on_progress(Progress(*map(sum, zip(*self._under_way, strict=True))))

        return tell


def _arrived(staging: Path, nodes: Nodes) -> Manifest | None:
    """Return what an earlier pull left in ``staging``."""
    if not staging.exists():
        return None
    return Manifest(scan(staging, nodes).tree, nodes)


def _blobs_of(link: Link) -> tuple[Layer, ...]:
    return (link.layer,) if link.parts is None else (link.layer, link.parts.skeleton)


def _replicas(replicas: Sequence[orders.Replica]) -> list[Replica]:
    return [Replica(one.address or None, one.token) for one in replicas]


def _name(layer: Layer) -> bytes:
    return layer.digest.removeprefix("sha256:").encode()
