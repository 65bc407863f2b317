"""Keeping what an op or a layer made: a committed snapshot, known as a ref."""

import time
from collections.abc import Sequence

from filesync.digest import Digest
from filesync.manifest import Manifest
from worker.layers import tar_size
from worker.snapshots import Active, Hints
from worker.store.refs import ref_name
from worker.store.store import Store
from worker.wire.orders import RefInfo


def keep(
    store: Store,
    active: Active,
    hints: Hints,
    parent: Digest | None,
    keys: Sequence[Digest],
    *,
    tar_bytes: int | None = None,
    imported: str = "",
) -> RefInfo:
    """Commit a snapshot on top of ``parent`` and keep it as a ref. Blocks.

    ``tar_bytes`` is the size of its layer's tar, where it came as one, and ``imported`` the digest
    of that layer if it is an image's. After an error the snapshot is gone.
    """
    try:
        committed = store.snapshots.commit(active, hints=hints)
    except BaseException:
        store.snapshots.discard(active)
        raise
    try:
        if tar_bytes is None:
            tar_bytes = _tar_bytes(store, parent, committed.tree)
        info = RefInfo(
            ref=ref_name(parent, committed.tree, imported),
            tree=committed.tree,
            parent=parent,
            keys=tuple(keys),
            created_s=time.time(),
            tar_size=tar_bytes,
        )
        held = store.refs.add(info, committed.id)
    except BaseException:
        store.snapshots.remove(committed.id)
        raise
    if held.snapshot != committed.id:
        # The same tree on the same parent was here already: one snapshot is enough.
        store.snapshots.remove(committed.id)
    return held.info


def _tar_bytes(store: Store, parent: Digest | None, tree: Digest) -> int:
    before = None if parent is None else Manifest(store.refs.get(parent).info.tree, store.nodes)
    return tar_size(before, Manifest(tree, store.nodes))
