"""All that outlives an op on one worker: refs and their snapshots, blobs, leases."""

from worker.store.store import Store, TreeView

__all__ = ["Store", "TreeView"]
