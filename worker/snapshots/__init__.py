"""Snapshots: trees on a worker's disk, each on top of its parent."""

from worker.snapshots.choose import KINDS, open_snapshotter, overlay_fails
from worker.snapshots.errors import SnapshotInUse, SnapshotMissing
from worker.snapshots.snapshotter import Active, Committed, Snapshotter, View
from worker.snapshots.upper import Hints

__all__ = [
    "KINDS",
    "Active",
    "Committed",
    "Hints",
    "SnapshotInUse",
    "SnapshotMissing",
    "Snapshotter",
    "View",
    "open_snapshotter",
    "overlay_fails",
]
