"""Layer chains: making a ref's blobs once, and making refs out of blobs that came from elsewhere.

A ref's layer is written once, by the worker that built it, and recorded. A worker that pulls a
chain gets those very blobs, proves each by its digest and diffID, and proves the tree that it
makes of them by the ref's tree digest; so its replica is equal and exports the same image.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from filesync.digest import Digest
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import PeerError, StoreError
from filesync.manifest import EMPTY_DIRECTORY, File, Manifest, put, with_entries
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.replica import Replica
from filesync.transfer.stats import Progress, PullStats
from worker.blobs import Blob
from worker.layers import (
    MEDIA_TYPES,
    LayerForm,
    Limits,
    apply_layer,
    limits_of,
    make_layer,
    recompress,
)
from worker.refs import HeldRef
from worker.registry import LAYER_TYPES
from worker.results import keep
from worker.store import Store, TreeView
from worker.wire import orders
from worker.wire.images import MAX_LAYERS, Compression
from worker.wire.ops import ImageOp
from worker.wire.orders import Layer, RefInfo

MAX_JSON_BYTES: Final = 4 << 20


class ImageMalformed(PeerError):
    """An image is not what its manifest says, or its manifest is no OCI image manifest."""

    code = "image-malformed"


# --- making blobs -----------------------------------------------------------------------------


def make_layers(store: Store, refs: Sequence[Digest]) -> list[Layer]:
    """Return the layer of each ref, making and recording those that are not made. Blocks.

    Raises:
        RefMissing: a ref is not here.
    """
    return [layer_of(store, store.refs.get(ref)) for ref in refs]


def layer_of(store: Store, held: HeldRef) -> Layer:
    """Return a ref's own layer, made now if it never was. Blocks."""
    known = held.info.layer
    if known is not None and known.digest in store.blobs:
        return known
    made = _make(store, held, LayerForm())
    if known is not None and made.digest != known.digest:
        raise StoreError(
            f"the layer {known.digest} of a result is gone from this worker and cannot be made again"
        )
    store.refs.set_layer(held.info.ref, made)
    return made


def _make(store: Store, held: HeldRef, form: LayerForm) -> Layer:
    parent = held.info.parent
    before = None if parent is None else Manifest(store.refs.get(parent).info.tree, store.nodes)
    after = Manifest(held.info.tree, store.nodes)
    with store.snapshots.view(held.snapshot) as view:
        return make_layer(before, after, view.path, store.blobs, form)


def layer_as(store: Store, held: HeldRef, form: LayerForm) -> Layer:
    """Return a ref's layer for an image, in the form asked for if this project made it. Blocks.

    The recorded layer stays what identifies the ref; another form of it is made once and
    remembered beside it. A layer that was imported is never made anew.
    """
    layer = layer_of(store, held)
    is_ours = layer.media_type == MEDIA_TYPES[Compression.ZSTD] and not layer.imported
    if not is_ours or form == LayerForm():
        return layer
    known = store.refs.variant(layer.digest, str(form))
    if known is not None and known.digest in store.blobs:
        return known
    if form.newest_s is None:
        made = recompress(layer, store.blobs, form.compression, form.level)
    else:
        made = _make(store, held, form)
    store.refs.add_variant(layer.digest, str(form), made)
    return made


def blob_tree(store: Store, layers: Sequence[Layer]) -> Manifest:
    """Return the tree whose files are the blobs of ``layers``, each named by its hex."""
    blobs = {layer.digest: store.blobs.find(layer.digest) for layer in layers}
    files = [_blob_file(blob) for blob in blobs.values() if blob is not None]
    return Manifest(put(store.nodes, with_entries(EMPTY_DIRECTORY, files)), store.nodes)


def _blob_file(blob: Blob) -> File:
    return File(_hex(blob.digest).encode(), 0o644, 0, 0, 0, blob.size, blob.blake3)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


# --- pulling a chain --------------------------------------------------------------------------


async def pull(
    store: Store,
    plane: DataPlane,
    order: orders.FromLayers,
    on_progress: Callable[[Progress], None],
) -> tuple[PullStats, tuple[RefInfo, ...]]:
    """Make every ref of a chain be here; return what moved and which refs are new.

    What is here already is not asked for. A pull that was cut goes on with the blobs that
    were verified.

    Raises:
        Unavailable: no replica has the blobs.
        ImageMalformed: a blob does not give the tree that it should.
    """
    missing = [link for link in order.chain if store.refs.find(link.ref.ref) is None]
    lacking = [link for link in missing if link.layer.digest not in store.blobs]
    stats = PullStats()
    if lacking:
        stats = await _fetch_blobs(store, plane, order, on_progress)
    pulled = [await asyncio.to_thread(_apply_link, store, link) for link in missing]
    return stats, tuple(pulled)


