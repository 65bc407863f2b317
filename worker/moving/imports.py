"""Images and chains that a client gives as files, made refs."""

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from filesync.digest import Digest
from worker.blobs import Blob
from worker.layers import limits_of
from worker.moving import chains
from worker.moving.errors import ImageMalformed
from worker.moving.given import GivenBlobs
from worker.store import Store, TreeView
from worker.wire.images import MAX_LAYERS, layer_type, seekable_annotations
from worker.wire.ops import ImageOp
from worker.wire.orders import Layer, RefInfo

MAX_JSON_BYTES: Final = 4 << 20


def import_image(
    store: Store, op: ImageOp, layout: TreeView, keys: Sequence[Digest]
) -> RefInfo:
    """Make the root filesystem of an image in a layout directory; return its top ref. Blocks.

    The image's own blobs become the layers of its refs, so what is built on it shares them.

    Raises:
        ImageMalformed: a blob is missing, or is not what its digest says.
    """
    blobs = GivenBlobs(layout, b"blobs/sha256")
    manifest = _json(store, blobs, op.manifest)
    config = _json(store, blobs, _text(manifest.get("config"), "digest"))
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    descriptors = manifest.get("layers")
    if not isinstance(diff_ids, list) or not isinstance(descriptors, list):
        raise ImageMalformed("an image without a list of layers and their diff_ids")
    if len(diff_ids) != len(descriptors) or not 1 <= len(descriptors) <= MAX_LAYERS:
        raise ImageMalformed(f"{len(descriptors)} layers and {len(diff_ids)} diff_ids")
    layers: list[Layer] = []
    for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
        said = _text(descriptor, "mediaType")
        if (media_type := layer_type(said)) is None:
            raise ImageMalformed(f"a layer of the unknown type {said}")
        digest = _text(descriptor, "digest")
        annotations = seekable_annotations(descriptor.get("annotations"))
        layers.append(Layer(media_type, digest, 0, str(diff_id), True, annotations))
    return import_layers(store, layers, blobs, keys)


def import_layers(
    store: Store, layers: Sequence[Layer], blobs: GivenBlobs, keys: Sequence[Digest]
) -> RefInfo:
    """Make the refs that ``layers`` (lowest first) give; return the top one. Blocks.

    Blobs that the store lacks are in ``blobs``. What is said of their sizes is not looked at.

    Raises:
        ImageMalformed, BadLayer: a blob is missing, or is not what its digest says.
    """
    parent: Digest | None = None
    info: RefInfo | None = None
    # One that is here may be what nothing needs so far.
    with store.blobs.holding([layer.digest for layer in layers]):
        for told in layers:
            blob = _take_blob(store, blobs, told.digest, None)
            layer = msgspec.structs.replace(told, size=blob.size)
            info = store.refs.find_child(parent, layer) or chains.apply_blob(
                store, layer, parent, (), limits=limits_of(blob.size)
            )
            parent = info.ref
    assert info is not None
    store.refs.add_keys(info.ref, keys)
    return store.refs.get(info.ref).info


def _take_blob(store: Store, blobs: GivenBlobs, digest: str, max_size: int | None) -> Blob:
    found = store.blobs.find(digest)
    if found is not None:
        return found
    with blobs.open(digest) as file:
        return store.blobs.ingest(file, digest=digest, max_size=max_size)


def _json(store: Store, blobs: GivenBlobs, digest: str) -> dict[str, Any]:
    with store.blobs.holding([digest]):
        _take_blob(store, blobs, digest, MAX_JSON_BYTES)
        with store.blobs.open(digest) as file:
            text = file.read(MAX_JSON_BYTES)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ImageMalformed(f"{digest} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ImageMalformed(f"{digest} is not a JSON object")
    return value


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise ImageMalformed(f"a descriptor without {key}")
    return found
