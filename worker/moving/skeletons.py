"""Skeletons of the layers that are here: noted when a layer is made or applied, and put to use.

A skeleton is a blob in the store like any other, remembered beside the layer it belongs to.
A layer may be here with its skeleton alone: its tree is a snapshot, and its blob is nowhere.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from filesync.digest import Digest
from filesync.disk.updating.local import LocalTree
from filesync.errors import ContentCorrupt, FilesyncError
from filesync.manifest import Manifest
from worker.blobs import BlobMissing, BlobWriter
from worker.layers import MEDIA_TYPES, compress
from worker.layers.rebuild import rebuilt_tar
from worker.layers.skeleton import MEDIA_TYPE, SkeletonWriter, read_skeleton
from worker.store import Store
from worker.store.refs import SKELETON, HeldRef
from worker.wire.images import Compression
from worker.wire.orders import Layer


class Noting:
    """A skeleton that is being written.

    Attributes:
        writer: is told the tar.
    """

    def __init__(self, store: Store, sink: BlobWriter) -> None:
        self._store = store
        self._sink = sink
        self.writer = SkeletonWriter(sink.write)

    def keep(self, layer: Layer, contents: Collection[Digest] | None = None) -> None:
        """Remember what was written as the skeleton of ``layer``.

        It is thrown away if it refers to what is not among ``contents``: a tar may have a file
        twice, and a content that is in no tree cannot be offered.
        """
        if contents is not None and not self.writer.contents.keys() <= set(contents):
            return
        self.writer.finish()
        blob = self._sink.finish()
        remember(self._store, layer, Layer(MEDIA_TYPE, blob.digest, blob.size, layer.diff_id))


@contextmanager
def noting(store: Store) -> Iterator[Noting]:
    """Give what writes a skeleton; one that is not kept leaves nothing behind."""
    with store.blobs.writer() as sink:
        yield Noting(store, sink)


def remember(store: Store, layer: Layer, skeleton: Layer) -> None:
    """Remember that a blob in the store is the skeleton of ``layer``."""
    store.refs.add_variant(layer.digest, SKELETON, skeleton)


def find(store: Store, layer: Layer) -> Layer | None:
    """Return the skeleton of ``layer``, or None where there is none."""
    known = store.refs.variant(layer.digest, SKELETON)
    return known if known is not None and known.digest in store.blobs else None


def restore_blob(store: Store, held: HeldRef, layer: Layer) -> None:
    """Make the blob of a layer that came without it, from its skeleton and its tree. Blocks.

    Raises:
        BlobMissing: what comes of it is not that blob, or there is no skeleton. Somebody else
            has the blob.
    """
    skeleton = find(store, layer)
    compression = _restorable(layer)
    if skeleton is None or compression is None:
        raise BlobMissing(f"the blob {layer.digest} of a result is not on this worker")
    tree = Manifest(held.info.tree, store.nodes)
    try:
        with (
            store.view_of(held) as view,
            store.blobs.open(skeleton.digest) as stream,
        ):
            tar = rebuilt_tar(read_skeleton(stream), [LocalTree(tree, view.path)])
            store.blobs.ingest(
                compress(tar, compression), digest=layer.digest, max_size=layer.size
            )
    except (ContentCorrupt, BlobMissing) as exc:
        raise BlobMissing(
            f"the blob {layer.digest} of a result is not on this worker, and cannot be made"
            " again to the same bytes"
        ) from exc
    except FilesyncError as exc:
        raise BlobMissing(f"the blob {layer.digest} cannot be made again: {exc}") from exc


def _restorable(layer: Layer) -> Compression | None:
    """Return the compression by which a layer's blob can be hoped to come out the same.

    Who imported it compressed it with another program; to try takes as long as to succeed.
    """
    if layer.media_type == MEDIA_TYPES[Compression.NONE]:
        return Compression.NONE
    if layer.media_type == MEDIA_TYPES[Compression.ZSTD] and not layer.imported:
        return Compression.ZSTD
    return None
