"""What a tree that is still being scanned adds to another, of which the rest stays as it is.

Nobody knows yet what else becomes of the other tree. So only that is added which costs no more now
than later: names that are not there, with contents that are not there either, for what is there may
turn out to have been renamed; and no file that may be an edit of one that goes, of which little
would have to come (see ``filesync.disk.updating.similar``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Final, NamedTuple

from filesync.digest import EMPTY, Digest
from filesync.disk.updating.similar import MAX_RATIO, Similar
from filesync.disk.updating.visits import below, depth_of, is_below
from filesync.early import EARLY_BYTES
from filesync.manifest import (
    Directory,
    Entry,
    File,
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Nodes,
    Subdirectory,
    Summary,
    subdirectories,
)
from filesync.manifest.leaving import Leaf, One
from filesync.manifest.owner import Writer
from filesync.manifest.patch import Change, patch
from filesync.transfer.send.contents import Contents, Listed, directories_of

MOST_NAMES: Final = 1 << 20
"""To a tree of more nothing is added: its contents, and names, would take 100 MB."""
MOST_LINKS: Final = 8192
"""Nor to one with more names of hard-link groups: each turn looks at all of them, for 0.1 s."""
MOST_DEEP: Final = 64
MADE_BYTES: Final = 32 << 20
"""Of nodes that were made turn by turn: beyond that, and twice those that still count, the others go."""
_NEAR: Final = 64
"""Directories that are at hand: most that come are near each other."""
_PRIVATE: Final = Directory(0o700, 0, 0, 0, (), ())
"""A directory that is not done yet, of which some below it are: what it is to be comes last."""


class _Added(NamedTuple):
    """What is added to a directory; with a header, all of it is new."""

    header: Directory | None
    entries: Sequence[Leaf]


class _MadeNodes(MemoryNodes):
    """Nodes that were made, of ``made_bytes`` together."""

    made_bytes = 0

    def write(self, digest: Digest, data: bytes, summary: Summary) -> None:
        """Keep a node that has been checked."""
        if digest not in self:
            self.made_bytes += len(data)
        super().write(digest, data, summary)


class Additions:
    """Adds to ``basis`` what directories that are done have.

    Attributes:
        top: what is there with all that was added.
        nodes: has its nodes; what was made of those that it no longer has is let go of.
    """

    def __init__(
        self,
        basis: Manifest,
        nodes: Nodes,
        *,
        writer: Writer | None,
        deletes: bool,
        shut: Set[bytes] = frozenset(),
    ) -> None:
        """Begin.

        Args:
            basis: what is there.
            nodes: has its nodes; it gets what is new when that is ``kept``.
            writer: who makes what is added, where that user cannot give files away.
            deletes: what the tree that is scanned has not goes in the end.
            shut: directories of which nobody knows what is in them.
        """
        self.top = basis
        self._basis = basis
        self._made_nodes = _MadeNodes()
        self.nodes = LayeredNodes(self._made_nodes, nodes)
        self._writer = writer
        self._deletes = deletes
        self._shut = shut
        self._made: set[bytes] = set()
        self._most_made_bytes = MADE_BYTES
        self._known: Contents | None = None
        self._large: _Large | None = None
        self._names: set[int] = set()
        self._at = lru_cache(_NEAR)(self._find)

    def add(self, directories: Iterable[tuple[bytes, Directory]]) -> Manifest:
        """Add what is new of (path, directory) that were done, each after those in it; return ``top``.

        Blocks. Of the root nothing is added.
        """
        there = self._basis.summary
        if there.entries > MOST_NAMES or there.links > MOST_LINKS:
            return self.top
        added: dict[bytes, _Added] = {}
        making: set[bytes] = set()
        for path, directory in directories:
            one = self._added(path, directory, is_made=path in making or path in self._made)
            if one is not None:
                added[path] = one
                making.update(self._missing(path))
        if added:
            change = self._change(added)
            self.top = Manifest(patch(self.nodes, self.top.tree, change), self.nodes)
            self._made |= making
            if self._made_nodes.made_bytes > self._most_made_bytes:
                self._let_go()
        return self.top

    def kept(self, there: Manifest) -> Manifest:
        """Return ``there``, which is ``top`` or was it, with its nodes where those of the basis are. Blocks."""
        lower = self.nodes.lower
        for tree in self._made_below(there.tree, set()):
            lower.write(tree, self.nodes.read(tree), self.nodes.summary(tree))
        return Manifest(there.tree, lower)

    def may_come(self, path: bytes, size: int) -> bool:
        """Say whether a large file may come of which only this is known: nothing there may become it. Blocks."""
        above, _, name = path.rpartition(b"/")
        there = self._basis.summary
        if not name or there.entries > MOST_NAMES or depth_of(path) > MOST_DEEP:
            return False
        if is_below(path, self._shut) or not self._stands_free(above, name):
            return False
        if self._large is None:
            self._large = _Large(self._basis)
        return self._large.is_unlike(above, File(name, 0o600, 0, 0, 0, size, EMPTY))

    def _stands_free(self, above: bytes, name: bytes) -> bool:
        directory = self._at(above)
        return self._is_free(above) if directory is None else directory.find(name) is None

    def _let_go(self) -> None:
        """Let go of the nodes that were made, and that ``top`` has no more.

        A directory of 50,000 others to which something is added each turn is 5 MB each.
        """
        still = _MadeNodes()
        for tree in self._made_below(self.top.tree, set()):
            still.write(tree, self.nodes.read(tree), self.nodes.summary(tree))
        self._made_nodes = self.nodes.upper = still
        self._most_made_bytes = 2 * still.made_bytes + MADE_BYTES

    def _made_below(self, tree: Digest, seen: set[Digest]) -> Iterator[Digest]:
        """Yield those that were made of ``tree`` and the directories in it, which come before it."""
        if tree in self._made_nodes and tree not in seen:
            seen.add(tree)
            for entry in subdirectories(self.nodes.read(tree)):  # no deeper than MOST_DEEP
                yield from self._made_below(entry.tree, seen)
            yield tree

    def older(self, path: bytes) -> Digest | None:
        """Return the tree of the directory that the basis has at ``path``; None if it has none there."""
        if not path:
            return self._basis.tree
        above, _, name = path.rpartition(b"/")
        directory = self._at(above)
        entry = None if directory is None else directory.find(name)
        return entry.tree if isinstance(entry, Subdirectory) else None

    def _missing(self, path: bytes) -> Iterator[bytes]:
        """Yield ``path`` and what leads there, as far as the basis does not have it."""
        while self._at(path) is None:
            yield path
            path = path.rpartition(b"/")[0]

    def _change(self, added: Mapping[bytes, "_Added"]) -> Change:
        """Return the change of the root that makes those of directories, by path."""
        below: dict[bytes, dict[bytes, Change]] = {b"": {}}

        def enter(path: bytes) -> dict[bytes, Change]:
            if path not in below:
                is_there = path in self._made or self._at(path) is not None
                one = added.get(path, _Added(None if is_there else self._written(_PRIVATE), ()))
                above, _, name = path.rpartition(b"/")
                below[path] = {}
                enter(above)[name] = Change(
                    header=one.header, entries=one.entries, children=below[path]
                )
            return below[path]

        for path in added:
            enter(path)
        return Change(children=below[b""])

    # --- what is new --------------------------------------------------------------------------

    def _added(self, path: bytes, directory: Directory, *, is_made: bool) -> "_Added | None":
        """Return what is new of a directory, which is made for others if it ``is_made``; None for nothing."""
        if not path or depth_of(path) > MOST_DEEP or is_below(path, self._shut):
            return None
        leaves = [one for one in directory.entries if not isinstance(one, Subdirectory)]
        old = self._at(path)
        if old is None:
            is_whole = self._is_free(path) and all(map(self._is_new, leaves))
            if not (is_made or (is_whole and leaves)):
                return None
            header = self._written(directory.header)
            return _Added(header, [self._written(one) for one in leaves if is_whole])
        if self._may_be_edited(old, directory):
            return None
        there = {entry.name for entry in old.entries}
        new = [
            self._written(one)
            for one in leaves
            if isinstance(one, File) and one.name not in there and self._is_new(one)
        ]
        return _Added(None, new) if new else None

    def _written(self, one: One) -> One:
        return one if self._writer is None else self._writer.written(one)

    def _may_be_edited(self, old: Directory, new: Directory) -> bool:
        """Say whether a file that is new in a directory may be an edit of one that goes there."""
        names: Mapping[bytes, Entry] = {entry.name: entry for entry in new.entries}
        for was in old.entries:
            now = names.get(was.name)
            if isinstance(was, File) and (
                (now is None and self._deletes)
                or (isinstance(now, File) and now.digest != was.digest)
            ):
                return True
        return False

    def _is_new(self, one: Leaf) -> bool:
        """Say whether nothing is there that may become this, and nothing else has to be one with it."""
        if not isinstance(one, File) or not one.size:
            return not (isinstance(one, File) and one.link)
        if self._known is None:
            self._known = Contents(self.nodes, self._listed())
        is_named = self._deletes and hash(one.name) in self._names
        return not (one.link or is_named or self._known.find(one.digest))

    def _listed(self) -> Iterator[Listed]:
        for listed in directories_of(self._basis):
            if self._deletes:
                self._names.update(
                    hash(entry.name) for entry in listed.entries if isinstance(entry, File)
                )
            yield listed

    def _is_free(self, path: bytes) -> bool:
        """Say whether nothing stands where a directory, or one on the way to it, would be made."""
        while True:
            path, _, name = path.rpartition(b"/")
            if (above := self._at(path)) is not None:
                return above.find(name) is None

    def _find(self, path: bytes) -> Directory | None:
        """Return the directory that the basis has at ``path``."""
        tree = self.older(path)
        return None if tree is None else self._basis.directory(tree)


class _Large:
    """The files of a tree that a large one may be an edit of, or one of them renamed."""

    def __init__(self, tree: Manifest) -> None:
        self._sizes: set[int] = set()
        self._similar = Similar()
        self._names: set[int] = set()  # of those that are more than can be noted
        directories = [(b"", tree.root)]
        while directories:
            path, directory = directories.pop()
            for entry in directory.entries:
                if isinstance(entry, Subdirectory) and _is_like(entry.size):
                    directories.append((below(path, entry.name), tree.directory(entry.tree)))
                elif isinstance(entry, File) and _is_like(entry.size):
                    self._sizes.add(entry.size)
                    if self._similar.is_full:
                        self._names.add(hash(entry.name))
                    self._similar.note(path, entry)

    def is_unlike(self, path: bytes, file: File) -> bool:
        """Say whether a file that is new in ``path`` is like none of them, as far as size and name tell."""
        is_known = file.size in self._sizes or hash(file.name) in self._names
        return not is_known and self._similar.find(path, file) is None


def _is_like(size: int) -> bool:
    """Say whether an edit of so many bytes, or of one of so many together, may be large."""
    return size * MAX_RATIO >= EARLY_BYTES