async def _fetch_blobs(
    store: Store,
    plane: DataPlane,
    order: orders.FromLayers,
    on_progress: Callable[[Progress], None],
) -> PullStats:
    staging = await asyncio.to_thread(store.make_work, "blobs")
    try:
        target = Manifest(order.blobs, store.nodes)
        update = TreeUpdate(staging, basis=None, target=target)
        replicas = [Replica(one.address or None, one.token) for one in order.replicas]
        stats = await plane.pull(update, replicas, tree=order.blobs, progress=on_progress)
        for link in order.chain:
            await asyncio.to_thread(
                _ingest, store, staging / _hex(link.layer.digest), link.layer
            )
        return stats
    finally:
        await asyncio.to_thread(store.drop_work, staging)


def _ingest(store: Store, path: Path, layer: Layer) -> None:
    if layer.digest in store.blobs or not path.exists():
        return
    with path.open("rb") as file:
        store.blobs.ingest(file, digest=layer.digest, max_size=layer.size)


def _apply_link(store: Store, link: orders.Link) -> RefInfo:
    info = _apply(store, link.layer, link.ref.parent, link.ref.keys)
    if info.tree != link.ref.tree:
        store.refs.remove(info.ref)
        raise ImageMalformed(f"layer {link.layer.digest} does not give the tree that it should")
    return info


def _apply(
    store: Store,
    layer: Layer,
    parent: Digest | None,
    keys: Sequence[Digest],
    *,
    limits: Limits | None = None,
) -> RefInfo:
    """Make the ref that ``layer`` gives on top of ``parent``, and record its layer."""
    below = None if parent is None else store.refs.get(parent).snapshot
    active = store.snapshots.prepare(below)
    try:
        with store.blobs.open(layer.digest) as blob:
            applied = apply_layer(blob, active.path, limits=limits or Limits())
        if applied.diff_id != layer.diff_id:
            raise ImageMalformed(
                f"layer {layer.digest} does not have the diffID {layer.diff_id}"
            )
    except BaseException:
        store.snapshots.discard(active)
        raise
    info = keep(store, active, applied.hints, parent, keys)
    store.refs.set_layer(info.ref, layer)
    return store.refs.get(info.ref).info


# --- images from an OCI layout ----------------------------------------------------------------


def import_image(
    store: Store, op: ImageOp, layout: TreeView, keys: Sequence[Digest]
) -> RefInfo:
    """Make the root filesystem of an image in a layout directory; return its top ref. Blocks.

    The image's own blobs become the layers of its refs, so what is built on it shares them.

    Raises:
        ImageMalformed: a blob is missing, or is not what its digest says.
    """
    blobs = layout.root / "blobs" / "sha256"
    manifest = _json(_take_blob(store, blobs, op.manifest, MAX_JSON_BYTES), store)
    config_digest = _text(manifest.get("config"), "digest")
    config = _json(_take_blob(store, blobs, config_digest, MAX_JSON_BYTES), store)
    diff_ids = (config.get("rootfs") or {}).get("diff_ids")
    descriptors = manifest.get("layers")
    if not isinstance(diff_ids, list) or not isinstance(descriptors, list):
        raise ImageMalformed("an image without a list of layers and their diff_ids")
    if len(diff_ids) != len(descriptors) or not 1 <= len(descriptors) <= MAX_LAYERS:
        raise ImageMalformed(f"{len(descriptors)} layers and {len(diff_ids)} diff_ids")
    layers: list[Layer] = []
    for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
        media_type = _text(descriptor, "mediaType")
        media_type = LAYER_TYPES.get(media_type, media_type)
        digest = _text(descriptor, "digest")
        layers.append(Layer(media_type, digest, 0, str(diff_id), imported=True))
    return import_layers(store, layers, blobs, keys)


def import_layers(
    store: Store, layers: Sequence[Layer], blobs: Path, keys: Sequence[Digest]
) -> RefInfo:
    """Make the refs that ``layers`` (lowest first) give; return the top one. Blocks.

    Blobs that the store lacks are files in ``blobs``, named by their hex. What is said of
    their sizes is not looked at.

    Raises:
        ImageMalformed, BadLayer: a blob is missing, or is not what its digest says.
    """
    parent: Digest | None = None
    info: RefInfo | None = None
    for told in layers:
        blob = _take_blob(store, blobs, told.digest, None)
        layer = msgspec.structs.replace(told, size=blob.size)
        info = store.refs.find_child(parent, layer) or _apply(
            store, layer, parent, (), limits=limits_of(blob.size)
        )
        parent = info.ref
    assert info is not None
    store.refs.add_keys(info.ref, keys)
    return store.refs.get(info.ref).info


def _take_blob(store: Store, blobs: Path, digest: str, max_size: int | None) -> Blob:
    found = store.blobs.find(digest)
    if found is not None:
        return found
    path = blobs / _hex(digest)
    try:
        with path.open("rb") as file:
            return store.blobs.ingest(file, digest=digest, max_size=max_size)
    except FileNotFoundError:
        raise ImageMalformed(f"the image layout lacks the blob {digest}") from None


def _json(blob: Blob, store: Store) -> dict[str, Any]:
    with store.blobs.open(blob.digest) as file:
        try:
            value = json.loads(file.read(MAX_JSON_BYTES))
        except ValueError as exc:
            raise ImageMalformed(f"{blob.digest} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise ImageMalformed(f"{blob.digest} is not a JSON object")
    return value


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise ImageMalformed(f"a descriptor without {key}")
    return found
