"""A client's caches in one build: results that no worker holds come from there, when they are needed.

A cache is with the client, on its disk, or in a registry. Of either only the config comes here:
blobs go from where they are to the worker that is told to make a result of them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Self

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError, Unavailable
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes
from filesync.transfer.threads import in_thread
from filesync.trees.select import Pick, Selector, select
from solver.caches.config import CacheConfig, decode
from solver.caches.graph import CacheMatch
from solver.caches.merge import in_image
from solver.errors import OrderFailed
from solver.graph import Graph
from solver.manager.images import ask_any
from solver.manager.moving.brought import Brought
from solver.manager.moving.reach import by_paths
from solver.manager.shared import Client, Shared
from solver.manager.workers import WorkerLink
from solver.wire import CacheFrom, CacheInRegistry, Warned
from worker.wire import orders
from worker.wire.caches import CacheFound, FromRepository, ReadCache
from worker.wire.images import Credential, credential_for, parse_reference
from worker.wire.orders import Layer, Ran, Replica

log = logging.getLogger(__name__)

OnEvent = Callable[[orders.Event], None]
CACHE: Final = "cache"
"""What an input that came from a cache is called."""
_OUT_OF_REACH: Final = frozenset({"registry-unavailable", "registry-busy", "registry-denied"})
"""Reasons of a failed order that are not about the one result that was asked for."""


class WithClient(msgspec.Struct, frozen=True):
    """Blobs that the build's client has on its disk: the tree of their directory."""

    tree: Digest


class InRepository(msgspec.Struct, frozen=True):
    """Blobs in a repository of a registry."""

    repository: str
    credential: Credential | None = None


Home = WithClient | InRepository


class CachedResult(msgspec.Struct, frozen=True):
    """A result in a cache: its layers, lowest first, and where their blobs are."""

    layers: tuple[Layer, ...]
    home: Home


class KeptCache(msgspec.Struct, frozen=True):
    """What one cache has of a build's graph.

    Attributes:
        records: places, in the config, of the records that have a result there.
        layers: what is known of the blobs that the config names.
    """

    config: CacheConfig
    records: frozenset[int]
    layers: tuple[Layer, ...]
    home: Home

    def in_image(self, image: Sequence[tuple[str, str]]) -> Self:
        """Return just the results that are an image's layers; see ``caches.merge.in_image``."""
        layers = {layer.digest: layer for layer in self.layers}
        config = in_image(self.config, layers, image)
        found = frozenset(place for place in self.records if config.records[place].layers)
        return msgspec.structs.replace(self, config=config, records=found)


class _Opened(msgspec.Struct, frozen=True):
    home: Home
    match: CacheMatch
    layers: dict[str, Layer]


