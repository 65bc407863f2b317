"""Layer chains: making a ref's blobs once, and making refs out of layers.

A ref's layer is written once, by the worker that built it, and recorded; it is the same on every
worker that the ref comes to (``arrivals``), so each exports the same image.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.manifest import EMPTY_DIRECTORY, File, Manifest, put, with_entries
from worker.blobs import Blob, BlobMissing
from worker.layers import (
    MEDIA_TYPES,
    USUAL_FORM,
    Applied,
    Groups,
    LayerForm,
    Limits,
    apply_layer,
    make_layer,
    naming_layer,
    own_names,
    recompress,
)
from worker.layers.skeleton import SkeletonWriter
from worker.moving import skeletons
from worker.moving.errors import ImageMalformed
from worker.snapshots import Active
from worker.store import Store
from worker.store.refs import HeldRef, ref_name
from worker.store.results import keep
from worker.wire.images import Compression
from worker.wire.orders import Layer, RefInfo

log = logging.getLogger(__name__)

_NO_STRANGERS: Final = Limits()


# --- making blobs -----------------------------------------------------------------------------


def held_layers(store: Store, find: Callable[[], list[Layer]], holds: ExitStack) -> list[Layer]:
    """Return the layers that ``find`` finds or makes; their blobs stay while ``holds`` is open. Blocks.

    What nobody held yet may have been pruned meanwhile: it is found, or made, once more.
    """
    layers: list[Layer] = []
    while (found := find()) != layers:
        layers = found
        holds.enter_context(store.blobs.holding([layer.digest for layer in layers]))
    return layers


def make_layers(
    store: Store, refs: Sequence[Digest], form: LayerForm, holds: ExitStack
) -> list[Layer]:
    """Return the layer of each ref, its blob in the store: made now if it never was. Blocks.

    With ``form`` those that this project made are in that form. They stay while ``holds`` is open.

    Raises:
        RefMissing: a ref is not here.
        BlobMissing: a layer came here without its blob, which cannot be made again.
    """

    def find() -> list[Layer]:
        return [layer_as(store, store.refs.get(ref), form) for ref in refs]

    return held_layers(store, find, holds)


def layer_of(store: Store, held: HeldRef) -> Layer:
    """Return a ref's own layer, its blob in the store: made now if it never was. Blocks.

    Raises:
        BlobMissing: the layer came here without its blob, which cannot be made again.
    """
    known = held.info.layer
    if known is None:
        return _make_first(store, held)
    if known.digest not in store.blobs:
        if skeletons.find(store, known) is None and not known.imported:
            _remake(store, held, known)
        else:
            skeletons.restore_blob(store, held, known)
    return known


def is_made(store: Store, held: HeldRef, *, blobs_only: bool) -> bool:
    """Say whether a ref's layer can be given without making it. Blocks.

    With ``blobs_only`` its skeleton will not do.
    """
    known = held.info.layer
    if known is None:
        return False
    if known.digest in store.blobs:
        return True
    return not blobs_only and skeletons.find(store, known) is not None


def movable_layer_of(store: Store, held: HeldRef) -> Layer:
    """Return the same, where its skeleton will do as well as its blob. Blocks."""
    known = held.info.layer
    if known is not None and skeletons.find(store, known) is not None:
        return known
    return layer_of(store, held)


def _make_first(store: Store, held: HeldRef) -> Layer:
    with skeletons.noting(store) as noted:
        made = _make(store, held, USUAL_FORM, noted.writer)
        noted.keep(made)
    store.refs.set_layer(held.info.ref, made)
    return made


def _remake(store: Store, held: HeldRef, known: Layer) -> None:
    made = _make(store, held, USUAL_FORM)
    if made.digest != known.digest:
        raise BlobMissing(
            f"the layer {known.digest} of a result is gone from this worker and cannot be made again"
        )


def _make(
    store: Store, held: HeldRef, form: LayerForm, skeleton: SkeletonWriter | None = None
) -> Layer:
    parent = held.info.parent
    before = None if parent is None else Manifest(store.refs.get(parent).info.tree, store.nodes)
    after = Manifest(held.info.tree, store.nodes)
    with store.view_of(held) as view:
        return make_layer(before, after, view.path, store.blobs, form, skeleton)


def layer_as(store: Store, held: HeldRef, form: LayerForm) -> Layer:
    """Return a ref's layer for an image, in the form asked for if this project made it. Blocks.

    The recorded layer stays what identifies the ref; another form of it is made once and
    remembered beside it. A layer that was imported is never made anew.
    """
    known = held.info.layer
    # The blob of a layer that came without it is made, or fetched, only if it is needed.
    if known is not None and (other := _known_form(store, known, form)) is not None:
        return other
    layer = layer_of(store, held)
    if not _is_ours(layer) or form == USUAL_FORM:
        return layer
    if form.is_other_tar:
        made = _make(store, held, form)
    else:
        made = recompress(layer, store.blobs, form.compression, form.level)
    store.refs.add_variant(layer.digest, str(form), made)
    return made


def _is_ours(layer: Layer) -> bool:
    return layer.media_type == MEDIA_TYPES[Compression.ZSTD] and not layer.imported


def _known_form(store: Store, layer: Layer, form: LayerForm) -> Layer | None:
    if form == USUAL_FORM or not _is_ours(layer):
        return None
    known = store.refs.variant(layer.digest, str(form))
    return known if known is not None and known.digest in store.blobs else None


def blob_tree(store: Store, layers: Sequence[Layer]) -> Manifest:
    """Return the tree whose files are the blobs of ``layers``, each named by its hex."""
    blobs = {layer.digest: store.blobs.find(layer.digest) for layer in layers}
    files = [_blob_file(blob) for blob in blobs.values() if blob is not None]
    return Manifest(put(store.nodes, with_entries(EMPTY_DIRECTORY, files)), store.nodes)


def _blob_file(blob: Blob) -> File:
    return File(_hex(blob.digest).encode(), 0o644, 0, 0, 0, blob.size, blob.blake3)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


# --- applying ---------------------------------------------------------------------------------


def apply(
    store: Store,
    layer: Layer,
    parent: Digest | None,
    keys: Sequence[Digest],
    unpack: Callable[[Path, Groups], Applied],
    *,
    known: RefInfo | None,
) -> RefInfo:
    """Make the ref that ``layer`` gives on top of ``parent``, and record its layer. Blocks.

    ``unpack`` does to the directory that it is given, whose hard links it is told, what the
    layer says. ``known`` is the ref that it should give, as another worker has it.

    Raises:
        ImageMalformed: that was another layer, or does not give the tree of ``known``. Nothing is kept.
    """
    active, applied = _unpacked(store, layer, parent, unpack)
    here = store.refs.snapshots()
    # Before layers were part of the names of what they made, a ref was named without.
    is_named_so = layer.imported and (
        known is None or known.ref != ref_name(parent, known.tree)
    )
    info = keep(
        store,
        active,
        applied.hints,
        parent,
        keys,
        tar_bytes=applied.size,
        imported=layer.digest if is_named_so else "",
    )
    if known is not None and info.tree != known.tree:
        if store.refs.get(info.ref).snapshot not in here:
            _remove(store, info.ref)
        raise ImageMalformed(f"layer {layer.digest} does not give the tree that it should")
    store.refs.set_layer(info.ref, layer)
    return store.refs.get(info.ref).info


def _unpacked(
    store: Store,
    layer: Layer,
    parent: Digest | None,
    unpack: Callable[[Path, Groups], Applied],
) -> tuple[Active, Applied]:
    """Return a snapshot on top of ``parent`` in which ``layer`` was unpacked, and proved."""
    below = None if parent is None else store.refs.get(parent)
    groups = Groups(None if below is None else Manifest(below.info.tree, store.nodes))
    active = store.prepare_on(below)
    try:
        with naming_layer(layer.digest):
            applied = unpack(active.path, groups)
        if applied.diff_id != layer.diff_id:
            raise ImageMalformed(
                f"layer {layer.digest} does not have the diffID {layer.diff_id}"
            )
    except BaseException:
        store.snapshots.discard(active)
        raise
    if applied.not_kept:
        lacking = ",".join(
            f"{kind}:{count}" for kind, count in sorted(applied.not_kept.items())
        )
        log.warning(
            "not all of a layer can be kept here layer=%s lacking=%s", layer.digest, lacking
        )
    return active, applied


def _remove(store: Store, ref: Digest) -> None:
    snapshot = store.refs.get(ref).snapshot
    store.refs.remove(ref)
    store.snapshots.remove(snapshot)


def apply_blob(
    store: Store,
    layer: Layer,
    parent: Digest | None,
    keys: Sequence[Digest],
    *,
    limits: Limits = _NO_STRANGERS,
    known: RefInfo | None = None,
) -> RefInfo:
    """Do that with the layer's blob, which is in the store; note its skeleton. Blocks."""
    with skeletons.noting(store) as noted:

        def unpack(root: Path, groups: Groups) -> Applied:
            with store.blobs.open(layer.digest) as blob:
                applied = apply_layer(
                    blob,
                    root,
                    limits=limits,
                    skeleton=noted.writer,
                    without=own_names(layer),
                    groups=groups,
                )
            noted.keep(layer, {digest for _, digest in applied.hints.values()})
            return applied

        return apply(store, layer, parent, keys, unpack, known=known)
