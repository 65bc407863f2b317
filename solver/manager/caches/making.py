"""Making a cache of a build: which results go into it, and which workers have their blobs."""

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.manifest import Manifest
from filesync.transfer.threads import in_thread
from solver.caches.config import CacheConfig, canonical, encode, encode_inline
from solver.caches.graph import CachedStep, config_of, inputs_of
from solver.caches.merge import joined, merged
from solver.errors import NoWorker, OrderFailed
from solver.graph import Graph, reachable
from solver.keys import definition_keys, part_read
from solver.manager.caches.importing import Caches, InRepository, KeptCache, WithClient
from solver.manager.shared import Shared, Solved
from solver.manager.workers import WorkerLink
from solver.wire import CacheMade, CacheMode, Exported
from worker.wire import orders
from worker.wire.caches import INLINE, BadCacheConfig
from worker.wire.images import MAX_CONFIG_BYTES
from worker.wire.ops import ImageOp, LocalOp, selector_of
from worker.wire.orders import Layer, Offered, RefInfo

Open = Callable[[WorkerLink, orders.OfferLayers], Awaitable[Offered]]
"""Has a worker open layers until the build's client has taken them."""
Ask = Callable[[WorkerLink, tuple[Digest, ...]], Awaitable[tuple[Layer, ...]]]
"""Has a worker give, somehow, the layers of some refs; returns what they are, in order."""
Chains = Mapping[Digest, tuple[Digest, ...]]
"""For each ref that a cache has, the refs that it stands on and itself, lowest first."""


class Plan(msgspec.Struct):
    """What is known of a graph's steps: all of it was announced, nothing is asked."""

    steps: list[CachedStep] = msgspec.field(default_factory=list)
    results: list[RefInfo | None] = msgspec.field(default_factory=list)
    trees: list[Manifest | None] = msgspec.field(default_factory=list)
    chains: dict[Digest, tuple[Digest, ...]] = msgspec.field(default_factory=dict)

    def config(self, layers: Mapping[Digest, Layer], kept: Sequence[KeptCache]) -> CacheConfig:
        """Return the config of the steps, and of what the build's own caches have of them."""
        steps = [
            _with_result(step, info, self.chains, layers)
            for step, info in zip(self.steps, self.results, strict=True)
        ]
        own = config_of(steps)
        parts = [(own, frozenset(range(len(own.records))))]
        parts += [(one.config, one.records) for one in kept]
        return canonical(joined(merged(parts)))


async def make_cache(
    shared: Shared, graph: Graph, target: Solved, mode: CacheMode, caches: Caches, opened: Open
) -> CacheMade:
    """Return a cache of ``graph``, whose target was just solved; its blobs are open.

    With mode max, what the client's own ``caches`` have of the graph goes on: those blobs it
    has itself.

    Raises:
        OrderFailed, WorkerLost: a worker does not hold what it was thought to.
    """
    plan = await plan_cache(shared, graph, target, mode)
    blobs: list[Exported] = []

    async def ask(worker: WorkerLink, refs: tuple[Digest, ...]) -> tuple[Layer, ...]:
        offered = await opened(worker, orders.OfferLayers(refs, blobs_only=True))
        blobs.append(Exported(worker.name, worker.address, offered.token, offered.tree))
        return offered.layers

    layers = await ask_holders(shared, target, plan.chains, ask)
    kept = caches.kept(WithClient) if mode is CacheMode.MAX else []
    config = await in_thread(plan.config, layers, kept)
    return CacheMade(encode(config), named_layers(config, layers, kept), tuple(blobs))


def named_layers(
    config: CacheConfig, layers: Mapping[Digest, Layer], kept: Sequence[KeptCache]
) -> tuple[Layer, ...]:
    """Return the layers that a config names, in the order in which it first does."""
    known = {layer.digest: layer for one in kept for layer in one.layers}
    known |= {layer.digest: layer for layer in layers.values()}
    named = dict.fromkeys(layer.blob for layer in config.layers)
    return tuple(known[blob] for blob in named if blob in known)


async def with_inline_cache(
    shared: Shared, graph: Graph, target: Solved, caches: Caches, image_config: bytes
) -> bytes:
    """Return an image's configuration with what a cache tells of the steps that it is made of.

    What the build's own ``caches`` tell of them goes on, so that an image that was not built
    anew has the cache that it had.

    Raises:
        BadCacheConfig: it would be larger than a configuration may be.
    """
    plan = await plan_cache(shared, graph, target, CacheMode.MIN)
    assert target.ref is not None
    chain = shared.records.chain(target.ref)
    # What stands for a layer is its ref: in an image layers are known by their place.
    names = {info.ref: Layer("", info.ref.hex(), 0, "") for info in chain}
    image = [(info.layer.diff_id if info.layer else "", info.ref.hex()) for info in chain]
    kept = [one.in_image(image) for one in caches.kept(WithClient, InRepository)]
    records = encode_inline(plan.config(names, kept))
    value = json.loads(image_config)
    value[INLINE] = base64.b64encode(records).decode()
    data = json.dumps(value, sort_keys=True).encode()
    if len(data) > MAX_CONFIG_BYTES:
        raise BadCacheConfig(
            f"an image configuration of {len(data)} bytes with its cache; use --cache-to"
            " type=registry for a build of so many steps"
        )
    return data


