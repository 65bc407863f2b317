"""Carries out a worker's orders: the one place where they are told apart."""

import asyncio
import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError, LocalError, Unavailable
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes
from filesync.process.memory import GivingBack
from filesync.transfer.errors import NotOffered, Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.send.offer import Offer
from filesync.transfer.threads import acquired, in_thread, until_done, while_wanted
from filesync.trees.select import select
from worker import exports
from worker.exec import Agents, ExecState, OnOutput
from worker.garbage.keeper import DiskKeeper
from worker.images import Images
from worker.inputs import Inputs, OnProgress
from worker.moving import chains, imports, skeletons
from worker.moving.arrivals import Arrivals
from worker.moving.given import GivenBlobs
from worker.moving.passedblobs import PassedBlobs
from worker.moving.passedtree import PassedTree
from worker.registry.meter import OnShare
from worker.run import OpFailed, run_op
from worker.store import Store, TreeView
from worker.store.leases import Leases
from worker.turns import Turns
from worker.urls import UrlNotModified
from worker.wire import orders
from worker.wire.agents import AgentAnswered, AgentAsked
from worker.wire.caches import PushLayers, PushManifest, ReadCache
from worker.wire.disk import Prune, ReadHoldings, ReadUsage, Touch
from worker.wire.images import PushImage, RelayImage, ResolveImage
from worker.wire.leases import (
    AskLacking,
    BlobPut,
    EndLeases,
    Held,
    Hold,
    HoldCached,
    Lacking,
    LeaseOrder,
    Pull,
    PutBlob,
    RenewLeases,
)
from worker.wire.ops import HttpOp, ImageOp
from worker.wire.orders import (
    Failed,
    Finished,
    Layer,
    Offered,
    OfferedParts,
    OrderBody,
    Ran,
    Result,
)
from worker.wire.urls import FromUrl, ResolveGit, ResolveUrl, UrlUnchanged

log = logging.getLogger(__name__)

Tell = Callable[[orders.Event], None]


class Open(msgspec.Struct, frozen=True):
    """Offers under one token, and what keeps their files in place while they are open."""

    offers: tuple[Offer, ...]
    stack: contextlib.ExitStack

    async def close(self) -> None:
        """Close the offers, then let their files go."""
        # Who reads now is told so over a socket, which is the event loop's.
        for offer in self.offers:
            offer.close()
        await in_thread(self.stack.close)


class _Layers(msgspec.Struct, frozen=True):
    """Layers in place to be offered, until ``stack`` is closed.

    Attributes:
        blobs: the tree of their blobs.
        parts: of each layer its skeleton, and where the contents are; None for its blob alone.
    """

    layers: tuple[Layer, ...]
    blobs: Manifest
    parts: tuple[tuple[Layer, TreeView] | None, ...]
    stack: contextlib.ExitStack


