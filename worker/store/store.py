"""What one worker keeps on its disk, opened as one thing.

Below the state directory: ``nodes.db`` (manifests), ``refs.db`` (which ref is which snapshot),
``snapshots/``, ``blobs/`` (an OCI layout), ``sources/`` (ephemeral sources), ``exec/`` (caches and
scratch of commands), ``arriving/`` (what has come of layers that are not whole yet, by ref) and
``work/`` (exports on their way; empty at start).
"""

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

import msgspec

from filesync.digest import Digest
from filesync.disk.removing import remove_path
from filesync.errors import StoreError
from filesync.manifest import Manifest
from filesync.manifest.store import SqliteNodes
from filesync.sources import SourceLease, SourcePool
from worker.blobs import KEEP_PARTIAL_S, BlobStore
from worker.snapshots import (
    Active,
    SnapshotInUse,
    SnapshotMissing,
    Snapshotter,
    View,
    open_snapshotter,
)
from worker.store.refs import HeldRef, RefMissing, RefStore
from worker.wire.orders import SourceInfo

log = logging.getLogger(__name__)

MAX_SOURCES: Final = 32
MAX_SOURCE_BYTES: Final = 20 << 30


class TreeView(msgspec.Struct, frozen=True):
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
        self._arriving = state / "arriving"
        self._arriving_now: set[Path] = set()
        self._held: dict[Digest, tuple[SourceLease, Manifest]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

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
        self.remove_snapshots(here - self.refs.snapshots())
        remove_path(self.work)
        self.work.mkdir()
        self._arriving.mkdir(exist_ok=True, mode=0o700)
        for left in self._arriving.iterdir():
            if time.time() - left.stat().st_mtime > KEEP_PARTIAL_S:
                remove_path(left)

    def flush(self) -> None:
        """Have all results that are finished outlive the end of the machine. Blocks.

        What it cannot is said in the log: all of it is here as long as the machine runs.
        """
        try:
            self.snapshots.sync()
        except StoreError as exc:
            log.warning("results may not outlive the machine reason=%s", exc)

    def close(self) -> None:
        """Flush, and close every file. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self.flush()
        self.sources.close()
        self.refs.close()
        self.snapshots.close()
        self.nodes.close()

    def make_work(self, purpose: str) -> Path:
        """Return a new empty directory for what is on its way; drop it with ``drop_work``."""
        path = self.work / f"{purpose}-{secrets.token_hex(8)}"
        path.mkdir()
        return path

    def drop_work(self, path: Path) -> None:
        """Remove a directory of ``make_work``; what cannot be removed goes at the next start."""
        with contextlib.suppress(StoreError):
            remove_path(path)

    @contextlib.contextmanager
    def arriving(self, ref: Digest) -> Iterator[Path]:
        """Give the place, made or not, where a layer arrives: the same for the same ref.

        What is there outlives the block, and this process; no prune takes it meanwhile. One
        block of a ref at a time.
        """
        path = self._arriving / ref.hex()
        self._arriving_now.add(path)
        try:
            yield path
        finally:
            self._arriving_now.discard(path)

    def drop_arriving(self, path: Path) -> None:
        """Remove what has arrived, once it is of no more use."""
        with contextlib.suppress(StoreError):
            remove_path(path)

    def left_arriving(self) -> list[Path]:
        """Return where something has arrived that nobody goes on with now."""
        return [path for path in self._arriving.iterdir() if path not in self._arriving_now]

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
        held = self.refs.get(ref)
        self.refs.touch(ref, time.time())
        with self.view_of(held) as view:
            yield TreeView(Manifest(held.info.tree, self.nodes), view.path)

    def view_of(self, held: HeldRef) -> View:
        """Return the whole tree of a ref that was found here, to be read.

        Raises:
            RefMissing: it has been removed since.
        """
        try:
            return self.snapshots.view(held.snapshot)
        except SnapshotMissing as exc:
            raise RefMissing(held.info.ref) from exc

    def prepare_on(self, held: HeldRef | None) -> Active:
        """Return a writable tree on top of a ref that was found here; of None, an empty one.

        Raises:
            RefMissing: it has been removed since.
        """
        if held is None:
            return self.snapshots.prepare(None)
        try:
            return self.snapshots.prepare(held.snapshot)
        except SnapshotMissing as exc:
            raise RefMissing(held.info.ref) from exc

    def hold_source(self, ref: Digest, lease: SourceLease, manifest: Manifest) -> None:
        """Keep a source as the result ``ref`` until ``release_source``."""
        with self._lock:
            self._held[ref] = (lease, manifest)

    def held_sources(self) -> set[Digest]:
        """Return the sources that are kept as results now."""
        with self._lock:
            return set(self._held)

    def release_source(self, ref: Digest) -> None:
        """Give a source back to the pool. Unknown ones are fine."""
        with self._lock:
            held = self._held.pop(ref, None)
        if held is not None:
            held[0].release()

    def idle_sources(self) -> tuple[SourceInfo, ...]:
        """Return the sources that a sync may start from, newest first."""
        return tuple(SourceInfo(source.id, source.tree) for source in self.sources.idle())

    def remove_snapshots(self, snapshots: Iterable[str]) -> list[str]:
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
