"""Build caches in one repository: read, and not kept."""

from typing import Final

import msgspec

from worker.registry.blobs_http import get_bytes, get_manifest
from worker.registry.errors import BadRegistry
from worker.registry.manifest import (
    MAX_JSON_BYTES,
    ImageManifest,
    Index,
    choose,
    parse_manifest,
)
from worker.registry.repository_http import Repository
from worker.wire.caches import (
    LAYER_BYTES,
    MAX_CACHE_BYTES,
    MAX_FOUND_BYTES,
    BadCacheConfig,
    CacheFound,
    parse_cache_manifest,
    parse_inline,
)
from worker.wire.images import Reference, seekable_annotations
from worker.wire.platforms import Platform

_REMEDY: Final = (
    "--cache-to type=registry,ref=… writes one, and type=inline puts it into an image"
)


async def read_cache(place: Repository, reference: Reference, platform: Platform) -> CacheFound:
    """Return the cache that ``reference`` is, or that an image of that name has in itself.

    Of the layers that it speaks of nothing is asked here.

    Raises:
        RegistryError: there is nothing of that name, or it cannot be had.
        BadCacheConfig: there is no cache in it, or one that cannot be understood.
    """
    data, content_type = await get_manifest(place, reference.digest or reference.tag)
    manifest = parse_cache_manifest(data)
    if manifest is None:
        return await _inline(place, reference, data, content_type, platform)
    config = await get_bytes(place, manifest.config, max_bytes=MAX_CACHE_BYTES)
    size = len(config) + LAYER_BYTES * len(manifest.layers)
    if size > MAX_FOUND_BYTES:
        raise BadCacheConfig(
            f"{reference}: a cache of {len(manifest.layers)} layers is too large"
        )
    return CacheFound(config, manifest.layers)


async def _inline(
    place: Repository,
    reference: Reference,
    data: bytes,
    content_type: str,
    platform: Platform,
) -> CacheFound:
    try:
        image = parse_manifest(data, content_type=content_type)
        if isinstance(image, Index):
            chosen = choose(image, platform)
            data, content_type = await get_manifest(place, chosen.digest)
            image = parse_manifest(data, content_type=content_type)
    except BadRegistry as exc:
        raise BadCacheConfig(f"{reference}: {exc}") from exc
    if not isinstance(image, ImageManifest):
        raise BadCacheConfig(f"{reference}: an index in an index")
    config = await get_bytes(place, image.config.digest, max_bytes=MAX_JSON_BYTES)
    blobs = [(layer.media_type, layer.digest, layer.size) for layer in image.layers]
    found = parse_inline(config, blobs)
    if found is None:
        raise BadCacheConfig(f"{reference} has no cache in it; {_REMEDY}")
    text, layers = found
    seekable = (seekable_annotations(layer.annotations) for layer in image.layers)
    return CacheFound(
        text,
        tuple(
            msgspec.structs.replace(layer, annotations=said)
            for layer, said in zip(layers, seekable, strict=True)
        ),
    )
