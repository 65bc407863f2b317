"""What a scan finds new, for who wants it before the scan is over: directories, and large files."""

import threading
from collections import deque
from functools import partial
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.scanning.watcher import Told
from filesync.early import EARLY_BYTES, stand_in_of
from filesync.manifest import EMPTY_DIRECTORY, File, Manifest, Nodes, put, with_entries
from filesync.transfer.send.contents import GrowingContents, Listed
from filesync.transfer.send.recent import Recent

MOST_WAITING: Final = 8192
"""Those that are found while so many wait are not told of."""
MOST_PATH_BYTES: Final = 256
MOST_BEGUN: Final = 64
"""Large files of which nobody has been told: those of a directory are all begun at once, and read one after
another."""
NAMED_BYTES: Final = 48
"""A directory that has not grown by as much has no new file, or one in place of another."""


class Begun(NamedTuple):
    """A large file that is being read."""

    path: bytes
    size: int
    mtime_ns: int


class Fresh:
    """Directories that were not noted at the last scan, or have more names, and files that are read.

    For all threads.

    None that has, or leads to, one of several names of a file.

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
        self._begun: list[Begun] = []
        self._stand_ins: set[Digest] = set()
        self._ended: dict[Digest, Digest] = {}

    def __bool__(self) -> bool:
        """Say whether there is something to take."""
        return bool(self._waiting or self._begun)

    def note(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        """Take note of a directory, of which the node was ``old``, after those in it."""
        if old is not None and len(self._nodes.read(tree)) < len(old) + NAMED_BYTES:
            return
        if self._nodes.summary(tree).links:
            return  # its node is another once all names of its files are known
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

    def begin(self, path: bytes, size: int, mtime_ns: int) -> Told | None:
        """Take note of a file that is to be read, and return what is told what it holds.

        None if it is not worth it, and if another is offered by what would stand for it: nobody could tell which of them he gets.
        """
        if size < EARLY_BYTES or len(path) > MOST_PATH_BYTES:
            return None
        early = stand_in_of(size, mtime_ns)
        with self._lock:
            if len(self._begun) >= MOST_BEGUN or early in self._stand_ins:
                return None
            self._begun.append(Begun(path, size, mtime_ns))
            self._stand_ins.add(early)
        return partial(self._end, early)

    def _end(self, early: Digest, digest: Digest) -> None:
        """Take note of what a file holds that was begun as ``early``.

        One that is like another is offered no more: it will be a copy.
        """
        with self._lock:
            if self._ended.setdefault(digest, early) != early:
                self.contents.leave_out(early)

    def take_begun(self) -> list[Begun]:
        """Return the files that were begun since the last time; they are offered by their stand-in from now on."""
        with self._lock:
            begun, self._begun = self._begun, []
        if begun:
            self.contents.add(map(self._listed, begun))
        return begun

    def _listed(self, one: Begun) -> Listed:
        """List a file by its stand-in, in a directory of its own."""
        path, size, mtime_ns = one
        above, _, name = path.rpartition(b"/")
        file = File(name, 0o600, 0, 0, mtime_ns, size, stand_in_of(size, mtime_ns))
        listed = with_entries(EMPTY_DIRECTORY, [file])
        return Listed(above, put(self._nodes, listed), listed.entries)