class Service(msgspec.Struct):
    """One worker's work. Orders run at the same time; ops at most ``slots`` at once.

    Args:
        exec_state: where commands run; None where this machine or user cannot run them, and
            then ``exec_missing`` says why.
        making: taken to make what is exported: each keeps a core busy, for minutes maybe, and
            steps must not wait for a thread meanwhile.
    """

    store: Store
    plane: DataPlane
    images: Images
    arrivals: Arrivals
    exec_state: ExecState | None
    exec_missing: str
    slots: asyncio.Semaphore
    making: asyncio.Semaphore
    disk: DiskKeeper
    leases: Leases
    _open: dict[bytes, Open] = msgspec.field(default_factory=dict)
    _layering: Turns = msgspec.field(default_factory=lambda: Turns(os.cpu_count() or 1))
    _agents: dict[int, Agents] = msgspec.field(default_factory=dict)
    _memory: GivingBack = msgspec.field(default_factory=GivingBack)
    _running: int = 0

    async def perform(self, number: int, body: OrderBody, tell: Tell) -> Result:
        """Carry out one order and return its answer; never raises but when cancelled."""
        try:
            return await self._perform(number, body, tell)
        except OpFailed as exc:
            return Failed(exc.code, str(exc), exc.exit_status, exc.tail)
        except Refused as exc:
            # Whoever had it open met its manager again, or ended: it may be opened again.
            code = Unavailable.code if exc.reason == NotOffered.code else exc.code
            return Failed(code, str(exc))
        except FilesyncError as exc:
            return Failed(exc.code, f"{exc}{self._disk_full(exc)}")
        except OSError as exc:
            log.exception("order failed number=%d", number)
            detail = f"{exc.strerror}: {exc.filename!r}" if exc.filename else str(exc)
            return Failed("store", f"{detail}{self._disk_full(exc)}")
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            log.exception("order ended by a bug number=%d", number)
            return Failed("internal", f"internal error: {exc!r}")
        finally:
            self._memory.note_end()

    def _disk_full(self, exc: BaseException) -> str:
        """Return what to do if it was a full disk that made ``exc``."""
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                state = self.store.work.parent
                return f"; the disk of {state} is full: free space, or run `filesync prune`"
            cause = cause.__cause__
        return ""

    def agent_answered(self, answer: AgentAnswered) -> None:
        """Pass on what an agent answers to a step. One that has ended is no matter."""
        if (agents := self._agents.get(answer.id)) is not None:
            agents.answer(answer.line, answer.said)

    async def take_back(self, answer: Result) -> None:
        """Let go of what an answer would keep in place for whoever asked: it is not given."""
        release = orders.release_of(answer)
        if release is not None:
            await until_done(self._release(release))

    def kept(self) -> orders.Release:
        """Return what lets go of all that answers keep in place now; leases run on."""
        sources = self.store.held_sources() - self.leases.refs()
        return orders.Release(tuple(self._open), tuple(sources))

    async def close(self) -> None:
        """Close every offer, and let go of what is held. Idempotent."""
        opened, self._open = self._open, {}
        for one in opened.values():
            await one.close()
        await in_thread(self.leases.close)

    async def _perform(self, number: int, body: OrderBody, tell: Tell) -> Result:
        match body:
            case orders.Run() | orders.ImportChain() | Pull() | ResolveUrl():
                with self._at_work():
                    return await self._run(number, body, tell)
            case orders.OfferLayers() | orders.PassOn() | orders.PullBlobs():
                with self._at_work():
                    return await self._layers(body)
            case orders.Offer() | orders.Export():
                with self._at_work():
                    return await self._export(body)
            case orders.Release():
                await until_done(self._release(body))
                return Finished()
            case orders.AddKeys() | orders.ReadTree():
                # A tree's nodes are sent by the process, before any answer.
                if isinstance(body, orders.AddKeys):
                    self.store.refs.add_keys(body.ref, body.keys)
                return Finished()
            case (
                ResolveImage()
                | PushImage()
                | RelayImage()
                | ReadCache()
                | PushLayers()
                | PushManifest()
                | ResolveGit()
            ):
                return await self.images.perform(body, self._share(number, tell))
            case HoldCached() | Hold() | RenewLeases() | EndLeases() | AskLacking() | PutBlob():
                return await self._lease(body)
            case ReadUsage() | Prune() | ReadHoldings() | Touch():
                return await self.disk.perform(body, sweep_nodes=self._is_idle)
            case _:
                assert_never(body)

    def _is_idle(self) -> bool:
        """Whether nobody needs a manifest but those of what is kept."""
        return not self._running and not self._open

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Need manifests that nothing which is kept is of: of what has come, or is being made."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _lease(self, body: LeaseOrder) -> Held | Lacking | BlobPut | Finished:
        if isinstance(body, RenewLeases):
            # Not in a thread: where all are busy for long the lease would be over meanwhile.
            return self.leases.perform(body)
        return await in_thread(self.leases.perform, body)

    @staticmethod
    def _share(number: int, tell: Tell) -> OnShare:
        return lambda done, total: tell(orders.Progress(number, 0, done, total))

    async def _run(
        self,
        number: int,
        body: orders.Run | orders.ImportChain | Pull | ResolveUrl,
        tell: Tell,
    ) -> Ran | UrlUnchanged:
        def output(stream: int, data: bytes) -> None:
            tell(orders.Output(number, stream, data))

        def progress(index: int, done: int, total: int) -> None:
            tell(orders.Progress(number, index, done, total))

        if isinstance(body, orders.ImportChain):
            return await self._import_chain(body, progress)
        if isinstance(body, Pull):
            return await self._pull(body, progress)
        if isinstance(body, ResolveUrl):
            return await self._resolve_url(body, progress)
        agents = Agents(
            body.agents, lambda agent, line, said: tell(AgentAsked(number, agent, line, said))
        )
        self._agents[number] = agents
        try:
            return await self._run_op(body, output, progress, agents)
        finally:
            self._agents.pop(number, None)

    async def _run_op(
        self, body: orders.Run, output: OnOutput, progress: OnProgress, agents: Agents
    ) -> Ran:
        ran: Ran | None = None
        try:
            async with self._inputs(progress) as inputs, self.slots:
                trees = await inputs.bring_all(body.inputs)
                info = await run_op(
                    body, trees, self.store, self.exec_state, self.exec_missing, output, agents
                )
                pulled = inputs.pulled
                if isinstance(body.op, ImageOp) and not info.source:
                    pulled = tuple(held.info for held in self.store.refs.chain(info.ref)[:-1])
                ran = Ran(info, pulled, inputs.reports)
            return ran
        except BaseException:
            # It may be cancelled while it lets go of its inputs.
            if ran is not None:
                await self.take_back(ran)
            raise

    def _inputs(self, progress: OnProgress) -> Inputs:
        return Inputs(self.store, self.plane, self.images, self.arrivals, progress)

    async def _import_chain(self, body: orders.ImportChain, progress: OnProgress) -> Ran:
        store = self.store
        async with self._inputs(progress) as inputs, self.slots:
            (source,) = await inputs.bring_all([body.input])
            info = await while_wanted(
                imports.import_layers,
                store,
                body.layers,
                GivenBlobs(source.tree),
                body.keys,
            )
            below = tuple(held.info for held in store.refs.chain(info.ref)[:-1])
            return Ran(info, below, inputs.reports)

    async def _pull(self, body: Pull, progress: OnProgress) -> Ran:
        store = self.store
        async with self._inputs(progress) as inputs:
            await inputs.bring_all([] if body.input is None else [body.input])
            for ref, keys in body.keys:
                store.refs.add_keys(ref, keys)
            await in_thread(self.leases.hold, body.lease, body.ref, body.seconds)
            return Ran(store.refs.get(body.ref).info, inputs.pulled, inputs.reports)

    async def _resolve_url(self, body: ResolveUrl, progress: OnProgress) -> Ran | UrlUnchanged:
        async with self._inputs(progress) as inputs:
            source = FromUrl(body.url, body.name, etags=body.etags)
            try:
                (found,) = await inputs.bring_all([source])
            except UrlNotModified as exc:
                return UrlUnchanged(exc.etag)
            if found.file is None:
                raise LocalError("what comes from a URL is always a file")
            op = HttpOp(body.url, body.name, found.file.checksum)
            run = orders.Run(op, (source,), (body.key,))
            info = await run_op(run, [found], self.store, None, "", lambda *_: None)
            return Ran(info, (), inputs.reports)

    # --- offers -------------------------------------------------------------------------------

    async def _layers(
        self, body: orders.OfferLayers | orders.PassOn | orders.PullBlobs
    ) -> Offered | Finished:
        match body:
            case orders.OfferLayers():
                return await self._offer_layers(body)
            case orders.PassOn():
                return self._pass_on(body)
            case orders.PullBlobs():
                await self.arrivals.pull_blobs(body)
                return Finished()
            case _:
                assert_never(body)

    def _pass_on(self, body: orders.PassOn) -> Offered:
        passing, tree = self.arrivals.passing, Manifest(body.tree, self.store.nodes)
        source: PassedBlobs | PassedTree
        stack = contextlib.ExitStack()
        if body.are_blobs:
            source = PassedBlobs(passing, self.store.blobs, tree)
            stack.enter_context(self.store.blobs.holding(source.digests))
        else:
            within = body.within or tree.tree
            source = PassedTree(passing, tree, within)
            stack.enter_context(passing.asked_for(within))
        token = secrets.token_bytes(16)
        offer = self.plane.offer_coming(tree.tree, source, source.come, token)
        self._open[token] = Open((offer,), stack)
        return Offered(token, tree.tree)

    async def _offer_layers(self, body: orders.OfferLayers) -> Offered:
        show = partial(self._show_layers, body)
        async with self._layering.turn(await in_thread(self._unmade, body)):
            shown = await acquired(show, lambda made: made.stack.close())
        parts: list[OfferedParts | None] = []
        offers: list[Offer] = []
        for part in shown.parts:
            if part is None:
                parts.append(None)
                continue
            skeleton, tree = part
            offers.append(self.plane.offer(tree.manifest, tree.root))
            parts.append(OfferedParts(skeleton, offers[-1].token))
        root = self.store.blobs.blobs
        opened = self._opened(shown.blobs, root, shown.stack, offers)
        return msgspec.structs.replace(opened, layers=shown.layers, parts=tuple(parts))

    def _unmade(self, body: orders.OfferLayers) -> list[Digest]:
        store = self.store
        return [
            ref
            for ref in map(Digest, body.refs)
            if not chains.is_made(store, store.refs.get(ref), blobs_only=body.blobs_only)
        ]

    def _show_layers(self, body: orders.OfferLayers) -> "_Layers":
        store = self.store
        find = chains.layer_of if body.blobs_only else chains.movable_layer_of

        def find_all() -> list[Layer]:
            layers = [find(store, store.refs.get(ref)) for ref in body.refs]
            return [*layers, *filter(None, (skeleton_of(one) for one in layers))]

        def skeleton_of(layer: Layer) -> Layer | None:
            return None if body.blobs_only else skeletons.find(store, layer)

        with contextlib.ExitStack() as stack:
            held = chains.held_layers(store, find_all, stack)
            blobs, layers = chains.blob_tree(store, held), held[: len(body.refs)]
            found = [skeleton_of(one) for one in layers]
            parts = tuple(
                # The whole tree has all that the layer's skeleton refers to.
                None if one is None else (one, stack.enter_context(store.view(ref)))
                for ref, one in zip(body.refs, found, strict=True)
            )
            return _Layers(tuple(layers), blobs, parts, stack.pop_all())

    async def _export(self, body: orders.Offer | orders.Export) -> Offered:
        is_made = isinstance(body, orders.Export) and body.form is not orders.ExportForm.TREE
        async with self.making if is_made else contextlib.nullcontext():
            make = partial(self._exported, body)
            made = await acquired(make, lambda made: made.stack.close())
        offered = self._opened(made.manifest, made.root, made.stack)
        return msgspec.structs.replace(
            offered, manifest=made.image_manifest, config=made.image_config
        )

    def _exported(self, body: orders.Offer | orders.Export) -> exports.Exported:
        if isinstance(body, orders.Export) and body.form is not orders.ExportForm.TREE:
            return exports.export(self.store, body)
        with contextlib.ExitStack() as stack:
            tree = stack.enter_context(self.store.view(body.ref))
            manifest = tree.manifest
            if isinstance(body, orders.Export):
                manifest = exports.timed(self.store, manifest, body)
            elif body.selector is not None:
                scratch = LayeredNodes(MemoryNodes(), self.store.nodes)
                manifest = select(manifest, body.selector, scratch)
            return exports.Exported(manifest, tree.root, stack.pop_all())

    def _opened(
        self,
        manifest: Manifest,
        root: Path,
        stack: contextlib.ExitStack,
        others: Sequence[Offer] = (),
    ) -> Offered:
        token = secrets.token_bytes(16)
        offer = self.plane.offer(manifest, root, token)
        self._open[token] = Open((offer, *others), stack)
        return Offered(token, manifest.tree)

    async def _release(self, release: orders.Release) -> None:
        for token in release.tokens:
            opened = self._open.pop(token, None)
            if opened is not None:
                await opened.close()
        for ref in release.sources:
            await in_thread(self.store.release_source, Digest(ref))
