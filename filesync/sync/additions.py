"""What a tree that is still being scanned adds to another, of which the rest stays as it is.

Nobody knows yet what else becomes of the other tree. So only that is added which costs no more now
than later: names that are not there, with contents that are not there either, for what is there may
turn out to have been renamed; and no file that may be an edit of one that goes, of which little
would have to come (see ``filesync.disk.updating.similar``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Final, NamedTuple

from filesync.disk.updating.visits import depth_of, is_below
from filesync.manifest import Directory, Entry, File, Manifest, Nodes, Subdirectory
from filesync.manifest.owner import Leaf, One, Writer
from filesync.manifest.patch import Change, patch
from filesync.transfer.send.contents import Contents, Listed, directories_of

MOST_NAMES: Final = 1 << 20
"""To a tree of more nothing is added: its contents, and names, would take 100 MB."""
MOST_DEEP: Final = 64
_NEAR: Final = 64
"""Directories that are at hand: most that come are near each other."""
_PRIVATE: Final = Directory(0o700, 0, 0, 0, (), ())
"""A directory that is not done yet, of which some below it are: what it is to be comes last."""


class _Added(NamedTuple):
    """What is added to a directory; with a header, all of it is new."""

    header: Directory | None
    entries: Sequence[Leaf]


class Additions:
    """Adds to ``basis`` what directories that are done have.

    Attributes:
        top: what is there with all that was added.
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
            nodes: has its nodes, and gets what is new.
            writer: who makes what is added, where that user cannot give files away.
            deletes: what the tree that is scanned has not goes in the end.
            shut: directories of which nobody knows what is in them.
        """
        self.top = basis
        self._basis = basis
        self._nodes = nodes
        self._writer = writer
        self._deletes = deletes
        self._shut = shut
        self._made: set[bytes] = set()
        self._known: Contents | None = None
        self._names: set[int] = set()
        self._at = lru_cache(_NEAR)(self._find)

    def add(self, directories: Iterable[tuple[bytes, Directory]]) -> Manifest:
        """Add what is new of (path, directory) that were done, each after those in it; return ``top``.

        Blocks. Of the root nothing is added.
        """
        if self._basis.summary.entries > MOST_NAMES:
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
            self.top = Manifest(patch(self._nodes, self.top.tree, change), self._nodes)
            self._made |= making
        return self.top

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
            self._known = Contents(self._nodes, self._listed())
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
        if not path:
            return self._basis.root
        above, _, name = path.rpartition(b"/")
        directory = self._at(above)
        entry = None if directory is None else directory.find(name)
        return self._basis.directory(entry.tree) if isinstance(entry, Subdirectory) else None
