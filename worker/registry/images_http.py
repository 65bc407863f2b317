"""Images: what a name means, and bringing one into a blob store or out of it."""

import asyncio
import logging
import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from filesync.transfer.threads import in_thread
from worker.blobs import BLOCK_BYTES, BlobStore
from worker.registry.blobs_http import (
    OnBytes,
    blob_size,
    get_blob,
    get_manifest,
    has_blob,
    manifest_digest,
    put_blob,
    put_manifest,
)
from worker.registry.caches_http import read_cache
from worker.registry.client_http import RegistryClient
from worker.registry.errors import BadRegistry, NotAnImage, NotInRegistry, RegistryError
from worker.registry.manifest import (
    MAX_JSON_BYTES,
    OCI_MANIFEST,
    Descriptor,
    ImageManifest,
    Index,
    candidates,
    diff_ids_of,
    not_for,
    parse_manifest,
    platform_of,
)
from worker.registry.relay_http import content_at
from worker.registry.repository_http import Repository, places
from worker.registry.upload_http import Content
from worker.wire.caches import CacheFound
from worker.wire.images import Reference
from worker.wire.platforms import Platform, steps_to

log = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Blobs of one image on their way at the same time."""
MAX_LOOKS: Final = 50
"""Manifests that are read to find the image of an index that does not say for what they are."""
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

T = TypeVar("T")
OnBegin = Callable[[Sequence[Descriptor]], None]


class Given(NamedTuple):
    """A blob that is to be pushed: its size, and how to have its bytes."""

    size: int
    content: Content


NOTHING: Final[Mapping[str, Given]] = MappingProxyType({})


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


class Transfers:
    """Images between registries and one blob store; a digest is on its way once at a time."""

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
                return digest, await self._image_config(place, found)
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
                config = await self._image_config(place, found)
            except (NotAnImage, _NotThere):
                if one.platform is not None:
                    raise
                continue
            if one.platform or steps_to(platform_of(config), looks.platform) is not None:
                return digest, config
        raise _NotThere(f"{looks.reference}: {not_for(index, looks.platform)}")

    async def _image_config(self, place: Repository, image: ImageManifest) -> bytes:
        """Return an image's configuration, which speaks of the layers that the manifest does."""
        config = await self._config(place, image.config)
        try:
            diff_ids = diff_ids_of(config)
        except BadRegistry as exc:
            raise BadRegistry(f"{place.name}: {exc}") from exc
        if len(diff_ids) != len(image.layers):
            raise BadRegistry(
                f"{place.name}: {len(image.layers)} layers and {len(diff_ids)} diff_ids"
            )
        return config

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
        config = await anywhere(where, lambda place: self._image_config(place, found))
        return found, diff_ids_of(config)

    def elsewhere(
        self, client: RegistryClient, image: Reference, found: ImageManifest, on_bytes: OnBytes
    ) -> dict[str, Given]:
        """Return how to have the layers of an image that are not in the store."""
        where = places(client, image)
        return {
            one.digest: Given(one.size, content_at(where, one, on_bytes))
            for one in found.layers
            if one.digest not in self._blobs
        }

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

    # --- giving -------------------------------------------------------------------------------

    async def push(
        self,
        client: RegistryClient,
        names: Sequence[Reference],
        manifest: bytes,
        digests: Sequence[str],
        sources: Mapping[str, str],
        on_bytes: OnBytes,
        *,
        elsewhere: Mapping[str, Given] = NOTHING,
        media_type: str = OCI_MANIFEST,
    ) -> int:
        """Push an image under ``names``, which are of one repository.

        Blobs that it lacks are sent, and only when all are there is the manifest. Returns how
        many it took from another repository.

        Args:
            client: whose credential is shown.
            names: each with a tag.
            manifest: its bytes.
            digests: its blobs, the configuration's too.
            sources: by digest, another repository of the registry that may have it.
            on_bytes: told of bytes that go.
            elsewhere: by digest, the blobs that are not in the store.
            media_type: of ``manifest``.

        Raises:
            RegistryError: the registry does not take it; what it did take has no name there.
        """
        home = names[0]
        place = _writable(client, home, sources.values())
        mounted = await self._push_blobs(place, digests, sources, on_bytes, elsewhere)
        for name in names:
            await put_manifest(place, name.tag, manifest, media_type)
        return mounted

    async def push_blobs(
        self,
        client: RegistryClient,
        home: Reference,
        digests: Iterable[str],
        sources: Mapping[str, str],
        on_bytes: OnBytes,
    ) -> int:
        """Push blobs of the store, and nothing that names them; see ``push``."""
        place = _writable(client, home, sources.values())
        return await self._push_blobs(place, digests, sources, on_bytes, NOTHING)

    async def lacking(
        self, client: RegistryClient, home: Reference, digests: Iterable[str]
    ) -> list[str]:
        """Return those of ``digests`` that a repository does not have."""
        place = _writable(client, home, ())
        missing: set[str] = set()

        async def ask(digest: str) -> None:
            if not await has_blob(place, digest):
                missing.add(digest)

        await at_once(ask(digest) for digest in dict.fromkeys(digests))
        return sorted(missing)

    async def _push_blobs(
        self,
        place: Repository,
        digests: Iterable[str],
        sources: Mapping[str, str],
        on_bytes: OnBytes,
        elsewhere: Mapping[str, Given],
    ) -> int:
        mounted = 0

        async def push(digest: str) -> None:
            nonlocal mounted
            if await has_blob(place, digest):
                return
            given = elsewhere.get(digest) or self.own(digest, on_bytes)
            source = sources.get(digest, "")
            if not await put_blob(place, digest, *given, mount_from=source):
                mounted += 1

        await at_once(push(digest) for digest in dict.fromkeys(digests))
        return mounted

    def own(self, digest: str, on_bytes: OnBytes) -> Given:
        """Return how to give a blob of the store."""

        async def content(start: int, end: int) -> AsyncGenerator[bytes, None]:
            with self._blobs.open(digest) as file:
                file.seek(start)
                while piece := await in_thread(file.read, min(BLOCK_BYTES, end - start)):
                    start += len(piece)
                    yield piece
                    on_bytes(len(piece))

        return Given(self._blobs.path(digest).stat().st_size, content)


def _writable(client: RegistryClient, home: Reference, reads: Iterable[str]) -> Repository:
    """Return a repository to push to, which may take blobs from those in ``reads``."""
    scopes = {f"repository:{path}:pull" for path in reads}
    scope = f"repository:{home.path}:pull,push"
    return Repository(client, home.host, home.path, (scope, *sorted(scopes)))


async def _behind(place: Repository, tag: str) -> str:
    try:
        return await manifest_digest(place, tag)
    except BadRegistry:
        return ""  # it may be one that knows no HEAD


async def anywhere(
    where: Sequence[Repository], take: Callable[[Repository], Awaitable[T]]
) -> T:
    """Return what the first place gives; the last is the image's home, whose word is final.

    Raises:
        RegistryError: none gives it.
    """
    for mirror in where[:-1]:
        try:
            return await take(mirror)
        except RegistryError as exc:
            log.warning("mirror left out reason=%s", exc)
    return await take(where[-1])


async def at_once(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of ``work``, some at a time; the first failure ends it all."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(doing: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await doing

    todo = list(work)
    try:
        async with asyncio.TaskGroup() as group:
            for doing in todo:
                group.create_task(one(doing))
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    finally:
        for doing in todo:
            doing.close()