# --- what goes into it ------------------------------------------------------------------------


async def plan_cache(shared: Shared, graph: Graph, target: Solved, mode: CacheMode) -> Plan:
    """Return the steps that go into a cache, and which of their results do.

    Raises:
        NoWorker: there is no result that could be cached.
    """
    if target.ref is None:
        raise NoWorker("the target is a context by itself; there is nothing to cache")
    plan = await _plan(shared, graph, target)
    stands_on = {info.ref for info in shared.records.chain(target.ref)}
    for vertex, info in zip(_vertices(graph), plan.results, strict=True):
        # An image has its blobs in its own registry or layout: as a result it is not cached.
        if info is None or isinstance(graph.vertices[vertex].op, ImageOp):
            continue
        if mode is CacheMode.MAX or info.ref in stands_on:
            plan.chains[info.ref] = tuple(one.ref for one in shared.records.chain(info.ref))
    return plan


def _vertices(graph: Graph) -> list[int]:
    """Return the positions that go into a cache: all that the target is identified by."""
    found: set[int] = {graph.target}
    for position in range(graph.target, -1, -1):
        if position in found:
            found.update(inputs_of(graph, position))
    assert found <= reachable(graph)
    return sorted(found)


async def _plan(shared: Shared, graph: Graph, target: Solved) -> Plan:
    keys = definition_keys(graph)
    plan = Plan()
    places: dict[int, int] = {}
    for position in _vertices(graph):
        op = graph.vertices[position].op
        info = None
        if position == target.position and target.ref is not None:
            info = shared.records.ref(target.ref)
        elif not isinstance(op, LocalOp):
            info = _held(shared, keys[position])
        tree = op.tree if isinstance(op, LocalOp) else None if info is None else info.tree
        inputs = tuple(places[one] for one in inputs_of(graph, position))
        trees = [plan.trees[place] for place in inputs]
        contents = list(await in_thread(_contents, graph, position, trees))
        for index, made in enumerate(plan.results[place] for place in inputs):
            if made is not None and selector_of(op, index) is None:
                contents[index] = await shared.content_on(made.ref)
        places[position] = len(plan.steps)
        plan.steps.append(CachedStep(op, inputs, tuple(contents)))
        plan.results.append(info)
        plan.trees.append(None if tree is None else Manifest(tree, shared.nodes))
    return plan


def _held(shared: Shared, key: Digest) -> RefInfo | None:
    """Return the newest result of a key that somebody holds."""
    for info in shared.records.find(key):
        if info.tree in shared.nodes and shared.cluster.holders(info.ref):
            return info
    return None


def _contents(
    graph: Graph, position: int, trees: Sequence[Manifest | None]
) -> tuple[Digest | None, ...]:
    return tuple(_content(graph, position, index, tree) for index, tree in enumerate(trees))


def _content(graph: Graph, position: int, index: int, tree: Manifest | None) -> Digest | None:
    """Return the content that a step reads of an input, if that can be told."""
    if tree is None:
        return None
    try:
        return part_read(graph.vertices[position].op, index, tree).content
    except FilesyncError:
        return None


async def ask_holders(
    shared: Shared, target: Solved, chains: Chains, ask: Ask
) -> dict[Digest, Layer]:
    """Have each ref's layer given by one worker that holds it; return the layers.

    Raises:
        OrderFailed, WorkerLost: a worker does not hold what it was thought to.
    """
    asked: dict[str, tuple[WorkerLink, list[Digest]]] = {}
    seen: set[Digest] = set()
    for top, chain in chains.items():
        worker = shared.cluster.holder(top, target.position)
        for ref in chain:
            if ref not in seen:
                seen.add(ref)
                asked.setdefault(worker.name, (worker, []))[1].append(ref)
    layers: dict[Digest, Layer] = {}
    for worker, refs in asked.values():
        given = await ask(worker, tuple(refs))
        if len(given) != len(refs):
            detail = f"offered {len(given)} of {len(refs)} layers"
            raise OrderFailed(worker.name, "protocol", detail)
        layers |= zip(refs, given, strict=True)
    return layers


def _with_result(
    step: CachedStep,
    info: RefInfo | None,
    chains: Chains,
    layers: Mapping[Digest, Layer],
) -> CachedStep:
    chain: Sequence[Digest] = () if info is None else chains.get(info.ref, ())
    if info is None or not chain:
        return step
    blobs = tuple(layers[ref].digest for ref in chain)
    return CachedStep(step.op, step.inputs, step.contents, blobs, info.created_s)
