"""Directories that a scan finds new, for who wants what is in them before the scan is over."""

import threading
from collections import deque
from typing import Final

from filesync.digest import Digest
from filesync.manifest import Manifest, Nodes
from filesync.transfer.send.contents import GrowingContents, Listed
from filesync.transfer.send.recent import Recent

MOST_WAITING: Final = 8192
"""Those that are found while so many wait are not told of."""
MOST_PATH_BYTES: Final = 256
NAMED_BYTES: Final = 48
"""A directory that has not grown by as much has no new file, or one in place of another."""


class Fresh:
    """Those that were not noted at the last scan, or have more names. For all threads.

    Attributes:
        contents: of the files in what was taken.
        recent: what was read of them.
    """

    recipes = None

    def __init__(
        self, nodes: Nodes, recent: Recent, contents: GrowingContents | None = None
    ) -> None:
        """``nodes`` has the nodes of what is noted."""
        self.contents = contents or GrowingContents(nodes)
        self.recent = recent
        self._nodes = nodes
        self._lock = threading.Lock()
        self._waiting: deque[tuple[bytes, Digest]] = deque()

    def __bool__(self) -> bool:
        """Say whether there is something to take."""
        return bool(self._waiting)

    def note(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        """Take note of a directory, of which the node was ``old``, after those in it."""
        if old is not None and len(self._nodes.read(tree)) < len(old) + NAMED_BYTES:
            return
        with self._lock:
            if len(self._waiting) < MOST_WAITING and len(path) <= MOST_PATH_BYTES:
                self._waiting.append((path, tree))

    def take(self, most: int) -> list[tuple[bytes, Digest]]:
        """Return those that were noted since the last time, each after those in it; the first ``most``."""
        with self._lock:
            count = min(len(self._waiting), most)
            found = [self._waiting.popleft() for _ in range(count)]
        if found:
            self.contents.add(
                Listed(path, tree, Manifest(tree, self._nodes).root.entries)
                for path, tree in found
            )
        return found
