"""Caches that go to a registry: from the workers that have the layers, under one name at last."""

from collections.abc import Callable

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.transfer.threads import in_thread
from solver.caches.config import encode
from solver.errors import OrderFailed
from solver.graph import Graph
from solver.manager.caches.importing import Caches, InRepository, KeptCache
from solver.manager.caches.making import Plan, ask_holders, named_layers, plan_cache
from solver.manager.moving.blobs import call_with_blobs
from solver.manager.moving.offers import REF_MISSING
from solver.manager.shared import Shared, Solved
from solver.manager.workers import WorkerLink
from solver.wire import CacheMode, CachePush, CachePushed, PushProgress, Warned
from worker.wire import orders
from worker.wire.caches import (
    MAX_MANIFEST_BYTES,
    BadCacheConfig,
    FromRepository,
    LayersPushed,
    PushLayers,
    PushManifest,
    cache_manifest,
    manifest_type,
    stored,
)
from worker.wire.images import Credential, credential_for, parse_reference
from worker.wire.orders import Layer

Tell = Callable[[PushProgress | Warned], None]


async def push_cache(
    shared: Shared,
    graph: Graph,
    target: Solved,
    asked: CachePush,
    caches: Caches,
    credentials: tuple[Credential, ...],
    tell: Tell,
) -> CachePushed:
    """Have a cache of ``graph``, whose target was just solved, in a registry.

    With mode max, what ``caches`` in registries have of the graph goes on. Under its name the
    cache is there whole, or what was there before is.

    Raises:
        OrderFailed, WorkerLost: a worker does not hold what it was thought to, or the registry
            does not take it.
        BadCacheConfig: it is larger than registries take.
    """
    pushing = _Pushing(shared, target, asked, credentials, tell)
    try:
        plan = await plan_cache(shared, graph, target, asked.mode)
        layers = await ask_holders(shared, target, plan.chains, pushing.push_layers)
        kept = caches.kept(InRepository) if asked.mode is CacheMode.MAX else []
        return await pushing.finish(plan, layers, kept)
    except FilesyncError as exc:
        # What a worker turns out not to hold is solved again first.
        if not asked.ignore_error or (
            isinstance(exc, OrderFailed) and exc.reason == REF_MISSING
        ):
            raise
        return CachePushed(failure=str(exc))


class _Pushing:
    """One cache on its way."""

    def __init__(
        self,
        shared: Shared,
        target: Solved,
        asked: CachePush,
        credentials: tuple[Credential, ...],
        tell: Tell,
    ) -> None:
        self._shared = shared
        self._target = target
        self._asked = asked
        self._home = parse_reference(asked.name)
        self._credential = credential_for(self._home.host, credentials)
        self._tell = tell
        self._bytes_sent = 0

    async def push_layers(
        self, worker: WorkerLink, refs: tuple[Digest, ...], *others: FromRepository
    ) -> tuple[Layer, ...]:
        """Have ``worker`` push the layers of ``refs``, and those of other repositories."""

        def progress(event: orders.Event) -> None:
            if isinstance(event, orders.Progress):
                done = (event.done_bytes, event.total_bytes)
                self._tell(PushProgress((self._asked.name,), worker.name, *done))

        order = PushLayers(
            self._home.repository,
            refs,
            others,
            self._asked.compression,
            self._asked.level,
            self._credential,
        )
        pushed = await call_with_blobs(self._shared, worker, refs, order, progress)
        if not isinstance(pushed, LayersPushed):
            raise OrderFailed(worker.name, "protocol", "answered a push with something else")
        self._bytes_sent += pushed.bytes_sent
        return pushed.layers

    async def finish(
        self, plan: Plan, layers: dict[Digest, Layer], kept: list[KeptCache]
    ) -> CachePushed:
        """Bring what is ``kept`` along, and give the cache its name."""
        asked = self._asked
        assert self._target.ref is not None
        worker = self._shared.cluster.holder(self._target.ref, self._target.position)
        config = await in_thread(plan.config, layers, kept)
        named = named_layers(config, layers, kept)
        pushed = {layer.digest for layer in layers.values()}
        if others := _others(kept, {layer.digest for layer in named} - pushed):
            try:
                await self.push_layers(worker, (), *others)
            except OrderFailed as exc:
                # Blobs that went out of a cache since, or cannot be had now: what was built here
                # is there. If it is this registry that fails, it does so again.
                self._tell(
                    Warned(f"--cache-to {asked.name} has only what was built: {exc.detail}")
                )
                return await self.finish(plan, layers, [])
        text = encode(config)
        manifest = cache_manifest(text, named, image=asked.image, oci=asked.oci)
        if len(manifest) > MAX_MANIFEST_BYTES:
            raise BadCacheConfig(
                f"{asked.name}: a manifest of {len(manifest)} bytes, and registries take"
                f" {MAX_MANIFEST_BYTES}; mode=min has fewer layers"
            )
        kind = manifest_type(image=asked.image, oci=asked.oci)
        await worker.call(PushManifest(asked.name, kind, manifest, text, self._credential))
        return CachePushed(stored(manifest)["digest"], len(named), self._bytes_sent)


def _others(kept: list[KeptCache], lacking: set[str]) -> list[FromRepository]:
    """Return where to have the blobs in ``lacking`` from, each from one place."""
    others: list[FromRepository] = []
    for one in kept:
        some = tuple(layer for layer in one.layers if layer.digest in lacking)
        lacking -= {layer.digest for layer in some}
        if some and isinstance(one.home, InRepository):
            others.append(FromRepository(one.home.repository, some, one.home.credential))
    return others
