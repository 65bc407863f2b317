"""Making a cache of a build: which results go into it, and which workers have their blobs."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.manifest import Manifest
from solver.cacheconfig import CacheConfig, canonical, encode
from solver.cachegraph import CachedStep, config_of, inputs_of, merged
from solver.errors import NoWorker, OrderFailed
from solver.graph import Graph, reachable
from solver.keys import definition_keys, part_read
from solver.manager.caches import Caches
from solver.manager.shared import Shared, Solved
from solver.manager.workers import WorkerLink
from solver.wire import CacheMade, CacheMode, Exported
from worker.wire import orders
from worker.wire.ops import ImageOp, LocalOp
from worker.wire.orders import Layer, Offered, RefInfo

Open = Callable[[WorkerLink, orders.OfferLayers], Awaitable[Offered]]
"""Has a worker open layers until the build's client has taken them."""


@dataclass(slots=True)
class _Plan:
    """What is known of a graph's steps: all of it was announced, nothing is asked."""

    steps: list[CachedStep] = field(default_factory=list)
    results: list[RefInfo | None] = field(default_factory=list)
    trees: list[Manifest | None] = field(default_factory=list)


async def make_cache(
    shared: Shared, graph: Graph, target: Solved, mode: CacheMode, caches: Caches, opened: Open
) -> CacheMade:
    """Return a cache of ``graph``, whose target was just solved; its blobs are open.

    With mode max, what the client's own ``caches`` have of the graph goes on: those blobs it
    has itself.

    Raises:
        OrderFailed, WorkerLost: a worker does not hold what it was thought to.
    """
    if target.ref is None:
        raise NoWorker("the target is a context by itself; there is nothing to cache")
    plan = await _plan(shared, graph, target)
    stands_on = {info.ref for info in shared.records.chain(target.ref)}
    chains: dict[Digest, tuple[Digest, ...]] = {}
    for vertex, info in zip(_vertices(graph), plan.results, strict=True):
        # An image has its blobs in its own registry or layout: as a result it is not cached.
        if info is None or isinstance(graph.vertices[vertex].op, ImageOp):
            continue
        if mode is CacheMode.MAX or info.ref in stands_on:
            chains[info.ref] = tuple(one.ref for one in shared.records.chain(info.ref))
    layers, blobs = await _open_layers(shared, target, chains, opened)
    steps = [
        _with_result(step, info, chains, layers)
        for step, info in zip(plan.steps, plan.results, strict=True)
    ]
    own = config_of(steps)
    parts: list[tuple[CacheConfig, Collection[int]]] = [(own, range(len(own.records)))]
    if mode is CacheMode.MAX:
        parts += caches.kept()
    config = canonical(merged(parts))
    by_digest = {layer.digest: layer for layer in layers.values()}
    found = [
        by_digest.get(blob) or caches.layer(blob)
        for blob in dict.fromkeys(layer.blob for layer in config.layers)
    ]
    known = tuple(layer for layer in found if layer is not None)
    return CacheMade(encode(config), known, tuple(blobs))


def _vertices(graph: Graph) -> list[int]:
    """Return the positions that go into a cache: all that the target is identified by."""
    found: set[int] = {graph.target}
    for position in range(graph.target, -1, -1):
        if position in found:
            found.update(inputs_of(graph, position))
    assert found <= reachable(graph)
    return sorted(found)


async def _plan(shared: Shared, graph: Graph, target: Solved) -> _Plan:
    keys = definition_keys(graph)
    plan = _Plan()
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
        contents = await asyncio.to_thread(_contents, graph, position, trees)
        places[position] = len(plan.steps)
        plan.steps.append(CachedStep(op, inputs, contents))
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


async def _open_layers(
    shared: Shared, target: Solved, chains: dict[Digest, tuple[Digest, ...]], opened: Open
) -> tuple[dict[Digest, Layer], list[Exported]]:
    """Have each ref's layer opened by one worker that holds it; return them, and where they are."""
    asked: dict[str, tuple[WorkerLink, list[Digest]]] = {}
    seen: set[Digest] = set()
    for top, chain in chains.items():
        worker = shared.cluster.holder(top, target.position)
        for ref in chain:
            if ref not in seen:
                seen.add(ref)
                asked.setdefault(worker.name, (worker, []))[1].append(ref)
    layers: dict[Digest, Layer] = {}
    blobs: list[Exported] = []
    for worker, refs in asked.values():
        offered = await opened(worker, orders.OfferLayers(tuple(refs), blobs_only=True))
        if len(offered.layers) != len(refs):
            detail = f"offered {len(offered.layers)} of {len(refs)} layers"
            raise OrderFailed(worker.name, "protocol", detail)
        layers |= zip(refs, offered.layers, strict=True)
        blobs.append(Exported(worker.name, worker.address, offered.token, offered.tree))
    return layers, blobs


def _with_result(
    step: CachedStep,
    info: RefInfo | None,
    chains: dict[Digest, tuple[Digest, ...]],
    layers: dict[Digest, Layer],
) -> CachedStep:
    chain: Sequence[Digest] = () if info is None else chains.get(info.ref, ())
    if info is None or not chain:
        return step
    blobs = tuple(layers[ref].digest for ref in chain)
    return CachedStep(step.op, step.inputs, step.contents, blobs, info.created_s)
