"""Snapshots as plain directories, each a whole copy: for ordinary users and any file system."""

import time
from collections.abc import Sequence
from pathlib import Path

from filesync.disk.scanning.scan import scan
from filesync.disk.scanning.statcache import FINE_SLACK_NS, StatCache
from filesync.manifest import Manifest
from worker.snapshots.clone import clone_tree
from worker.snapshots.driver import Sealed
from worker.snapshots.upper import Hints


class CopyDriver:
    """``<number>/fs`` is the tree; ``<number>/stats`` what is known of it while it is written.

    A tree that is shown is the directory itself: that nobody writes there is up to its readers.
    """

    kind = "copy"

    def __init__(self, directory: Path) -> None:
        """Keep trees below ``directory``, which is there."""
        self._directory = directory

    def open(self) -> None:
        """Nothing is ever mounted."""

    def make(self, number: int, parent: Manifest, chain: Sequence[int]) -> Path:
        """Copy the parent; return when a change made from then on will show in a file's times."""
        root = self._tree(number)
        root.mkdir(parents=True, mode=0o700)
        source = self._tree(chain[0]) if chain else root
        with StatCache(self._stats(number)) as cache:
            clone_tree(parent, source, root, cache)
        if parent.summary.size:
            time.sleep(FINE_SLACK_NS / 1e9)
        return root

    def seal(self, number: int, parent: Manifest, hints: Hints) -> Sealed:
        """Scan the tree; files with the stat they had when they were copied are not read."""
        with StatCache(self._stats(number)) as cache:
            found = scan(self._tree(number), parent.nodes, cache=cache, hints=hints)
        for path in self._stats(number).parent.glob("stats*"):
            path.unlink()
        return Sealed(found.tree, parent.nodes.summary(found.tree).size)

    def show(self, chain: Sequence[int]) -> Path:
        """Return the directory itself."""
        return self._tree(chain[0])

    def hide(self, number: int) -> None:
        """Nothing was mounted."""

    def release(self, number: int) -> None:
        """Nothing was mounted."""

    def _tree(self, number: int) -> Path:
        return self._directory / str(number) / "fs"

    def _stats(self, number: int) -> Path:
        return self._directory / str(number) / "stats"
