"""Manifests and blobs of one repository: taken with proof, and given."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import httpx

from filesync.errors import ContentCorrupt
from filesync.transfer.threads import acquired, in_thread
from worker.blobs import BLOCK_BYTES, Blob, BlobStore, BlobWriter
from worker.registry.client_http import pieces, read_all
from worker.registry.errors import BadRegistry
from worker.registry.manifest import ACCEPT, MAX_JSON_BYTES, Descriptor
from worker.registry.ranges import NoRanges, body_start, check_part, part_header, range_header
from worker.registry.repository_http import Repository
from worker.registry.retry import Failure
from worker.registry.trouble_http import Trouble, ended_early, retrying
from worker.registry.upload_http import DIGEST_HEADER, Content, Upload, check_digest, is_there

OnBytes = Callable[[int], None]
"""Told the number of bytes that have just come or gone."""


# --- taking -----------------------------------------------------------------------------------


async def manifest_digest(place: Repository, tag: str) -> str:
    """Return the digest behind a tag, as the registry says; empty where it does not say.

    Registries that count pulls do not count this.
    """

    async def once() -> str:
        where = f"manifests/{tag}"
        async with place.exchange("HEAD", where, headers={"Accept": ACCEPT}) as response:
            digest: str = response.headers.get(DIGEST_HEADER, "")
            return digest

    return await retrying(once)


async def get_manifest(place: Repository, name: str) -> tuple[bytes, str]:
    """Return a manifest and the type that it came as; ``name`` is a tag or a digest.

    Raises:
        BadRegistry: it does not have the digest asked for, or the one that came with it.
    """

    async def once() -> tuple[bytes, str]:
        where = f"manifests/{name}"
        async with place.exchange("GET", where, headers={"Accept": ACCEPT}) as response:
            data = await read_all(response, MAX_JSON_BYTES)
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            told = response.headers.get(DIGEST_HEADER, "")
            wanted = name if ":" in name else told
            if wanted.startswith("sha256:") and wanted != digest:
                text = f"{place.name}: the manifest {wanted} came as {digest}"
                raise ended_early(response, text)
            return data, response.headers.get("content-type", "")

    return await retrying(once)


async def get_bytes(place: Repository, digest: str, *, max_bytes: int) -> bytes:
    """Return a small blob without keeping it.

    Raises:
        BadRegistry: it is not ``digest``, or is larger than ``max_bytes``.
    """

    async def once() -> bytes:
        async with place.exchange("GET", f"blobs/{digest}") as response:
            data = await read_all(response, max_bytes)
            came = f"sha256:{hashlib.sha256(data).hexdigest()}"
            if came != digest:
                text = f"{place.name}: the blob {digest} came as {came}"
                raise ended_early(response, text)
            return data

    return await retrying(once)


async def blob_size(place: Repository, digest: str) -> int:
    """Return how many bytes the registry says that a blob has.

    Raises:
        BadRegistry: it does not say.
        NotInRegistry: it does not have it.
    """

    async def once() -> str:
        async with place.exchange("HEAD", f"blobs/{digest}") as response:
            length: str = response.headers.get("content-length", "")
            return length

    length = await retrying(once)
    if not length.isascii() or not length.isdigit() or int(length[:18]) >= 1 << 50:
        raise BadRegistry(f"{place.name}: it does not say how large {digest} is")
    return int(length)


async def get_blob(
    place: Repository, descriptor: Descriptor, blobs: BlobStore, on_bytes: OnBytes
) -> Blob:
    """Bring a blob into ``blobs``, from where an earlier try left off.

    What has come stays there when this is cancelled, or the process killed.

    Raises:
        RegistryError: it is not to be had whole and right from this place.
        StoreError: this disk cannot take it.
    """
    found = blobs.find(descriptor.digest)
    if found is not None:
        return found
    for _ in range(2):
        resume = partial(blobs.resume, descriptor.digest, descriptor.size)
        writer = await acquired(resume, BlobWriter.close)
        had = writer.size
        try:
            with writer:
                await _fill(place, descriptor, writer, on_bytes)
                return await in_thread(writer.finish)
        except ContentCorrupt as exc:
            # What an earlier process left may be rotten; what has just come whole is not.
            if not had:
                raise BadRegistry(f"{place.name}: {exc}") from exc
    raise AssertionError("a blob from its beginning is right or wrong")


async def _fill(
    place: Repository, descriptor: Descriptor, writer: BlobWriter, on_bytes: OnBytes
) -> None:
    async def once() -> None:
        at = writer.size
        if at == descriptor.size and at:
            return
        where = f"blobs/{descriptor.digest}"
        headers = range_header(at)
        async with place.exchange("GET", where, headers=headers, allowed=(416,)) as response:
            if response.status_code == 416:
                writer.restart()
                raise Trouble(
                    Failure.CUT, f"{place.name}: {descriptor.digest} ends before {at}"
                )
            start = body_begin(place, response, at=at, size=descriptor.size)
            if start != at:
                writer.restart()
            async for block in blocks(response):
                await in_thread(writer.write, block)
                on_bytes(len(block))
            if writer.size != descriptor.size:
                text = (
                    f"{place.name}: {descriptor.digest} ends after {writer.size} bytes, and its"
                    f" manifest says {descriptor.size}"
                )
                raise ended_early(response, text)

    await retrying(once, gained=lambda: writer.size)


def body_begin(place: Repository, response: httpx.Response, *, at: int, size: int) -> int:
    """Return at which byte an answer begins; see ``body_start``."""
    with _named(place):
        return body_start(response.status_code, response.headers, at=at, size=size)


@contextmanager
def _named(place: Repository) -> Iterator[None]:
    """Say of whom it is said that it answers wrongly; not of one that merely has no ranges."""
    try:
        yield
    except NoRanges:
        raise
    except BadRegistry as exc:
        raise BadRegistry(f"{place.name}: {exc}") from exc


Take = Callable[[memoryview], None]
"""Takes bytes in order; called in a thread, one call at a time."""


async def get_part(
    place: Repository,
    descriptor: Descriptor,
    begin: int,
    end: int,
    take: Take,
    on_bytes: OnBytes,
) -> None:
    """Give ``take`` the bytes of a blob from ``begin`` to before ``end``. Nothing is kept.

    Nothing proves them: whoever takes them must.

    Raises:
        NoRanges: this place gives whole blobs only. Nothing was taken.
        RegistryError: they are not to be had from this place.
    """
    at = begin

    async def once() -> None:
        nonlocal at
        headers = part_header(at, end)
        where = f"blobs/{descriptor.digest}"
        async with place.exchange("GET", where, headers=headers, allowed=(416,)) as response:
            content_range = response.headers.get("content-range", "")
            with _named(place):
                check_part(
                    response.status_code,
                    content_range=content_range,
                    begin=at,
                    end=end,
                    size=descriptor.size,
                )
            async for block in blocks(response):
                if len(block) > end - at:
                    raise BadRegistry(f"{place.name}: more bytes came than were asked for")
                await in_thread(take, block)
                at += len(block)
                on_bytes(len(block))
        if at != end:
            raise Trouble(Failure.CUT, f"{place.name}: {descriptor.digest} was cut at {at}")

    await retrying(once, gained=lambda: at - begin)


async def stream_blob(
    place: Repository, descriptor: Descriptor, take: Take, on_bytes: OnBytes
) -> None:
    """Give ``take`` a whole blob. Nothing is kept; it is proved once this returns.

    Raises:
        RegistryError: it is not to be had whole and right from this place.
    """
    at = 0
    sha256 = hashlib.sha256()

    async def once() -> None:
        nonlocal at
        where = f"blobs/{descriptor.digest}"
        async with place.exchange("GET", where, headers=range_header(at)) as response:
            start = body_begin(place, response, at=at, size=descriptor.size)
            seen = at - start  # one that knows no ranges begins anew
            async for block in blocks(response):
                on_bytes(len(block))
                new, seen = block[seen:], max(0, seen - len(block))
                if len(new) > descriptor.size - at:
                    break
                await in_thread(take, new)
                sha256.update(new)
                at += len(new)
            if at != descriptor.size:
                raise ended_early(
                    response,
                    f"{place.name}: {descriptor.digest} does not end after {descriptor.size} bytes",
                )

    await retrying(once, gained=lambda: at)
    if f"sha256:{sha256.hexdigest()}" != descriptor.digest:
        raise BadRegistry(f"{place.name}: {descriptor.digest} came as {sha256.hexdigest()}")


async def blocks(response: httpx.Response) -> AsyncIterator[memoryview]:
    """Yield a body in large blocks; where it breaks off, what came before that too."""
    block = bytearray()
    try:
        async for piece in pieces(response):
            block += piece
            if len(block) >= BLOCK_BYTES:
                yield memoryview(block)
                block = bytearray()
    except (httpx.TransportError, Trouble):
        yield memoryview(block)
        raise
    yield memoryview(block)


# --- giving -----------------------------------------------------------------------------------


async def has_blob(place: Repository, digest: str) -> bool:
    """Whether the registry has a blob in this repository."""
    return await retrying(partial(is_there, place, digest))


async def put_blob(
    place: Repository, digest: str, size: int, content: Content, *, mount_from: str = ""
) -> bool:
    """Give a blob to a registry; return False where it took it from ``mount_from`` by itself.

    Raises:
        RegistryError: it does not take it.
    """
    upload = Upload(place, digest, size, content, mount_from=mount_from)
    return await retrying(upload.once, gained=lambda: upload.at)


async def put_manifest(place: Repository, tag: str, data: bytes, media_type: str) -> None:
    """Publish a manifest under a tag, or under its digest alone if that is empty.

    All that it speaks of must be there.
    """
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    async def body() -> AsyncGenerator[bytes, None]:
        yield data

    async def once() -> None:
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        where = f"manifests/{tag or digest}"
        async with place.exchange("PUT", where, headers=headers, body=body) as response:
            check_digest(place, digest, response.headers.get(DIGEST_HEADER, ""))

    await retrying(once)
