"""What can go wrong with snapshots, beside a failing disk."""

from filesync.errors import StoreError


class SnapshotMissing(StoreError):
    """No committed snapshot has this id here; pull or rebuild it."""

    code = "snapshot-missing"


class SnapshotInUse(StoreError):
    """It has children or views, is mounted somewhere, or its id is taken. Try later."""

    code = "snapshot-in-use"