class Caches:
    """The caches that a client named, and how their results come to a worker.

    Args:
        sources: in the order in which they are looked into.
        credentials: of the client, for the registries of its caches.
    """

    def __init__(
        self,
        shared: Shared,
        client: Client,
        sources: Sequence[CacheFrom | CacheInRegistry],
        graph: Graph,
        credentials: tuple[Credential, ...],
    ) -> None:
        self._shared = shared
        self._client = client
        self._graph = graph
        self._sources = tuple(sources)
        self._credentials = credentials
        self._opened: list[_Opened] = []
        self._out_of_reach: set[str] = set()

    async def open(self) -> None:
        """Read the caches. One that cannot be read is told of, and left out. Idempotent."""
        sources, self._sources = self._sources, ()
        found = await asyncio.gather(*map(self._open, sources))
        self._opened += [one for one in found if one is not None]

    async def _open(self, source: CacheFrom | CacheInRegistry) -> _Opened | None:
        try:
            if isinstance(source, CacheFrom):
                return await self._read(WithClient(source.tree), source.config, source.layers)
            reference = parse_reference(source.name)
            credential = credential_for(reference.host, self._credentials)
            order = ReadCache(
                source.name, source.os, source.architecture, source.variant, credential
            )
            found = await ask_any(self._shared.cluster, order, CacheFound)
            home = InRepository(reference.repository, credential)
            return await self._read(home, found.config, found.layers)
        except FilesyncError as exc:
            detail = exc.detail if isinstance(exc, OrderFailed) else exc
            name = "" if isinstance(source, CacheFrom) else f" {source.name}"
            self._client.tell(Warned(f"--cache-from{name} is not used: {detail}"))
            return None

    async def _read(self, home: Home, config: bytes, layers: Sequence[Layer]) -> _Opened:
        by_digest = {one.digest: one for one in layers}
        match = await in_thread(lambda: CacheMatch(decode(config), by_digest, self._graph))
        return _Opened(home, match, by_digest)

    def by_definition(self, position: int) -> list[CachedResult]:
        """Return the results that a step has by what is known before anything runs."""
        return [
            CachedResult(chain, one.home)
            for one in self._opened
            for chain in one.match.by_definition(position)
        ]

    def by_content(self, position: int, contents: Sequence[Digest]) -> list[CachedResult]:
        """Return the results that a step has which reads ``contents``."""
        return [
            CachedResult(chain, one.home)
            for one in self._opened
            for chain in one.match.by_content(position, contents)
        ]

    def kept(self, *kinds: type[Home]) -> list[KeptCache]:
        """Return what each cache whose home is one of ``kinds`` has of this graph."""
        return [
            KeptCache(*one.match.kept(), tuple(one.layers.values()), one.home)
            for one in self._opened
            if isinstance(one.home, kinds)
        ]

    async def bring(
        self,
        found: CachedResult,
        worker: WorkerLink,
        keys: tuple[Digest, ...],
        on_event: OnEvent,
    ) -> tuple[Ran, Brought]:
        """Have ``worker`` take a result's blobs from where they are and make its refs of them.

        Raises:
            FilesyncError: it cannot be had; the step can still run.
        """
        match found.home:
            case WithClient(tree):
                return await self._bring_from_client(found, tree, worker, keys, on_event)
            case InRepository(repository, credential):
                if repository in self._out_of_reach:
                    raise Unavailable(f"{repository} is not used any more")
                source = FromRepository(repository, found.layers, credential)
                try:
                    ran = await _import(worker, found, source, keys, on_event)
                except OrderFailed as exc:
                    self._note_failure(repository, exc)
                    raise
                return ran, Brought(source, CACHE, (repository,))

    def _note_failure(self, repository: str, exc: OrderFailed) -> None:
        """Leave a registry alone that cannot be had: each step would wait for it again."""
        if exc.reason not in _OUT_OF_REACH or repository in self._out_of_reach:
            return
        self._out_of_reach.add(repository)
        self._opened = [one for one in self._opened if not _is_in(one.home, repository)]
        text = f"--cache-from {repository} is not used any more: {exc.detail}"
        self._client.tell(Warned(text))

    async def _bring_from_client(
        self,
        found: CachedResult,
        tree: Digest,
        worker: WorkerLink,
        keys: tuple[Digest, ...],
        on_event: OnEvent,
    ) -> tuple[Ran, Brought]:
        part = Selector(tuple(Pick(name) for name in sorted(set(map(_name, found.layers)))))
        chosen = await in_thread(self._part, tree, part)
        await worker.send_tree(chosen.nodes, chosen.tree)
        token = await self._client.serve(tree, worker.address, part)
        try:
            reach = by_paths(worker, chosen)
            source = orders.FromPaths(
                chosen.tree, (Replica("client", "", token),), CACHE, reach.basis
            )
            ran = await _import(worker, found, source, keys, on_event)
        finally:
            await self._client.stop_serving(token)
        return ran, Brought(source, CACHE, ("client",), chosen.summary.size)

    def _part(self, tree: Digest, part: Selector) -> Manifest:
        whole = Manifest(tree, self._shared.nodes)
        scratch = LayeredNodes(MemoryNodes(), self._shared.nodes)
        return self._shared.keep(select(whole, part, scratch))


def _is_in(home: Home, repository: str) -> bool:
    return isinstance(home, InRepository) and home.repository == repository


async def _import(
    worker: WorkerLink,
    found: CachedResult,
    source: orders.FromPaths | FromRepository,
    keys: tuple[Digest, ...],
    on_event: OnEvent,
) -> Ran:
    ran = await worker.call(orders.ImportChain(found.layers, source, keys), on_event)
    if not isinstance(ran, Ran) or len(ran.inputs) != 1:
        raise OrderFailed(worker.name, "protocol", "answered with something else")
    return ran


def _name(layer: Layer) -> str:
    return layer.digest.removeprefix("sha256:")


def missed(found: CachedResult, reason: FilesyncError) -> None:
    """Note that a cache does not hold what it says."""
    log.warning("not in cache layer=%s reason=%s", found.layers[-1].digest[:19], reason)
