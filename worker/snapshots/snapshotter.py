"""Snapshots: trees on this worker's disk, each made on top of a committed one.

State is one directory: ``snapshots.db`` has a row for each snapshot and ``trees/<number>`` what
there is of it. The order of writes, and what a kill leaves after each:

* ``prepare`` adds an ``active`` row, makes the directory, mounts. Left: an active snapshot.
* ``commit`` unmounts, writes the manifest's nodes, turns the row to ``committed``. Left: until
  the row has turned an active snapshot, from then on a committed one.
* ``remove`` and ``discard`` turn the row to ``removing``, rename the directory, remove it, delete
  the row. Left: a snapshot being removed.
* ``view`` mounts and writes nothing. Left: a mount.

Opening unmounts everything, finishes removals and discards what was active; committed snapshots
are untouched by all of this. A crash of the machine is different, since nothing is flushed file
by file: ``sync`` flushes all at once and notes it, as a worker does now and then and when it ends,
and opening in a later run of the machine drops committed snapshots of which that was not noted,
with their children.
"""

import logging
import re
import secrets
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from filesync.digest import Digest
from filesync.disk.removing import remove_path
from filesync.disk.statedir import boot_id
from filesync.errors import LocalError, StoreError
from filesync.manifest import Manifest, Nodes, empty_manifest
from worker.snapshots.driver import Driver
from worker.snapshots.errors import SnapshotInUse, SnapshotMissing
from worker.snapshots.mounts import flush
from worker.snapshots.records import Record, Records, State
from worker.snapshots.upper import Hints

log = logging.getLogger(__name__)

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NO_HINTS: Final[Hints] = {}


class Active(NamedTuple):
    """A tree that may be written to, at ``path``, until it is committed or discarded."""

    id: str
    path: Path


class Committed(NamedTuple):
    """A tree that changes no more.

    Attributes:
        parent: id of the snapshot that it was made on.
        tree: digest of its manifest.
        bytes: what it takes on disk beside its parent, about.
    """

    id: str
    parent: str | None
    tree: Digest
    bytes: int


