"""Layers that have arrived: proved, applied, and their blobs taken in."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.disk.updating.local import LocalTree
from filesync.errors import ContentCorrupt, PeerError
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    put,
    subdirectory,
    with_entries,
)
from worker.blobs import Blob
from worker.layers import Applied, Groups, Stream, apply_layer, apply_tar, own_names
from worker.layers.ahead import ReadAhead
from worker.layers.rebuild import rebuilt_tar
from worker.layers.skeleton import Proved, read_skeleton, skeleton_limits_of
from worker.layers.source import Pieces, hashed
from worker.moving import chains, skeletons
from worker.store import Store
from worker.wire.orders import Layer, Link, LinkParts, RefInfo

FLAT: Final = 4096
"""Contents that go into one directory; more go into one for each first byte of their digests."""
_PIECE_BYTES: Final = 1 << 20
_PRIVATE: Final = Directory(0o700, 0, 0, 0, (), ())


def contents_tree(wanted: Mapping[Digest, int]) -> Manifest:
    """Return the tree that a layer's contents arrive as: a file each, named by its digest."""
    nodes = MemoryNodes()
    groups: dict[bytes, list[Entry]] = defaultdict(list)
    for digest, size in wanted.items():
        name = digest.hex().encode()
        group = name[:2] if len(wanted) > FLAT else b""
        groups[group].append(File(name, 0o600, 0, 0, 0, size, digest))
    root = groups.pop(b"", [])
    for name, files in groups.items():
        node = with_entries(_PRIVATE, files)
        root.append(subdirectory(nodes, name, put(nodes, node)))
    return Manifest(put(nodes, with_entries(_PRIVATE, root)), nodes)


def apply_held(store: Store, link: Link) -> RefInfo:
    """Apply a layer whose blob is in the store. Blocks."""
    ref = link.ref
    return chains.apply_blob(store, link.layer, ref.parent, ref.keys, known=ref)


def apply_parts(
    store: Store, link: Link, parts: LinkParts, trees: Sequence[LocalTree], staging: Path
) -> RefInfo:
    """Put the tar together and apply it as it comes; remember its skeleton. Blocks.

    The contents are in ``trees``, one of which is ``staging``.

    Raises:
        ContentGone: one is not; the others stay.
    """
    limits = skeleton_limits_of(parts.skeleton.size)

    def unpack(root: Path, groups: Groups) -> Applied:
        proved: Proved = {}
        with store.blobs.open(parts.skeleton.digest) as stream:
            tar = rebuilt_tar(read_skeleton(stream, limits=limits), trees, proved=proved)
            # Two threads: to read files takes longer than to hash them, and than to write them.
            with ReadAhead(tar) as pieces:
                own = own_names(link.layer)
                return apply_tar(pieces, root, without=own, groups=groups, proved=proved)

    ref = link.ref
    try:
        info = chains.apply(store, link.layer, ref.parent, ref.keys, unpack, known=ref)
    except PeerError:
        store.drop_arriving(staging)
        raise
    skeletons.remember(store, link.layer, parts.skeleton)
    store.drop_arriving(staging)
    return info


def apply_coming(store: Store, link: Link, coming: Stream) -> RefInfo:
    """Apply a blob while it comes, proving it meanwhile. Blocks.

    Raises:
        CameOtherwise: what ``coming`` raises.
        ContentCorrupt, ImageMalformed, BadLayer: it is not the blob, or not that layer.
    """
    ref = link.ref
    with skeletons.noting(store) as noted:

        def unpack(root: Path, groups: Groups) -> Applied:
            sha256, own = hashlib.sha256(), own_names(link.layer)
            # A thread for this hash alone: what decompresses and takes the other has more to do.
            with ReadAhead(hashed(_pieces(coming), sha256)) as pieces:
                stream = Pieces(pieces)
                applied = apply_layer(
                    stream, root, skeleton=noted.writer, without=own, groups=groups
                )
                while stream.read():
                    pass  # what follows the layer is of the blob too
            _prove(link.layer, sha256.hexdigest())
            noted.keep(link.layer, {digest for _, digest in applied.hints.values()})
            return applied

        return chains.apply(store, link.layer, ref.parent, ref.keys, unpack, known=ref)


def take_in(store: Store, blob: Blob, staging: Path) -> None:
    """Take a blob in that is proved and whole in ``staging``. Blocks."""
    store.blobs.adopt(staging / blob.digest.removeprefix("sha256:"), blob)
    store.drop_arriving(staging)


def adopt(store: Store, layer: Layer, staging: Path, blob: Blob) -> None:
    """Take a blob in whose bytes the engine has proved by their BLAKE3 only. Blocks."""
    path = staging / blob.digest.removeprefix("sha256:")
    with path.open("rb") as file:
        _prove(layer, hashlib.file_digest(file, "sha256").hexdigest())
    store.blobs.adopt(path, blob)


def _pieces(stream: Stream) -> Iterator[bytes]:
    while piece := stream.read(_PIECE_BYTES):
        yield piece


def _prove(layer: Layer, sha256: str) -> None:
    if layer.digest != f"sha256:{sha256}":
        raise ContentCorrupt(f"a blob should be {layer.digest} and is sha256:{sha256}")
