"""Where contents and directories that a target needs may stand already."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.visits import below
from filesync.manifest import Entry, File, Manifest, Subdirectory

MAX_SOURCES: Final = 65_536
"""Bound on files, and on directories, that are remembered: about 20 MB each."""


class Where(NamedTuple):
    """A name on disk.

    Attributes:
        in_trash: below the work directory instead of the root.
        path: its directory.
        name: its name there.
        is_free: nobody else needs it, so it can be moved away.
    """

    in_trash: bool
    path: bytes
    name: bytes
    is_free: bool


class Sources:
    """What the basis has that the target may need, by digest; bounded, so not all of it.

    Attributes:
        files: contents.
        trees: whole directories that were moved aside, by tree digest.
    """

    def __init__(self, basis: Manifest | None) -> None:
        self._basis = basis
        self.files: dict[Digest, Where] = {}
        self.trees: dict[Digest, Where] = {}
        self._broken = set[bytes]()

    def note_aside(self, entry: Entry, name: bytes) -> None:
        """Note that ``entry`` of the basis is called ``name`` in the work directory now."""
        if isinstance(entry, File):
            self._note_file(entry, Where(True, b"", name, not entry.link))
        elif isinstance(entry, Subdirectory) and self._basis is not None:
            self._note_tree(self._basis, entry.tree, name)

    def note_kept(self, path: bytes, entry: File) -> None:
        """Note a file that stays where it is, for now at least: it can be copied."""
        if len(self.files) < MAX_SOURCES // 2 and entry.size:
            self.files.setdefault(entry.digest, Where(False, path, entry.name, is_free=False))

    def file(self, digest: Digest) -> Where | None:
        """Return where a content is."""
        return self.files.get(digest)

    def take_tree(self, tree: Digest) -> Where | None:
        """Return where a whole directory is, which the caller moves away from there."""
        where = self.trees.pop(tree, None)
        if where is None or below(where.path, where.name) in self._broken:
            return None
        # What lies above lacks a directory from now on: it cannot be taken as a whole.
        path = where.path
        while path:
            self._broken.add(path)
            path = path.rpartition(b"/")[0]
        return where

    def _note_tree(self, basis: Manifest, tree: Digest, name: bytes) -> None:
        stack: list[tuple[bytes, Iterator[Entry]]] = []
        if self._note_directory(tree, b"", name):
            stack.append((name, iter(basis.directory(tree).entries)))
        while stack:
            path, entries = stack[-1]
            for entry in entries:
                if isinstance(entry, File):
                    self._note_file(entry, Where(True, path, entry.name, not entry.link))
                elif isinstance(entry, Subdirectory) and self._note_directory(
                    entry.tree, path, entry.name
                ):
                    inside = iter(basis.directory(entry.tree).entries)
                    stack.append((below(path, entry.name), inside))
                    break
            else:
                stack.pop()

    def _note_directory(self, tree: Digest, path: bytes, name: bytes) -> bool:
        """Note a directory; False when there is nothing new in it, or no room."""
        if tree in self.trees or len(self.trees) >= MAX_SOURCES:
            return False
        self.trees[tree] = Where(True, path, name, is_free=True)
        return True

    def _note_file(self, entry: File, where: Where) -> None:
        has = self.files.get(entry.digest)
        if not entry.size or (has is not None and has.is_free):
            return
        if has is not None or len(self.files) < MAX_SOURCES:
            self.files[entry.digest] = where