class View:
    """A whole tree to be read at ``path`` until ``close``, or the end of the block."""

    def __init__(self, snapshotter: "Snapshotter", id: str, path: Path) -> None:
        self._snapshotter = snapshotter
        self._open = True
        self.id = id
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the tree. Idempotent."""
        if self._open:
            self._open = False
            self._snapshotter.end_view(self.id)


class Snapshotter:
    """The snapshots below one directory, which belongs to one process. Thread-safe; blocks."""

    def __init__(self, directory: Path, nodes: Nodes, driver: Driver, records: Records) -> None:
        """Take over the state; ``open_snapshotter`` brings the parts together.

        Raises:
            StoreError: what a killed process left cannot be cleared away.
        """
        self.directory = directory
        self._nodes = nodes
        self._driver = driver
        self._records = records
        self._boot = boot_id()
        self._lock = threading.RLock()
        self._busy: set[str] = set()
        self._views: Counter[str] = Counter()
        self._shown: dict[str, Path] = {}
        self._sweep()

    @property
    def kind(self) -> str:
        """``overlay`` or ``copy``."""
        return self._driver.kind

    # --- making ---------------------------------------------------------------------------

    def prepare(self, parent: str | None, *, id: str | None = None) -> Active:
        """Return a writable tree that begins as ``parent``, or as an empty directory.

        Raises:
            SnapshotMissing: no ``parent`` is committed here.
            SnapshotInUse: ``id`` is taken.
            StoreError: this disk; nothing is left of the attempt.
        """
        id = id if id is not None else secrets.token_hex(16)
        if not _ID.fullmatch(id):
            raise LocalError(f"{id!r} cannot be the id of a snapshot")
        with self._lock:
            below = self._committed(parent) if parent is not None else None
            number = self._records.add(id, below.number if below else None)
            if number is None:
                raise SnapshotInUse(f"there is a snapshot {id} already")
            self._busy.add(id)
        try:
            chain = self._records.chain(below.number) if below else []
            path = self._driver.make(number, self._base(below), chain)
        except BaseException:
            self._destroy(number)
            raise
        finally:
            self._busy.discard(id)
        return Active(id, path)

    def commit(self, active: Active, *, hints: Hints = _NO_HINTS) -> Committed:
        """End the writing to a tree and keep it, with its manifest.

        ``hints`` gives size and content digest of files that the caller has just written and
        verified itself; those are not read. Its path is no more to be used. After an error
        the tree can only be committed again, or discarded.

        Raises:
            SnapshotInUse: a process still has files of it open.
            SourceChanged, StoreError: something in it cannot be read.
        """
        record = self._take(active.id)
        try:
            sealed = self._driver.seal(record.number, self._base_of(record), hints)
            with self._lock:
                self._records.commit(
                    record.number, tree=sealed.tree, bytes=sealed.bytes, boot=self._boot
                )
        finally:
            self._busy.discard(active.id)
        return self.get(active.id)

    def discard(self, active: Active) -> None:
        """Throw a tree away, in use or not; fine if it is not there."""
        with suppress(SnapshotMissing):
            record = self._take(active.id)
            try:
                self._destroy(record.number)
            finally:
                self._busy.discard(active.id)

    # --- using ----------------------------------------------------------------------------

    def get(self, id: str) -> Committed:
        """Return the committed snapshot ``id``.

        Raises:
            SnapshotMissing: it is not here.
        """
        return _committed(self._committed(id))

    def depth(self, id: str) -> int:
        """Return how many snapshots stand one on the other from a committed one down, it included.

        Raises:
            SnapshotMissing: it is not here.
        """
        return len(self._records.chain(self._committed(id).number))

    def list(self) -> list[Committed]:
        """Return all committed snapshots, parents first."""
        rows = self._records.all()
        return [_committed(row) for row in rows if row.state is State.COMMITTED]

    def in_use(self) -> set[str]:
        """Return the snapshots that are being read, or that a tree is being made on."""
        with self._lock:
            reading = {id for id, count in self._views.items() if count > 0}
            made_on = {
                row.parent_id
                for row in self._records.all()
                if row.state is State.ACTIVE and row.parent_id is not None
            }
            return reading | made_on

    def view(self, id: str) -> View:
        """Return the whole tree of a committed snapshot, to be read.

        Raises:
            SnapshotMissing: it is not here.
            StoreError: it cannot be mounted.
        """
        with self._lock:
            record = self._committed(id)
            if not self._views[id]:
                self._shown[id] = self._driver.show(self._records.chain(record.number))
            self._views[id] += 1
            return View(self, id, self._shown[id])

    def end_view(self, id: str) -> None:
        """Count one view less; for ``View``."""
        with self._lock:
            self._views[id] -= 1
            if self._views[id] > 0:
                return
            del self._views[id]
            if self._shown.pop(id, None) is not None and (record := self._records.find(id)):
                self._driver.hide(record.number)

    def remove(self, id: str) -> None:
        """Remove a committed snapshot; fine if it is not here.

        Raises:
            SnapshotInUse: it has children or views.
            StoreError: this disk. It is gone all the same, and the rest goes at the next start.
        """
        with self._lock:
            record = self._records.find(id)
            if record is None or record.state is not State.COMMITTED:
                return
            if self._views[id] or self._records.has_children(record.number):
                raise SnapshotInUse(f"snapshot {id} has children or is being read")
            self._records.doom([record.number])
        self._destroy(record.number)

    # --- start and end --------------------------------------------------------------------

    def sync(self) -> None:
        """Flush to disk all that was committed, so that it outlives the end of the machine.

        Blocks, but nobody else: what is committed meanwhile is for the next time.

        Raises:
            StoreError: the disk fails.
        """
        if numbers := self._records.unflushed(self._boot):
            try:
                flush(self.directory)
            except OSError as exc:
                raise StoreError(f"{self.directory} cannot be flushed: {exc}") from exc
            self._records.flushed(numbers)

    def close(self) -> None:
        """End all views and close the state. Active snapshots go at the next start."""
        with self._lock:
            for id in [*self._shown]:
                self._views[id] = 1
                self.end_view(id)
            self._records.close()

    def _sweep(self) -> None:
        self._driver.open()
        rows = self._records.all()
        doomed: set[int] = set()
        for row in rows:  # parents come first
            if row.parent in doomed or self._is_lost(row):
                doomed.add(row.number)
                if row.state is State.COMMITTED:
                    log.warning("snapshot dropped id=%s reason=not-all-on-disk", row.id)
        self._records.doom(doomed)
        keep = {str(row.number) for row in rows if row.number not in doomed} | {"0"}
        for left in [path.name for path in self._trees.iterdir() if path.name not in keep]:
            remove_path(self._trees / left)
        for number in sorted(doomed, reverse=True):  # children before parents
            self._records.delete(number)

    def _is_lost(self, row: Record) -> bool:
        return (
            row.state is not State.COMMITTED
            or row.tree not in self._nodes
            or row.boot not in ("", self._boot)
            or not (self._trees / str(row.number) / "fs").is_dir()
        )

    # --- inside ---------------------------------------------------------------------------

    @property
    def _trees(self) -> Path:
        return self.directory / "trees"

    def _committed(self, id: str) -> Record:
        record = self._records.find(id)
        if record is None or record.state is not State.COMMITTED:
            raise SnapshotMissing(f"there is no snapshot {id} on this worker")
        return record

    def _take(self, id: str) -> Record:
        """Claim an active snapshot for this thread."""
        with self._lock:
            record = self._records.find(id)
            if record is None or record.state is not State.ACTIVE:
                raise SnapshotMissing(f"there is no active snapshot {id}")
            if id in self._busy:
                raise SnapshotInUse(f"snapshot {id} is being committed or discarded")
            self._busy.add(id)
        return record

    def _base(self, parent: Record | None) -> Manifest:
        if parent is None or parent.tree is None:
            return empty_manifest(self._nodes)
        return Manifest(parent.tree, self._nodes)

    def _base_of(self, record: Record) -> Manifest:
        parent = record.parent_id
        return self._base(self._committed(parent) if parent is not None else None)

    def _destroy(self, number: int) -> None:
        """Remove what is active or doomed. Writes nothing before it makes room: the disk may be full."""
        self._driver.release(number)
        # A crash of the machine can lose the row's turn and keep what was unlinked. Renamed
        # first, a tree that lacks something is not found under its number.
        gone = f"gone-{number}"
        with suppress(FileNotFoundError):
            (self._trees / str(number)).rename(self._trees / gone)
            remove_path(self._trees / gone)
        self._records.delete(number)


def _committed(record: Record) -> Committed:
    if record.tree is None:
        raise LocalError(f"snapshot {record.id} is committed and has no manifest")
    return Committed(record.id, record.parent_id, record.tree, record.bytes)
