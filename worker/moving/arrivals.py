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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, nullcontext
from contextvars import copy_context
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
from filesync.process.wanted import until_given_up
from filesync.transfer.flow import Compress, Flow
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.threads import acquired, in_thread, until_done, while_wanted
from worker.layers.rebuild import ContentGone
from worker.layers.way import Way, is_worth_a_look, way_of
from worker.moving.coming import ComingFile, ComingUpdate, Told
from worker.moving.errors import CameOtherwise
from worker.moving.move import Move, in_turn, replicas_of
from worker.moving.nearby import Nearby, find_nearby, wanted_of
from worker.moving.passing import PassedFile, Passing
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

_SQUEEZED: Final = Flow(Compress.ZSTD)


class Arrivals:
    """Brings chains to one worker's store. For one event loop.

    Attributes:
        passing: is told of what comes.
    """

    def __init__(self, store: Store, plane: DataPlane) -> None:
        self.passing = Passing()
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
        move = Move(order, on_progress)
        missing = [link for link in order.chain if store.refs.find(link.ref.ref) is None]
        held = {layer.digest for link in missing for layer in _blobs_of(link)}
        with store.blobs.holding(held):
            await self._bring_skeletons(missing, move)
            tasks: list[asyncio.Task[RefInfo | None]] = []
            try:
                async with asyncio.TaskGroup() as group:
                    for link in missing:
                        below = tasks[-1] if tasks else None
                        tasks.append(group.create_task(self._bring(link, below, move)))
            except BaseExceptionGroup as failures:
                first = failures.exceptions[0]
                raise first from first.__cause__
        pulled = [info for task in tasks if (info := task.result()) is not None]
        return move.stats, tuple(pulled)

    async def pull_blobs(self, order: orders.PullBlobs) -> PullStats:
        """Have the blobs of layers in the store, and nothing else.

        Raises:
            Unavailable, PeerError, StoreError: as ``DataPlane.pull``.
        """
        move = Move(order, lambda _: None)
        lacking = [one for one in order.layers if one.digest not in self._store.blobs]
        with self._store.blobs.holding([one.digest for one in order.layers]):
            await self._bring_blobs(lacking, move)
        return move.stats

    # --- one link -----------------------------------------------------------------------------

    async def _bring(
        self, link: Link, below: "asyncio.Task[RefInfo | None] | None", move: Move
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
                    return await self._fetch_and_apply(link, staging, below, move)
                except ContentGone as exc:
                    log.warning("nothing here is used for a layer any more reason=%s", exc)
                    move.uses_nearby = False
                    return await self._fetch_and_apply(link, staging, below, move)

    async def _fetch_and_apply(
        self,
        link: Link,
        staging: Path,
        below: "asyncio.Task[RefInfo | None] | None",
        move: Move,
    ) -> RefInfo:
        async with AsyncExitStack() as holds:
            apply = await self._fetch(link, staging, move, holds)
            if apply is None:
                with self.passing.coming(move.entry(link.layer).digest) as passed:
                    return await self._stream(link, staging, below, move, passed)
            if below is not None:
                await asyncio.shield(below)  # as for steps: a chain may be long
            return await while_wanted(apply)

    async def _stream(
        self,
        link: Link,
        staging: Path,
        below: "asyncio.Task[RefInfo | None] | None",
        move: Move,
        passed: PassedFile,
    ) -> RefInfo:
        """Have a layer's blob come, and apply it and pass it on while it does."""
        blob = move.blob(link.layer)
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        coming = ComingFile(
            staging / move.entry(link.layer).name.decode(),
            blob.size,
            on_begun=partial(loop.call_soon_threadsafe, begun.set),
        )
        entries = [move.entry(link.layer)]
        told = (coming, passed)
        pulling = asyncio.ensure_future(self._pull_flat(entries, staging, move, told))

        def ended(_: object) -> None:
            coming.end()
            begun.set()

        pulling.add_done_callback(ended)
        is_refused = False
        try:
            await begun.wait()
            if below is not None:
                await asyncio.shield(below)  # as for steps: a chain may be long
            info = await self._apply_as_it_comes(link, coming, pulling)
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

    async def _apply_as_it_comes(
        self, link: Link, coming: ComingFile, pulling: "asyncio.Future[None]"
    ) -> RefInfo:
        try:
            return await self._apply_coming(link, coming)
        except (CameOtherwise, PeerError) as exc:
            # What was read was not proved yet: if it was wrong it has come anew in the end.
            await pulling
            if isinstance(exc, PeerError) and not coming.came_anew:
                raise
        coming.rewind()
        return await self._apply_coming(link, coming)

    async def _apply_coming(self, link: Link, coming: ComingFile) -> RefInfo:
        # A thread of its own: it waits for a peer, and those that all share must not.
        thread = ThreadPoolExecutor(1, thread_name_prefix="layer")
        with until_given_up() as given_up:
            apply = partial(copy_context().run, apply_coming, self._store, link, coming)
        applying = asyncio.get_running_loop().run_in_executor(thread, apply)
        thread.shutdown(wait=False)
        try:
            return await asyncio.shield(applying)
        except asyncio.CancelledError:
            coming.stop()
            given_up.set()
            await until_done(asyncio.wait([applying]))
            if not applying.cancelled():
                applying.exception()
            raise

    async def _fetch(
        self, link: Link, staging: Path, move: Move, holds: AsyncExitStack
    ) -> Callable[[], RefInfo] | None:
        """Have what a layer is made of on this disk; return what applies it. Blocks, that one.

        None if its blob has yet to come. ``holds`` keeps in place what is read.
        """
        store = self._store
        if link.layer.digest in store.blobs:
            return partial(apply_held, store, link)
        has_blob = move.offers(link.layer)
        if link.parts is not None and link.parts.skeleton.digest in store.blobs:
            try:
                apply = await self._fetch_parts(link, link.parts, staging, move, holds)
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
        move: Move,
        holds: AsyncExitStack,
    ) -> Callable[[], RefInfo] | None:
        """Have a layer's contents here; None where its blob is the better way."""
        wanted = await in_thread(wanted_of, self._store, parts)
        nearby = Nearby([], wanted)
        if move.uses_nearby:
            look = partial(find_nearby, self._store, wanted)
            nearby, views = await acquired(look, lambda found: found[1].close())
            holds.push_async_callback(in_thread, views.close)
        way = way_of(
            blob_bytes=link.layer.size if move.offers(link.layer) else None,
            skeleton_bytes=parts.skeleton.size,
            wanted_bytes=sum(wanted.values()),
            lacking_bytes=sum(nearby.lacking.values()),
        )
        if way is Way.BLOB:
            return None
        target = contents_tree(nearby.lacking)
        basis = await in_thread(_arrived, staging, target.nodes)
        update = TreeUpdate(staging, basis=basis, target=target)
        replicas, told = replicas_of(parts.replicas), move.progress()
        async with move.slots:
            move.add(
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
        move: Move,
        told: Sequence[Told] = (),
    ) -> None:
        """Pull blobs into ``staging``; where it is but one, ``told`` are told how it comes.

        That one is taken from who passes it on, if anybody does.
        """
        nodes = MemoryNodes()
        target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)
        async with move.slots:
            basis = await in_thread(_arrived, staging, nodes)
            update = TreeUpdate(staging, basis=basis, target=target)
            passing = move.passing if told else None
            first, standby = in_turn(move.order.replicas, passing)
            stats = await self._plane.pull(
                ComingUpdate(update, lambda _: nullcontext(told)) if told else update,
                first,
                tree=move.order.blobs,
                standby=standby,
                progress=move.progress(),
            )
        move.add(stats)
        if passing is not None and stats.replicas[0].error:
            move.uses_passing = False

    # --- what is decided by -------------------------------------------------------------------

    async def _bring_skeletons(self, links: Sequence[Link], move: Move) -> None:
        """Have the skeletons in the store that may help to decide how layers come."""
        store = self._store
        move.learn(store)
        is_empty = not store.refs.infos() and not store.sources.idle()
        wanted: list[Layer] = []
        for link in links:
            if link.parts is None or link.layer.digest in store.blobs:
                continue
            skeleton = link.parts.skeleton
            has_blob = move.offers(link.layer)
            if has_blob and is_empty:
                continue
            blob_bytes = link.layer.size if has_blob else None
            if skeleton.digest not in store.blobs and is_worth_a_look(
                blob_bytes, skeleton.size
            ):
                wanted.append(skeleton)
        await self._bring_blobs(wanted, move)

    async def _bring_blobs(self, wanted: Sequence[Layer], move: Move) -> None:
        """Have blobs in the store that may be pulled all at once."""
        move.learn(self._store)
        wanted = list({one.digest: one for one in wanted}.values())
        if not wanted:
            return
        entries = [move.entry(one) for one in wanted]
        make = partial(self._store.make_work, "blobs")
        staging = await acquired(make, self._store.drop_work)
        try:
            await self._pull_flat(entries, staging, move)
            for one in wanted:
                await in_thread(adopt, self._store, one, staging, move.blob(one))
        finally:
            await in_thread(self._store.drop_work, staging)


def _arrived(staging: Path, nodes: Nodes) -> Manifest | None:
    """Return what an earlier pull left in ``staging``."""
    if not staging.exists():
        return None
    return Manifest(scan(staging, nodes).tree, nodes)


def _blobs_of(link: Link) -> tuple[Layer, ...]:
    return (link.layer,) if link.parts is None else (link.layer, link.parts.skeleton)
