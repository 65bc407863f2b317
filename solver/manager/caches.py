"""A client's caches in one build: results that no worker holds come from there, when they are needed."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes
from filesync.select import Pick, Selector, select
from solver.cacheconfig import CacheConfig, decode
from solver.cachegraph import CacheMatch
from solver.errors import OrderFailed
from solver.graph import Graph
from solver.manager.deliver import Brought
from solver.manager.reach import by_paths
from solver.manager.shared import Client, Shared
from solver.manager.workers import WorkerLink
from solver.wire import CacheFrom
from worker.wire import orders
from worker.wire.orders import Layer, Ran, Replica

log = logging.getLogger(__name__)

OnEvent = Callable[[orders.Output | orders.Progress], None]
CACHE: Final = "cache"
"""What an input that came from a cache is called."""


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A result in a cache: its layers, lowest first, and the tree that has their blobs."""

    layers: tuple[Layer, ...]
    tree: Digest


class Caches:
    """The caches that a client brought, and how their results come to a worker."""

    def __init__(
        self, shared: Shared, client: Client, caches: Sequence[CacheFrom], graph: Graph
    ) -> None:
        """Read the caches.

        Raises:
            BadCacheConfig: one cannot be read.
        """
        self._shared = shared
        self._client = client
        self._layers = {one.digest: one for cache in caches for one in cache.layers}
        self._matches = [
            (
                cache.tree,
                CacheMatch(
                    decode(cache.config), {one.digest: one for one in cache.layers}, graph
                ),
            )
            for cache in caches
        ]

    def by_definition(self, position: int) -> list[CachedResult]:
        """Return the results that a step has by what is known before anything runs."""
        return [
            CachedResult(chain, tree)
            for tree, match in self._matches
            for chain in match.by_definition(position)
        ]

    def by_content(self, position: int, contents: Sequence[Digest]) -> list[CachedResult]:
        """Return the results that a step has which reads ``contents``."""
        return [
            CachedResult(chain, tree)
            for tree, match in self._matches
            for chain in match.by_content(position, contents)
        ]

    def kept(self) -> list[tuple[CacheConfig, set[int]]]:
        """Return what of each cache is of this graph: records, and their places."""
        return [match.kept() for _, match in self._matches]

    def layer(self, blob: str) -> Layer | None:
        """Return what is known of a blob that the client has in a cache."""
        return self._layers.get(blob)

    async def bring(
        self,
        found: CachedResult,
        worker: WorkerLink,
        keys: tuple[Digest, ...],
        on_event: OnEvent,
    ) -> tuple[Ran, Brought]:
        """Have ``worker`` take a result's blobs from the client and make its refs of them.

        Raises:
            FilesyncError: it cannot be had; the step can still run.
        """
        part = Selector(tuple(Pick(name) for name in sorted(set(map(_name, found.layers)))))
        chosen = await asyncio.to_thread(self._part, found.tree, part)
        await worker.send_tree(chosen.nodes, chosen.tree)
        token = await self._client.serve(found.tree, worker.address, part)
        try:
            reach = by_paths(worker, chosen)
            source = orders.FromPaths(
                chosen.tree, (Replica("client", "", token),), CACHE, reach.basis
            )
            ran = await worker.call(orders.ImportChain(found.layers, source, keys), on_event)
        finally:
            await self._client.stop_serving(token)
        if not isinstance(ran, Ran) or len(ran.inputs) != 1:
            raise OrderFailed(worker.name, "protocol", "answered with something else")
        return ran, Brought(source, CACHE, ("client",), chosen.summary.size)

    def _part(self, tree: Digest, part: Selector) -> Manifest:
        whole = Manifest(tree, self._shared.nodes)
        return select(whole, part, LayeredNodes(MemoryNodes(), self._shared.nodes))


def _name(layer: Layer) -> str:
    return layer.digest.removeprefix("sha256:")


def missed(found: CachedResult, reason: FilesyncError) -> None:
    """Note that a cache does not hold what it says."""
    log.warning("not in cache layer=%s reason=%s", found.layers[-1].digest[:19], reason)
