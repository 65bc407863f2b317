"""Images in registries: what a name means, and bringing one into a blob store."""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from filesync.transfer.threads import in_thread
from worker.blobs import BlobStore
from worker.registry.blobs_http import (
    OnBytes,
    blob_size,
    get_blob,
    get_manifest,
    manifest_digest,
)
from worker.registry.caches_http import read_cache
from worker.registry.client_http import RegistryClient
from worker.registry.errors import BadRegistry, NotAnImage, NotInRegistry
from worker.registry.manifest import (
    MAX_JSON_BYTES,
    Descriptor,
    ImageManifest,
    Index,
    candidates,
    diff_ids_of,
    not_for,
    parse_manifest,
    platform_of,
)
from worker.registry.repository_http import Repository, anywhere, places
from worker.registry.turns import at_once
from worker.wire.caches import CacheFound
from worker.wire.images import Reference
from worker.wire.platforms import Platform, steps_to

MAX_LOOKS: Final = 50
"""Manifests that are read to find the image of an index that does not say for what they are."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

OnBegin = Callable[[Sequence[Descriptor]], None]


class _NotThere(NotInRegistry):
    """An index has no image for the platform; another one may."""


class _Looks:
    """What is looked for in an index, and in the indexes in it; their number is bounded."""

    def __init__(self, reference: Reference, platform: Platform) -> None:
        self.reference = reference
        self.platform = platform
        self._left = MAX_LOOKS

    def count(self) -> None:
        """Note that one more manifest is read."""
        self._left -= 1
        if self._left < 0:
            raise BadRegistry(
                f"{self.reference}: more than {MAX_LOOKS} manifests to read to find its image"
            )


class Pulls:
    """Images of registries in one blob store; a digest is on its way once at a time."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def resolve(
        self, client: RegistryClient, reference: Reference, platform: Platform
    ) -> tuple[str, bytes]:
        """Return the digest of an image's manifest, and its configuration.

        Raises:
            RegistryError: there is none, or none for ``platform``.
        """

        async def at(place: Repository) -> tuple[str, bytes]:
            name = reference.digest or reference.tag
            digest, found = await self._manifest(place, name, None)
            if isinstance(found, ImageManifest):
                return digest, (await self._image_config(place, found))[0]
            looks = _Looks(reference, platform)
            return await self._of_index(place, found, looks)

        return await anywhere(places(client, reference), at)

    async def _of_index(
        self, place: Repository, index: Index, looks: "_Looks"
    ) -> tuple[str, bytes]:
        """Return the image of an index, or of one in it, for the platform that is looked for."""
        for one in candidates(index, looks.platform):
            looks.count()
            try:
                digest, found = await self._manifest(place, one.digest, one.size)
                if isinstance(found, Index):
                    return await self._of_index(place, found, looks)
                config, _ = await self._image_config(place, found)
            except (NotAnImage, _NotThere):
                if one.platform is not None:
                    raise
                continue
            if one.platform or steps_to(platform_of(config), looks.platform) is not None:
                return digest, config
        raise _NotThere(f"{looks.reference}: {not_for(index, looks.platform)}")

    async def _image_config(
        self, place: Repository, image: ImageManifest
    ) -> tuple[bytes, list[str]]:
        """Return an image's configuration, and the diffIDs in it: one for each layer."""
        config = await self._config(place, image.config)
        try:
            diff_ids = diff_ids_of(config)
        except BadRegistry as exc:
            raise BadRegistry(f"{place.name}: {exc}") from exc
        if len(diff_ids) != len(image.layers):
            raise BadRegistry(
                f"{place.name}: {len(image.layers)} layers and {len(diff_ids)} diff_ids"
            )
        return config, diff_ids

    async def pull(
        self, client: RegistryClient, image: Reference, begin: OnBegin, on_bytes: OnBytes
    ) -> None:
        """Bring all blobs of the image with the digest in ``image`` into the store.

        What is there already is not asked for; a cut transfer goes on where it ended.
        ``begin`` is told of all of them before any comes.

        Raises:
            RegistryError: not all are to be had, or not right.
            StoreError: this disk cannot take them.
        """
        where = places(client, image)
        found = await self.manifest(where, image)
        blobs = (found.config, *found.layers)
        begin(blobs)
        lacking = {one.digest: one for one in blobs if one.digest not in self._blobs}
        await at_once(self._blob(where, one, on_bytes) for one in lacking.values())

    async def describe(
        self, client: RegistryClient, image: Reference
    ) -> tuple[ImageManifest, list[str]]:
        """Return the manifest of an image by digest and the diffIDs of its layers; no layer comes.

        Raises:
            RegistryError: they are not to be had, or do not belong together.
        """
        where = places(client, image)
        found = await self.manifest(where, image)
        _, diff_ids = await anywhere(where, lambda place: self._image_config(place, found))
        return found, diff_ids

    async def manifest(self, where: Sequence[Repository], image: Reference) -> ImageManifest:
        """Return the manifest with the digest in ``image``, which is then in the store.

        Raises:
            RegistryError: it is not to be had, or is none of an image.
        """

        async def at(place: Repository) -> ImageManifest:
            _, found = await self._manifest(place, image.digest, None)
            if isinstance(found, Index):
                raise BadRegistry(f"{image}: an index where an image was asked for")
            return found

        return await anywhere(where, at)

    async def _blob(
        self, where: Sequence[Repository], descriptor: Descriptor, on_bytes: OnBytes
    ) -> None:
        lock = self._locks.setdefault(descriptor.digest, asyncio.Lock())
        async with lock:
            await anywhere(
                where, lambda place: get_blob(place, descriptor, self._blobs, on_bytes)
            )

    async def _config(self, place: Repository, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_JSON_BYTES:
            raise BadRegistry(f"{place.name}: a configuration of {descriptor.size} bytes")
        lock = self._locks.setdefault(descriptor.digest, asyncio.Lock())
        with self._blobs.holding([descriptor.digest]):
            async with lock:
                await get_blob(place, descriptor, self._blobs, lambda _: None)
            return await in_thread(self._read, descriptor.digest)

    async def _manifest(
        self, place: Repository, name: str, size: int | None
    ) -> tuple[str, ImageManifest | Index]:
        """Return a manifest and its digest; from the store, if it has what ``name`` means."""
        digest = name if ":" in name else await _behind(place, name)
        content_type = ""
        if _DIGEST.fullmatch(digest) and digest in self._blobs:
            data = await in_thread(self._read, digest)
        else:
            data, content_type = await get_manifest(place, name)
        if size not in (None, len(data)):
            raise BadRegistry(f"{place.name}: a manifest of {len(data)} bytes, not {size}")
        try:
            found = parse_manifest(data, content_type=content_type)
        except BadRegistry as exc:
            raise type(exc)(f"{place.name}:{name}: {exc}") from exc
        blob = await in_thread(self._blobs.ingest, [data])
        return blob.digest, found

    def _read(self, digest: str) -> bytes:
        with self._blobs.open(digest) as file:
            return file.read(MAX_JSON_BYTES)

    async def pull_layers(
        self,
        client: RegistryClient,
        repository: Reference,
        digests: Iterable[str],
        on_bytes: OnBytes,
    ) -> None:
        """Bring blobs of a repository into the store; what is there already is not asked for.

        Raises:
            RegistryError: not all are to be had, or not right.
            StoreError: this disk cannot take them.
        """
        where = places(client, repository)
        lacking = [one for one in dict.fromkeys(digests) if one not in self._blobs]
        await at_once(self._sized(where, digest, on_bytes) for digest in lacking)

    async def _sized(self, where: Sequence[Repository], digest: str, on_bytes: OnBytes) -> None:
        """Bring a blob of which nobody has said how large it is."""

        async def at(place: Repository) -> None:
            size = await blob_size(place, digest)
            await get_blob(place, Descriptor("", digest, size), self._blobs, on_bytes)

        async with self._locks.setdefault(digest, asyncio.Lock()):
            await anywhere(where, at)

    async def read_cache(
        self, client: RegistryClient, reference: Reference, platform: Platform
    ) -> CacheFound:
        """Return a cache, or the one that an image has in itself.

        Raises:
            RegistryError: there is nothing of that name, or it cannot be had.
            BadCacheConfig: there is no cache in it, or one that cannot be understood.
        """
        return await anywhere(
            places(client, reference), lambda place: read_cache(place, reference, platform)
        )


async def _behind(place: Repository, tag: str) -> str:
    try:
        return await manifest_digest(place, tag)
    except BadRegistry:
        return ""  # it may be one that knows no HEAD
