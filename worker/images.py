"""What a worker does with registries: looks names up, pulls blobs, pushes results and caches.

Files and git repositories behind URLs come the same way. Bytes go straight between this worker and the registry. A user's credential is used for the one
order that brought it, and then forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filesync.errors import UsageError
from filesync.transfer.threads import acquired, in_thread, while_wanted
from worker import exports
from worker.layers import USUAL_FORM, LayerForm
from worker.moving import chains
from worker.parts.part import ImagePart
from worker.registry import ImageManifest, Platform, Registries, parse_manifest
from worker.registry.meter import Meter, OnShare
from worker.store import Store
from worker.wire.caches import (
    CacheFound,
    FromRepository,
    LayersPushed,
    PushLayers,
    PushManifest,
    ReadCache,
)
from worker.wire.images import (
    LAYER_TYPES,
    Compression,
    Credential,
    FromRegistry,
    Layer,
    Pushed,
    PushImage,
    Reference,
    RelayImage,
    Resolved,
    ResolveImage,
    parse_reference,
    parse_target,
    seekable_annotations,
)
from worker.wire.orders import Finished
from worker.wire.urls import FromGit, FromUrl, GitFound, ResolveGit, UrlFile

if TYPE_CHECKING:
    from worker.git.fetching import Fetched
    from worker.registry.client_http import RegistryClient
    from worker.registry.images_http import Pulls
    from worker.registry.manifest import Descriptor
    from worker.registry.pushes_http import Given, Pushes

RegistryOrder = (
    ResolveImage | PushImage | RelayImage | ReadCache | PushLayers | PushManifest | ResolveGit
)


class Images:
    """Images between registries and one worker's store."""

    def __init__(
        self, store: Store, registries: Registries, making: asyncio.Semaphore | None = None
    ) -> None:
        """``making`` is taken to make the layers that are pushed; None if there is no other work."""
        self._store = store
        self._registries = registries
        self._making = making or asyncio.Semaphore()
        self._opened: Pulls | None = None

    async def perform(
        self, order: RegistryOrder, on_share: OnShare
    ) -> Resolved | Pushed | CacheFound | LayersPushed | Finished | GitFound:
        """Carry out an order that is about registries and other servers alone.

        Raises:
            RegistryError: a registry would not, or could not.
        """
        match order:
            case ResolveImage():
                return await self.resolve(order)
            case PushImage():
                return await self.push(order, on_share)
            case RelayImage():
                return await self.relay(order, on_share)
            case ReadCache():
                return await self.read_cache(order)
            case PushLayers():
                return await self.push_layers(order, on_share)
            case PushManifest():
                await self.push_manifest(order)
                return Finished()
            case ResolveGit():
                return await self.resolve_git(order)

    async def resolve(self, order: ResolveImage) -> Resolved:
        """Return what a name means now.

        Raises:
            RegistryError: nothing, or nothing that can be known.
        """
        wanted = Platform(order.os, order.architecture, order.variant)
        async with self._client(order.credential) as client:
            reference = parse_reference(order.name)
            manifest, config = await self._pulls().resolve(client, reference, wanted)
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
            await self._pulls().pull(client, image, begin, meter.add)
        return meter.done

    async def read_parts(self, order: FromRegistry, on_share: OnShare) -> ImagePart:
        """Have what ``order.selector`` names of an image in a source, which the caller releases.

        Raises:
            NotInParts: the image has to be taken whole.
            RegistryError, BadLayer: it is not to be had, or no image can be so.
            StoreError: this disk cannot take it.
        """
        from worker.parts.importing_http import import_part

        image = parse_reference(f"{order.repository}@{order.manifest}")
        meter = Meter(on_share)
        async with self._client(order.credential) as client:
            return await import_part(self._store, self._pulls(), client, image, order, meter)

    async def download(self, order: FromUrl, path: Path, on_share: OnShare) -> UrlFile:
        """Make the new file ``path``, 0600 and as old as its server says, what a URL gives.

        Raises:
            UrlNotModified: it is one of the contents that need not come.
            WrongChecksum, RegistryError: it is not to be had, or something else.
            StoreError: this disk cannot take it.
        """
        from worker.urls.download_http import download

        async with self._client() as client:
            return await download(client, order, path, Meter(on_share))

    async def fetch(self, order: FromGit, work: Path) -> "Fetched":
        """Make the tree of a commit somewhere in ``work``, an empty directory.

        Raises:
            GitMissing, GitRefMissing, BadRepository, RegistryError: it is not to be had.
            StoreError: this disk cannot take it.
        """
        from worker.git.fetching import fetch_commit

        return await fetch_commit(self._registries, order, work)

    async def resolve_git(self, order: ResolveGit) -> GitFound:
        """Return which commit a ref of a git repository is now.

        Raises:
            GitMissing, GitRefMissing, BadRepository, RegistryError: it cannot be known.
        """
        from worker.git.fetching import resolve_ref

        store = self._store
        home = await acquired(partial(store.make_work, "git"), store.drop_work)
        try:
            return await resolve_ref(self._registries, order, home)
        finally:
            await in_thread(store.drop_work, home)

    async def push(self, order: PushImage, on_share: OnShare) -> Pushed:
        """Push a result as an image. Under its names it is there whole, or as it was before.

        Raises:
            RefMissing: the result is not here.
            RegistryError: a registry does not take it.
        """

        async def sources(home: Reference) -> dict[str, str]:
            return await in_thread(self._sources, order, home)

        with ExitStack() as holds:
            async with self._making:
                image = await while_wanted(exports.assemble, self._store, order, holds)
            async with self._client(*order.credentials) as client:
                return await self._send(client, image, order.names, sources, Meter(on_share))

    async def relay(self, order: RelayImage, on_share: OnShare) -> Pushed:
        """Push an image in a registry as another; what that one lacks of it goes through here.

        Nothing of it is kept but what describes it. A registry that has a layer, here or in
        another repository of its own, is not sent it.

        Raises:
            RegistryError: one registry does not give it, or the other does not take it.
        """
        asked = order.source
        source = parse_reference(f"{asked.repository}@{asked.manifest}")
        meter = Meter(on_share)
        async with self._client(asked.credential, *order.credentials) as client:
            found, diff_ids = await self._pulls().describe(client, source)
            image = exports.image_of(_layers(found, diff_ids), order.config, order.annotations)
            elsewhere = self._pushes().elsewhere(client, source, found, meter.add)

            async def sources(home: Reference) -> dict[str, str]:
                is_near = home.host == source.host and home.path != source.path
                return {one.digest: source.path for one in found.layers} if is_near else {}

            return await self._send(
                client, image, order.names, sources, meter, elsewhere=elsewhere
            )

    async def _send(
        self,
        client: "RegistryClient",
        image: exports.Image,
        names: Sequence[str],
        sources: Callable[[Reference], Awaitable[Mapping[str, str]]],
        meter: "Meter",
        *,
        elsewhere: "Mapping[str, Given] | None" = None,
    ) -> Pushed:
        """Push an image under ``names``; ``sources`` says where a registry may have its layers."""
        blobs = self._store.blobs
        layers = [layer.digest for layer in image.layers]
        config = exports.sha256(image.config)
        meter.total = sum(layer.size for layer in image.layers)
        mounted = 0
        with blobs.holding([*layers, config]):
            await in_thread(blobs.ingest, [image.config])
            for ones in _by_repository(map(parse_target, names)):
                mounted += await self._pushes().push(
                    client,
                    ones,
                    image.manifest,
                    [*layers, config],
                    await sources(ones[0]),
                    meter.add,
                    elsewhere=elsewhere or {},
                )
        manifest = (exports.sha256(image.manifest), len(image.manifest))
        return Pushed(manifest, config, meter.done, mounted)

    # --- caches -------------------------------------------------------------------------------

    async def read_cache(self, order: ReadCache) -> CacheFound:
        """Return the cache that a name means now.

        Raises:
            RegistryError, BadCacheConfig: nothing, or nothing that can be understood.
        """
        wanted = Platform(order.os, order.architecture, order.variant)
        async with self._client(order.credential) as client:
            reference = parse_reference(order.name)
            return await self._pulls().read_cache(client, reference, wanted)

    async def pull_layers(
        self, order: FromRepository, *, holds: ExitStack, on_share: OnShare
    ) -> int:
        """Have blobs of a repository in the store, kept while ``holds`` is open.

        Returns the bytes that had to come.

        Raises:
            RegistryError: not all are to be had.
            StoreError: this disk cannot take them.
        """
        meter = Meter(on_share)
        digests = [layer.digest for layer in order.layers]
        holds.enter_context(self._store.blobs.holding(digests))
        async with self._client(order.credential) as client:
            repository = parse_reference(order.repository)
            await self._pulls().pull_layers(client, repository, digests, meter.add)
        return meter.done

    async def push_layers(self, order: PushLayers, on_share: OnShare) -> LayersPushed:
        """Have layers of results, and of other repositories, in a repository.

        Raises:
            RefMissing: a result is not here.
            RegistryError: a registry does not take them, or does not give them.
        """
        store = self._store
        home = parse_reference(order.repository)
        form = _form(order.compression, order.level)
        meter = Meter(on_share)
        sources: dict[str, str] = {}
        with ExitStack() as holds:
            async with self._making:
                layers = await while_wanted(chains.make_layers, store, order.refs, form, holds)
            meter.total = sum(layer.size for layer in layers)
            digests = [layer.digest for layer in layers]
            for other in order.others:
                lacking = await self._carry(other, home, order.credential, holds)
                digests += lacking
                host, _, path = other.repository.partition("/")
                if host == home.host:
                    sources |= dict.fromkeys(lacking, path)
            async with self._client(order.credential) as client:
                await self._pushes().push_blobs(client, home, digests, sources, meter.add)
        return LayersPushed(tuple(layers), meter.done)

    async def _carry(
        self,
        other: FromRepository,
        home: Reference,
        credential: Credential | None,
        holds: ExitStack,
    ) -> list[str]:
        """Bring here what ``home`` lacks of another repository; return the digests."""
        async with self._client(credential) as client:
            digests = [layer.digest for layer in other.layers]
            lacking = await self._pushes().lacking(client, home, digests)
        some = tuple(layer for layer in other.layers if layer.digest in lacking)
        order = FromRepository(other.repository, some, other.credential)
        await self.pull_layers(order, holds=holds, on_share=lambda *_: None)
        return lacking

    async def push_manifest(self, order: PushManifest) -> None:
        """Give a manifest a name, once its config is there too.

        Raises:
            RegistryError: the registry does not take it.
        """
        (names,) = _by_repository([parse_reference(order.name)])
        config = exports.sha256(order.config)
        with self._store.blobs.holding([config]):
            await in_thread(self._store.blobs.ingest, [order.config])
            async with self._client(order.credential) as client:
                await self._pushes().push(
                    client,
                    names,
                    order.manifest,
                    [config],
                    {},
                    lambda _: None,
                    media_type=order.media_type,
                )

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

    def _pulls(self) -> "Pulls":
        from worker.registry.images_http import Pulls

        if self._opened is None:
            self._opened = Pulls(self._store.blobs)
        return self._opened

    def _pushes(self) -> "Pushes":
        from worker.registry.pushes_http import Pushes

        return Pushes(self._store.blobs)


def _layers(image: ImageManifest, diff_ids: Sequence[str]) -> list[Layer]:
    """Return an image's layers as they would be if it had been pulled."""
    return [
        Layer(
            LAYER_TYPES.get(one.media_type, one.media_type),
            one.digest,
            one.size,
            diff_id,
            True,
            seekable_annotations(one.annotations),
        )
        for one, diff_id in zip(image.layers, diff_ids, strict=True)
    ]


def _form(compression: Compression | None, level: int | None) -> LayerForm:
    return USUAL_FORM if compression is None else LayerForm(compression, level)


def _by_repository(targets: Iterable[Reference]) -> list[list[Reference]]:
    """Return ``targets``, those of one repository together."""
    found: dict[str, list[Reference]] = {}
    for reference in targets:
        if reference.digest:
            raise UsageError(f"{reference}: a digest is not chosen, it is made; push to a tag")
        found.setdefault(reference.repository, []).append(reference)
    return list(found.values())
