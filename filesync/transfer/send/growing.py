"""A tree that is offered while it is still being scanned.

The scan, in its thread, says which directories are done and what it has read; whoever gives the
tree away hands the directories on, in that order, and sends contents that need no second reading.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.scanning.watcher import Beside, Told, Watcher
from filesync.manifest import Manifest, Nodes
from filesync.transfer.send.contents import GrowingContents, Listed
from filesync.transfer.send.fresh import Fresh
from filesync.transfer.send.recent import RECENT_BYTES, Recent

if TYPE_CHECKING:
    from filesync.transfer.coding.recipecache import RecipeCache
    from filesync.transfer.send.comparisons import OnCut
    from filesync.transfer.send.copies import Copies
    from filesync.transfer.send.edits import Edited, Edits

HANDED_BYTES: Final = 160 << 10
"""Of the nodes that it pays to hand on at once: 2,000 names, some 20 ms of the scan of small files."""
HANDED_DIRECTORIES: Final = 1000
HANDED_CONTENT_BYTES: Final = 32 << 20
"""Of what is in them: half a second of the scan of large files, from a slow disk."""
MOST_HANDED_BYTES: Final = 512 << 10
"""Of what is handed on at once, but for the last directory: a pack has room for that beside the largest."""


class Handed(NamedTuple):
    """Directories that are done: path and node of each, after those in it.

    ``tree`` is the digest of the whole, with the last of them.
    """

    directories: Sequence[tuple[bytes, bytes]]
    tree: Digest | None


class GrowingTree(Watcher):
    """What a scan has done so far.

    Attributes:
        contents: of the directories that were handed on, or taken as fresh.
        fresh: directories that are new since the last scan.
        recent: what was read of them and of those to come.
    """

    def __init__(
        self,
        nodes: Nodes,
        on_done: Callable[[], None],
        caches: Path | None = None,
        *,
        recent_bytes: int = RECENT_BYTES,
        copies: "Copies | None" = None,
        on_cut: "OnCut | None" = None,
    ) -> None:
        """Begin.

        Args:
            nodes: has the nodes of what is done.
            on_done: called when there is more to ``take``, once until it is taken: by the scan's
                thread, or by the one that has taken some of it.
            caches: where recipes and marks stay from one scan to the next.
            recent_bytes: bound on ``recent``.
            copies: what is read is copied to these.
            on_cut: see ``Comparisons``.
        """
        self.contents = GrowingContents(nodes)
        self.recent = Recent(recent_bytes, copies)
        self.fresh = Fresh(nodes, self.recent, self.contents)
        self._on_done = on_done
        self._caches = caches
        self._on_cut = on_cut
        self._edits: Edits | None = None
        self._nodes = nodes
        self._lock = threading.Lock()
        self._done: deque[tuple[bytes, Digest, int]] = deque()
        self._done_bytes = 0
        self._done_content_bytes = 0  # of directories with what is below them
        self._tree: Digest | None = None
        self._is_told = False
        self._is_wanted = True

    # --- the scan's side ----------------------------------------------------------------------

    def directory_done(self, path: bytes, tree: Digest) -> None:
        """Take note of a directory, whose node is in the store."""
        if self._is_wanted:
            with self._lock:
                size = len(path) + len(self._nodes.read(tree))
                self._done.append((path, tree, size))
                self._done_bytes += size
                self._done_content_bytes += self._nodes.summary(tree).size
                # Each telling wakes a thread, that then takes turns with this one.
                tells = self.is_ready and not self._is_told
                self._is_told |= tells
            if tells:
                self._on_done()

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        """Take note of a directory that the other side may have as it was, or not at all."""
        if old is not None:
            self._noted_edits().directory_changed(path, old, tree)
        self.fresh.note(path, old, tree)

    def file_begun(self, path: bytes, size: int, mtime_ns: int) -> Told | None:
        """Take note of a large file that is being read."""
        told = self.fresh.begin(path, size, mtime_ns)
        if told is not None:
            self._on_done()
        return told

    def content_read(self, digest: Digest, content: bytes) -> None:
        """Take note of a small file's content."""
        self.recent.keep(digest, content)

    def beside(self, path: bytes, old: Digest, fd: int, size: int) -> Beside | None:
        """Have made of a file that has changed what will be wanted by who has the ``old`` one."""
        return self._noted_edits().beside(path, old, fd, size)

    def _noted_edits(self) -> "Edits":
        from filesync.transfer.send.comparisons import Comparisons
        from filesync.transfer.send.edits import Edits

        with self._lock:  # large files are read by threads of their own
            if self._edits is None:
                comparisons = Comparisons(self._caches, on_cut=self._on_cut)
                self._edits = Edits(self._caches, self.recent, comparisons)
            return self._edits

    def end(self, tree: Digest) -> None:
        """Take note that all directories are done, and of what the whole is."""
        if self._edits is not None:
            self._edits.end()
        with self._lock:
            self._tree = tree
        self._on_done()

    # --- the other side -----------------------------------------------------------------------

    def edits(self, there: Digest) -> "Edited":
        """Return what to tell who has the tree ``there``; ask when the scan has ended."""
        return self._noted_edits().told(self._nodes, there)

    def recent_to(self, there: Digest, *, comes_whole: bool) -> Recent:
        """Return what need not be read again for who has the tree ``there``; ask as for ``edits``.

        That is what has been copied, and where it ``comes_whole`` what has been read, too.
        """
        if not comes_whole:
            return Recent(0, self.recent.copies)
        is_known = self._noted_edits().are_since(there)
        self.recent.is_enough = is_known and self.recent.has_all
        return self.recent

    @property
    def recipes(self) -> "RecipeCache | None":
        """Those of large files that have changed; None as long as there is none."""
        return None if self._edits is None else self._edits.recipes

    @property
    def is_ready(self) -> bool:
        """Enough has been done to be handed on, or all."""
        return (
            self._done_bytes >= HANDED_BYTES
            or len(self._done) >= HANDED_DIRECTORIES
            or self._done_content_bytes >= HANDED_CONTENT_BYTES
            or self._tree is not None
        )

    def take(self) -> Handed:
        """Return what was done since the last time; its contents are offered from now on.

        Not more than goes into a pack, however far the scan is ahead; what is left is told of again.
        """
        with self._lock:
            done = self._next_done()
            self._done_content_bytes = 0
            tree = self._tree if not self._done else None
            self._is_told = tells = bool(self._done) and self.is_ready
        if tells:
            self._on_done()
        if done:
            self.contents.add(
                Listed(path, digest, Manifest(digest, self._nodes).root.entries)
                for path, digest in done
            )
        return Handed([(path, self._nodes.read(digest)) for path, digest in done], tree)

    def _next_done(self) -> list[tuple[bytes, Digest]]:
        done: list[tuple[bytes, Digest]] = []
        left_bytes = self._done_bytes - MOST_HANDED_BYTES
        while self._done and self._done_bytes > left_bytes and len(done) < HANDED_DIRECTORIES:
            path, digest, size = self._done.popleft()
            done.append((path, digest))
            self._done_bytes -= size
        return done

    def forget(self) -> None:
        """Keep no directories any more: nobody will take them."""
        self._is_wanted = False
        with self._lock:
            self._done.clear()
            self._done_bytes = self._done_content_bytes = 0

    def close(self) -> None:
        """Keep nothing any more."""
        self.forget()
        self.recent.close()
        if self._edits is not None:
            self._edits.close()
