"""Image manifests and indexes, OCI's and docker's schema 2, out of bytes nobody vouches for. Pure."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Final

import msgspec

from filesync.decoding import UNDECODABLE
from worker.registry.errors import BadRegistry, NotAnImage, NotInRegistry
from worker.wire.images import CONFIG_TYPES, Sha256, layer_type
from worker.wire.platforms import Platform, nearest

MAX_JSON_BYTES: Final = 4 << 20
"""Bound on a manifest, an index and a configuration; registries have the same."""
MAX_LAYERS: Final = 512
MAX_MANIFESTS: Final = 1000

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
ACCEPT: Final = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+"

_Type = Annotated[str, msgspec.Meta(max_length=255)]


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob or manifest by type, digest and size."""

    media_type: _Type
    digest: Sha256
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]
    platform: Platform | None = None
    annotations: object = None

    def annotation(self, name: str) -> str:
        """Return an annotation; empty where there is none."""
        found = self.annotations.get(name) if isinstance(self.annotations, dict) else None
        return found if isinstance(found, str) else ""


_Layers = Annotated[list[Descriptor], msgspec.Meta(max_length=MAX_LAYERS)]


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int
    media_type: _Type = ""
    config: Descriptor | None = None
    layers: _Layers | msgspec.UnsetType | None = msgspec.UNSET  # null is Go's for no layers
    manifests: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_MANIFESTS)] | None = (
        None
    )


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: Annotated[list[Sha256], msgspec.Meta(max_length=MAX_LAYERS)] | None = None


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFs | None = None


_decoder: Final = msgspec.json.Decoder(_Document)
_descriptor_decoder: Final = msgspec.json.Decoder(Descriptor)
_config_decoder: Final = msgspec.json.Decoder(_Config)
_platform_decoder: Final = msgspec.json.Decoder(Platform)


class ImageManifest(msgspec.Struct, frozen=True):
    """What one image is made of; ``layers`` parents first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(msgspec.Struct, frozen=True):
    """Images of several platforms."""

    manifests: tuple[Descriptor, ...]


def parse_manifest(data: bytes, *, content_type: str = "") -> ImageManifest | Index:
    """Return what ``data`` says; ``content_type`` is what its bearer says that it is.

    Raises:
        BadRegistry: no image manifest or index, or one that could be read as both.
    """
    told = content_type.partition(";")[0].strip()
    if told.startswith(_SCHEMA_1):
        raise BadRegistry("its manifest is docker's schema 1, which nobody should use any more")
    try:
        document = _decoder.decode(data)
    except UNDECODABLE as exc:
        raise BadRegistry(f"no image manifest: {exc}") from exc
    if document.schema_version != 2:
        raise BadRegistry(f"a manifest of schema {document.schema_version}; 2 is understood")
    kind = document.media_type or told
    if told in MANIFESTS | INDEXES and kind != told:
        raise BadRegistry(f"a manifest that calls itself {kind} came as {told}")
    return _index(document, kind) if document.manifests is not None else _image(document, kind)


def _index(document: _Document, kind: str) -> Index:
    # What can be read as an index and as an image is read differently by the next tool.
    if document.layers is not msgspec.UNSET or document.config is not None or kind in MANIFESTS:
        raise BadRegistry("a manifest that is an index and an image at once")
    return Index(tuple(_understood(document.manifests or ())))


def _understood(manifests: Sequence[msgspec.Raw]) -> Iterator[Descriptor]:
    """Yield what can be read of an index; one strange entry (sha512, null) spoils no other."""
    for one in manifests:
        with suppress(*UNDECODABLE):
            yield _descriptor_decoder.decode(one)


def _image(document: _Document, kind: str) -> ImageManifest:
    if kind in INDEXES or document.config is None or document.layers is msgspec.UNSET:
        raise BadRegistry("a manifest without a configuration and layers")
    if document.config.media_type not in CONFIG_TYPES:
        raise NotAnImage(f"not an image, but an artifact: {document.config.media_type}")
    layers = document.layers or []
    for layer in layers:
        if layer_type(layer.media_type) is None:
            raise BadRegistry(f"a layer of the unknown type {layer.media_type}")
    return ImageManifest(document.config, tuple(layers))


def diff_ids_of(config: bytes) -> list[str]:
    """Return the diffIDs of an image's layers, lowest first, as its configuration says them.

    Raises:
        BadRegistry: it is none.
    """
    try:
        rootfs = _config_decoder.decode(config).rootfs
    except UNDECODABLE as exc:
        raise BadRegistry(f"no image configuration: {exc}") from exc
    return [] if rootfs is None else rootfs.diff_ids or []


def platform_of(config: bytes) -> Platform:
    """Return what an image is for, as its configuration says it; where it does not, nothing."""
    try:
        return _platform_decoder.decode(config)
    except UNDECODABLE:
        return Platform()


def candidates(index: Index, wanted: Platform) -> Iterator[Descriptor]:
    """Yield what of an index may be for a platform, the nearest first.

    Last come those of which it is not said: they have to be read.
    """
    known = MANIFESTS | INDEXES
    offered = ((one.platform, one) for one in index.manifests if one.media_type in known)
    return nearest(offered, wanted)


def choose(index: Index, wanted: Platform) -> Descriptor:
    """Return the index's manifest for a platform: the nearest variant, then the first.

    Raises:
        NotInRegistry: there is none for that platform.
    """
    for one in candidates(index, wanted):
        return one
    raise not_for(index, wanted)


def not_for(index: Index, wanted: Platform) -> NotInRegistry:
    """Return the error that says for what there is an image instead."""
    return NotInRegistry(f"there is no image for {wanted}, but {_listed(index.manifests)}")


def _listed(manifests: Sequence[Descriptor]) -> str:
    names = {str(one.platform) for one in manifests if one.platform is not None}
    return "for " + ", ".join(sorted(names - {"unknown/unknown"})[:20]) if names else "none"
