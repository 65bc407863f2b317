"""Blobs and images out of one blob store, to registries."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from filesync.transfer.threads import in_thread
from worker.blobs import BLOCK_BYTES, BlobStore
from worker.registry.blobs_http import OnBytes, has_blob, put_blob, put_manifest
from worker.registry.client_http import RegistryClient
from worker.registry.manifest import OCI_MANIFEST, ImageManifest
from worker.registry.relay_http import content_at
from worker.registry.repository_http import Repository, places
from worker.registry.turns import at_once
from worker.registry.upload_http import Content
from worker.wire.images import Reference


class Given(NamedTuple):
    """A blob that is to be pushed: its size, and how to have its bytes."""

    size: int
    content: Content


NOTHING: Final[Mapping[str, Given]] = MappingProxyType({})


class Pushes:
    """What is given of a store, or of another registry; a name comes last of all."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

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
            names: those without a tag are for its digest alone.
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
    ) -> None:
        """Push blobs of the store, and nothing that names them; see ``push``."""
        place = _writable(client, home, sources.values())
        await self._push_blobs(place, digests, sources, on_bytes, NOTHING)

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
