"""Nodes in memory that know how often they were read, for tests of work that is not done."""

from filesync.digest import Digest
from filesync.manifest import MemoryNodes


class CountingNodes(MemoryNodes):
    """Nodes that count how often they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, digest: Digest) -> bytes:
        """Return a node, as ``MemoryNodes``."""
        self.reads += 1
        return super().read(digest)
