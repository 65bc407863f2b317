"""What one worker keeps on its disk, opened as one thing.

Below the state directory: ``nodes.db`` (manifests), ``refs.db`` (which ref is which snapshot),
``snapshots/``, ``blobs/`` (an OCI layout), ``sources/`` (ephemeral sources), ``exec/`` (caches and
scratch of commands) and ``work/`` (exports and blobs on their way; empty at start).
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from filesync.digest import Digest
from filesync.disk.handles import open_root, remove_tree
from filesync.manifest import Manifest
from filesync.manifest.store import SqliteNodes
from filesync.sources import SourceLease, SourcePool
from worker.blobs import BlobStore
from worker.refs import RefStore
from worker.snapshots import SnapshotInUse, Snapshotter, open_snapshotter
from worker.wire.orders import SourceInfo, UsageRow

MAX_SOURCES: Final = 32
MAX_SOURCE_BYTES: Final = 20 << 30


@dataclass(frozen=True, slots=True)
class TreeView:
    """A whole tree, or a selected part of one, as a read-only directory."""

    manifest: Manifest
    root: Path


class Store:
    """Everything that outlives an op on one worker."""

    def __init__(self, state: Path, snapshots: Snapshotter, nodes: SqliteNodes) -> None:
        self.nodes = nodes
        self.snapshots = snapshots
        self.refs = RefStore(state / "refs.db")
        self.blobs = BlobStore(state / "blobs")
        self.sources = SourcePool(
            state / "sources", nodes, max_count=MAX_SOURCES, max_bytes=MAX_SOURCE_BYTES
        )
        self.work = state / "work"
        self.caches = state / "exec" / "caches"
        self._held: dict[Digest, tuple[SourceLease, Manifest]] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, state: Path, *, snapshotter: str | None = None) -> Self:
        """Open the store below ``state`` and clean up what a killed worker left.

        Raises:
            StoreError: the directory cannot be used; says what to do.
        """
        nodes = SqliteNodes(state / "nodes.db")
        snapshots = open_snapshotter(state / "snapshots", nodes, kind=snapshotter)
        store = cls(state, snapshots, nodes)
        store.recover()
        return store

    def recover(self) -> None:
        """Remove what has lost its other half: refs and snapshots; and work that was under way."""
        here = {snapshot.id for snapshot in self.snapshots.list()}
        for info in self.refs.infos():
            if self.refs.get(info.ref).snapshot not in here:
                self.refs.remove(info.ref)
        self._remove_snapshots(here - self.refs.snapshots())
        remove(self.work)
        self.work.mkdir()

    def close(self) -> None:
        """Close every file. Idempotent."""
        self.sources.close()
        self.refs.close()
        self.snapshots.close()
        self.nodes.close()

    # --- looking at trees ---------------------------------------------------------------------

    @contextlib.contextmanager
    def view(self, ref: Digest) -> Iterator[TreeView]:
        """Hold a ref or source in place and give its tree.

        Raises:
            RefMissing: it is not here.
        """
        with self._lock:
            held_source = self._held.get(ref)
        if held_source is not None:
            lease, manifest = held_source
            yield TreeView(manifest, lease.path)
            return
        with self.snapshots.view(self.refs.get(ref).snapshot) as view:
            yield TreeView(Manifest(self.refs.get(ref).info.tree, self.nodes), view.path)

    def hold_source(self, ref: Digest, lease: SourceLease, manifest: Manifest) -> None:
        """Keep a source as the result ``ref`` until ``release_source``."""
        with self._lock:
            self._held[ref] = (lease, manifest)

    def release_source(self, ref: Digest) -> None:
        """Give a source back to the pool. Unknown ones are fine."""
        with self._lock:
            held = self._held.pop(ref, None)
        if held is not None:
            held[0].release()

    def idle_sources(self) -> tuple[SourceInfo, ...]:
        """Return the sources that a sync may start from, newest first."""
        idle = sorted(self.sources.idle(), key=lambda source: -source.used_s)
        return tuple(SourceInfo(source.id, source.tree) for source in idle)

    # --- disk use -----------------------------------------------------------------------------

    def usage(self) -> tuple[UsageRow, ...]:
        """Return what takes how much disk."""
        infos = self.refs.infos()
        blobs = self.blobs.list()
        idle = self.sources.idle()
        caches = list(self.caches.iterdir()) if self.caches.is_dir() else []
        return (
            UsageRow("results", len(infos), sum(info.tar_size for info in infos)),
            UsageRow("blobs", len(blobs), sum(blob.size for blob in blobs)),
            UsageRow(
                "idle sources",
                len(idle),
                sum(self.nodes.summary(source.tree).size for source in idle),
            ),
            UsageRow("caches", len(caches), sum(map(tree_bytes, caches))),
        )

    def prune(self, *, sweep_nodes: bool) -> tuple[UsageRow, ...]:
        """Remove every result, blob and source that is not in use; return what that was.

        ``sweep_nodes`` removes the manifests that nothing needs any more too. It must be
        False while an op runs, whose inputs' manifests may have come before their trees.
        """
        before = self.usage()
        infos = self.refs.infos()
        for info in reversed(infos):
            held = self.refs.get(info.ref)
            # The ref goes first: a kill in between leaves a snapshot that start-up removes.
            self.refs.remove(info.ref)
            if self._remove_snapshots([held.snapshot]):
                self.refs.add(held.info, held.snapshot)
        kept_layers = {info.layer.digest for info in self.refs.infos() if info.layer}
        for blob in self.blobs.list():
            if blob.digest not in kept_layers:
                self.blobs.remove(blob.digest)
        self.sources.clear()
        if sweep_nodes:
            trees = [info.tree for info in self.refs.infos()]
            self.nodes.sweep([*trees, *self.sources.trees()])
        after = {row.kind: row for row in self.usage()}
        return tuple(
            UsageRow(
                row.kind, row.count - after[row.kind].count, row.size - after[row.kind].size
            )
            for row in before
            if row.kind != "caches"
        )

    def prune_caches(self) -> tuple[UsageRow, ...]:
        """Remove the directories behind cache mounts; return what that was."""
        caches = list(self.caches.iterdir()) if self.caches.is_dir() else []
        row = UsageRow("caches", len(caches), sum(map(tree_bytes, caches)))
        for cache in caches:
            remove(cache)
        return (row,)

    def _remove_snapshots(self, snapshots: Iterable[str]) -> list[str]:
        """Remove snapshots, children before the parents they stand on; return those in use."""
        left = list(snapshots)
        while True:
            blocked = [one for one in left if not self._is_removed(one)]
            if len(blocked) == len(left):
                return blocked
            left = blocked

    def _is_removed(self, snapshot: str) -> bool:
        try:
            self.snapshots.remove(snapshot)
        except SnapshotInUse:
            return False
        return True


def remove(path: Path) -> None:
    """Remove whatever is at ``path``, however deep; fine if nothing is."""
    parent = open_root(path.parent)
    try:
        remove_tree(parent, os.fsencode(path.name))
    finally:
        os.close(parent)


def tree_bytes(path: Path) -> int:
    """Return the bytes that the files below ``path`` take on disk."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total
