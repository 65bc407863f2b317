"""Build caches in registries and layouts: their manifests, and what a worker can be told of them.

A cache is a config (BuildKit's ``cacheconfig.v0``) and the layers that it names. They are held
together by an image manifest whose configuration is that config, or by an index that lists the
layers and then the config. A third form is inline: an image whose configuration has the records.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its.
"""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.digest import WireDigest
from filesync.errors import PeerError
from worker.wire.images import (
    DOCKER_LAYER_TYPES,
    LAYER_TYPES,
    Compression,
    Count,
    Credential,
    Layer,
    Name,
    Sha256,
    seekable_annotations,
)

CACHE_TYPE: Final = "application/vnd.buildkit.cacheconfig.v0"
INLINE: Final = "moby.buildkit.cache.v0"
"""The key in an image's configuration that has its cache records, JSON in base64."""
MAX_CACHE_BYTES: Final = 8 << 20
"""Bound on a config. BuildKit's own reader stops at 1 MiB."""
MAX_ITEMS: Final = 100_000
MAX_MANIFEST_BYTES: Final = 4 << 20
"""What registries take of a manifest at most."""
MAX_FOUND_BYTES: Final = 12 << 20
"""Bound on a config and what is said of its layers: they travel in one message."""
LAYER_BYTES: Final = 260
"""What a layer takes in a message, about."""

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DIFF_ID: Final = "containerd.io/uncompressed"
MADE: Final = "filesync/made"
"""Marks a layer that a build made: only such a layer is ever compressed otherwise."""
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
_DOCKER_TYPES: Final = {oci: docker for docker, oci in DOCKER_LAYER_TYPES.items()}


class BadCacheConfig(PeerError):
    """A cache that does not say what it must, or of which nothing can be told."""

    code = "cache-malformed"


# --- manifests --------------------------------------------------------------------------------


def manifest_type(*, image: bool, oci: bool = True) -> str:
    """Return the media type of a cache's manifest."""
    if image:
        return OCI_MANIFEST
    return OCI_INDEX if oci else DOCKER_LIST


def cache_manifest(
    config: bytes, layers: Sequence[Layer], *, image: bool, oci: bool = True
) -> bytes:
    """Return the manifest of a cache: equal arguments give equal bytes.

    Args:
        config: the cache config.
        layers: what it names, in the order in which it first does.
        image: as an image manifest, else as an index.
        oci: an index is in OCI's types, else in docker's.
    """
    described = {"mediaType": CACHE_TYPE} | stored(config)
    blobs = [_descriptor(layer, oci=image or oci) for layer in layers]
    kind = manifest_type(image=image, oci=oci)
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind}
    if image:
        manifest |= {"config": described, "layers": blobs}
    else:
        manifest |= {"manifests": [*blobs, described]}
    return dump(manifest)


def stored(data: bytes) -> dict[str, Any]:
    """Return what a descriptor says of the bytes ``data``."""
    return {"digest": f"sha256:{sha256(data).hexdigest()}", "size": len(data)}


def dump(value: object) -> bytes:
    """Return ``value`` as the one JSON text that equal values have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(layer: Layer, *, oci: bool) -> dict[str, Any]:
    annotations = {**dict(layer.annotations), DIFF_ID: layer.diff_id}
    if not layer.imported:
        annotations[MADE] = "true"
    kind = layer.media_type if oci else _DOCKER_TYPES.get(layer.media_type, layer.media_type)
    bare = {"mediaType": kind, "digest": layer.digest, "size": layer.size}
    return bare | {"annotations": annotations}


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob by its digest; its size may be said to be anything."""

    digest: Annotated[str, msgspec.Meta(max_length=255)] = ""
    media_type: Annotated[str, msgspec.Meta(max_length=255)] = ""
    annotations: dict[str, str] | None = None
    size: object = 0


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor | None = None
    layers: Annotated[tuple[_Descriptor, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()
    manifests: Annotated[tuple[_Descriptor, ...], msgspec.Meta(max_length=MAX_ITEMS)] = ()


class CacheManifest(msgspec.Struct, frozen=True):
    """What a cache's manifest says: its config, and its layers, whose sizes nobody has looked at."""

    config: Sha256
    layers: tuple[Layer, ...]


_manifest_decoder: Final = msgspec.json.Decoder(_Manifest)


def parse_cache_manifest(data: bytes) -> CacheManifest | None:
    """Return what the manifest of a cache says, in either form; None for one of something else.

    A layer without a diffID is left out: nobody could prove what it gives.

    Raises:
        BadCacheConfig: it is no manifest at all.
    """
    try:
        manifest = _manifest_decoder.decode(data)
    except UNDECODABLE as exc:
        raise BadCacheConfig(f"no manifest: {exc}") from exc
    configs = [one for one in (manifest.config, *manifest.manifests) if one is not None]
    config = next((one for one in configs if one.media_type == CACHE_TYPE), None)
    if config is None:
        return None
    # A digest becomes a path: nothing but hex may follow the algorithm.
    if not _SHA256.match(config.digest):
        raise BadCacheConfig("a config without a sha256 digest")
    layers: dict[str, Layer] = {}
    for one in (*manifest.layers, *manifest.manifests):
        annotations = one.annotations or {}
        diff_id = annotations.get(DIFF_ID, "")
        if _SHA256.match(one.digest) and _SHA256.match(diff_id):
            kind = LAYER_TYPES.get(one.media_type, one.media_type)
            imported = annotations.get(MADE) != "true"
            size = one.size if isinstance(one.size, int) and 0 <= one.size < 1 << 50 else 0
            seekable = seekable_annotations(annotations)
            layers[one.digest] = Layer(kind, one.digest, size, diff_id, imported, seekable)
    return CacheManifest(config.digest, tuple(layers.values()))


class _RootFS(msgspec.Struct, frozen=True):
    diff_ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=512)] = ()


