"""What a worker does with registries: looks names up, pulls images' blobs, and pushes results.

Bytes go straight between this worker and the registry. A user's credential is used for the one
order that brought it, and then forgotten.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from filesync.errors import UsageError
from worker import exports
from worker.registry import ImageManifest, Platform, Registries, parse_manifest
from worker.store import Store
from worker.wire.images import (
    Credential,
    FromRegistry,
    Pushed,
    PushImage,
    Reference,
    Resolved,
    ResolveImage,
    parse_reference,
)

if TYPE_CHECKING:
    from worker.registry.client_http import RegistryClient
    from worker.registry.images_http import Transfers
    from worker.registry.manifest import Descriptor

OnShare = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""
TELL_EVERY_S: Final = 0.2


class Images:
    """Images between registries and one worker's store."""

    def __init__(self, store: Store, registries: Registries) -> None:
        self._store = store
        self._registries = registries
        self._opened: Transfers | None = None

    async def perform(
        self, order: ResolveImage | PushImage, on_share: OnShare
    ) -> Resolved | Pushed:
        """Carry out an order that is about registries alone.

        Raises:
            RegistryError: a registry would not, or could not.
        """
        match order:
            case ResolveImage():
                return await self.resolve(order)
            case PushImage():
                return await self.push(order, on_share)

    async def resolve(self, order: ResolveImage) -> Resolved:
        """Return what a name means now.

        Raises:
            RegistryError: nothing, or nothing that can be known.
        """
        wanted = Platform(order.os, order.architecture, order.variant)
        async with self._client(order.credential) as client:
            reference = parse_reference(order.name)
            manifest, config = await self._transfers().resolve(client, reference, wanted)
            return Resolved(manifest, config)

    async def pull(self, order: FromRegistry, *, holds: ExitStack, on_share: OnShare) -> int:
        """Have all blobs of an image in the store, kept while ``holds`` is open.

        Returns the bytes that had to come.

        Raises:
            RegistryError: not all are to be had.
            StoreError: this disk cannot take them.
        """
        meter = Meter(on_share)

        def begin(blobs: Sequence["Descriptor"]) -> None:
            holds.enter_context(self._store.blobs.holding([one.digest for one in blobs]))
            lacking = {
                one.digest: one.size for one in blobs if one.digest not in self._store.blobs
            }
            meter.total = sum(lacking.values())

        image = parse_reference(f"{order.repository}@{order.manifest}")
        holds.enter_context(self._store.blobs.holding([order.manifest]))
        async with self._client(order.credential) as client:
            await self._transfers().pull(client, image, begin, meter.add)
        return meter.done

    async def push(self, order: PushImage, on_share: OnShare) -> Pushed:
        """Push a result as an image. Under its names it is there whole, or as it was before.

        Raises:
            RefMissing: the result is not here.
            RegistryError: a registry does not take it.
        """
        store = self._store
        image = await asyncio.to_thread(exports.assemble, store, order)
        layers = [layer.digest for layer in image.layers]
        config = exports.sha256(image.config)
        meter = Meter(on_share)
        meter.total = sum(layer.size for layer in image.layers)
        mounted = 0
        with store.blobs.holding([*layers, config]):
            await asyncio.to_thread(store.blobs.ingest, [image.config])
            async with self._client(*order.credentials) as client:
                for names in _by_repository(order.names):
                    sources = await asyncio.to_thread(self._sources, order, names[0])
                    mounted += await self._transfers().push(
                        client, names, image.manifest, [*layers, config], sources, meter.add
                    )
        manifest = (exports.sha256(image.manifest), len(image.manifest))
        return Pushed(manifest, config, meter.done, mounted)

    def _sources(self, order: PushImage, home: Reference) -> dict[str, str]:
        """Return by digest in which other repository of ``home``'s registry a layer may be."""
        found: dict[str, str] = {}
        for repository, manifest in order.sources:
            host, _, path = repository.partition("/")
            blob = self._store.blobs.find(manifest)
            if host != home.host or path == home.path or blob is None:
                continue
            with self._store.blobs.open(manifest) as file:
                image = parse_manifest(file.read())
            if isinstance(image, ImageManifest):
                found |= {layer.digest: path for layer in image.layers}
        return found

    def _client(self, *credentials: Credential | None) -> "RegistryClient":
        from worker.registry.client_http import RegistryClient

        return RegistryClient(self._registries, tuple(one for one in credentials if one))

    def _transfers(self) -> "Transfers":
        from worker.registry.images_http import Transfers

        if self._opened is None:
            self._opened = Transfers(self._store.blobs)
        return self._opened


def _by_repository(names: Sequence[str]) -> list[list[Reference]]:
    """Return the references that ``names`` are, those of one repository together."""
    found: dict[str, list[Reference]] = {}
    for name in names:
        reference = parse_reference(name)
        if reference.digest or not reference.tag:
            raise UsageError(f"{name}: a digest is not chosen, it is made; push to a tag")
        found.setdefault(reference.repository, []).append(reference)
    return list(found.values())


class Meter:
    """Counts bytes and tells of them, now and then."""

    def __init__(self, on_share: OnShare) -> None:
        self.total = 0
        self.done = 0
        self._on_share = on_share
        self._told_s = 0.0

    def add(self, size: int) -> None:
        """Count ``size`` more bytes."""
        self.done += size
        now_s = time.monotonic()
        if now_s - self._told_s > TELL_EVERY_S:
            self._told_s = now_s
            self._on_share(min(self.done, self.total), self.total)