class _ImageConfig(msgspec.Struct, frozen=True):
    rootfs: _RootFS = msgspec.field(default_factory=_RootFS)
    cache: bytes | None = msgspec.field(default=None, name=INLINE)


_image_decoder: Final = msgspec.json.Decoder(_ImageConfig)


def parse_inline(
    config: bytes, blobs: Sequence[tuple[str, str, int]]
) -> tuple[bytes, tuple[Layer, ...]] | None:
    """Return the cache config and layers that an image has in itself; None where it has none.

    Args:
        config: the image's configuration, JSON.
        blobs: media type, digest and size of each of its layers, lowest first.

    Raises:
        BadCacheConfig: what it has there is no cache.
    """
    try:
        image = _image_decoder.decode(config)
        if image.cache is None:
            return None
        records = msgspec.json.decode(image.cache, type=list[msgspec.Raw])
    except UNDECODABLE as exc:
        raise BadCacheConfig(f"the cache in an image's configuration is none: {exc}") from exc
    diff_ids = image.rootfs.diff_ids
    if len(diff_ids) != len(blobs) or not all(map(_SHA256.match, diff_ids)):
        raise BadCacheConfig(f"an image of {len(blobs)} layers and {len(diff_ids)} diff_ids")
    layers = tuple(
        Layer(LAYER_TYPES.get(kind, kind), digest, size, diff_id, imported=True)
        for (kind, digest, size), diff_id in zip(blobs, diff_ids, strict=True)
    )
    places = [{"blob": layer.digest, "parent": at - 1} for at, layer in enumerate(layers)]
    return msgspec.json.encode({"layers": places, "records": records}), layers


# --- messages ---------------------------------------------------------------------------------

CacheBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_CACHE_BYTES)]
Layers = Annotated[tuple[Layer, ...], msgspec.Meta(max_length=MAX_ITEMS)]


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class ReadCache(_Message, frozen=True, tag="read-cache"):
    """Read the cache that ``name`` is, or that an image of that name has in itself. -> CacheFound.

    Attributes:
        name: a reference with nothing left out.
        os: with ``architecture`` and ``variant``, which image is meant where there are several.
    """

    name: Name
    os: Name
    architecture: Name
    variant: Name = ""
    credential: Credential | None = None


class CacheFound(_Message, frozen=True, tag="cache-found"):
    """A cache is there; its blobs are in the repository that was asked for.

    Attributes:
        layers: what is said of its blobs; nothing is proved, least of all their sizes.
    """

    config: CacheBytes
    layers: Layers


class FromRepository(_Message, frozen=True, tag="repository"):
    """Pull these blobs of a repository; what is here already does not move.

    Attributes:
        repository: host and path.
        layers: whose sizes are not looked at.
    """

    repository: Name
    layers: Layers
    credential: Credential | None = None


class PushLayers(_Message, frozen=True, tag="push-layers"):
    """Have the layers of ``refs``, made if they never were, in a repository. -> LayersPushed.

    Attributes:
        repository: host and path.
        others: blobs of other repositories that it is to have too.
        compression: of the layers that were made here; None leaves each as it is.
    """

    repository: Name
    refs: Annotated[tuple[WireDigest, ...], msgspec.Meta(max_length=MAX_ITEMS)]
    others: Annotated[tuple[FromRepository, ...], msgspec.Meta(max_length=100)] = ()
    compression: Compression | None = None
    level: int | None = None
    credential: Credential | None = None


class LayersPushed(_Message, frozen=True, tag="layers-pushed"):
    """They are there.

    Attributes:
        layers: of each of the refs, in their order.
        bytes_sent: of blobs; those that the registry had already are not among them.
    """

    layers: Layers
    bytes_sent: Count = 0


class PushManifest(_Message, frozen=True, tag="push-manifest"):
    """Give a manifest a name. Its blobs are there, but for ``config``. -> Finished.

    Attributes:
        name: a reference with a tag and nothing left out.
    """

    name: Name
    media_type: Name
    manifest: Annotated[bytes, msgspec.Meta(max_length=MAX_MANIFEST_BYTES)]
    config: CacheBytes
    credential: Credential | None = None
