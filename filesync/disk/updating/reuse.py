"""Where contents and directories that a target needs may stand already."""

import sys
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.updating.similar import GUESSED_BYTES, Similar
from filesync.disk.updating.visits import Needs, Visit, below, gone
from filesync.manifest import Entry, File, Manifest, Subdirectory

MAX_REUSABLE: Final = 65_536
"""Bound on files, and on directories, that are remembered: about 20 MB each."""
WORTH_BYTES: Final = 128
"""So many that are needed for each name of the old tree are worth looking at all names: one takes 0.3 us."""


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


class _Aside(NamedTuple):
    """A directory that was moved aside, or lies in one: its node, its path now, and before."""

    tree: Digest
    path: bytes
    was: bytes


class Resembling(NamedTuple):
    """An old file that a new one may be an edit of.

    Attributes:
        where: it is.
        size, digest: its own.
        is_guess: it stays.
    """

    where: Where
    size: int
    digest: Digest
    is_guess: bool


class Reusable:
    """What the basis has that the target may need, by digest; bounded, so not all of it.

    Removed directories are looked into only when something was not found without: one that is
    renamed costs nothing for what is in it.

    Attributes:
        files: contents that are known of so far.
    """

    def __init__(self, basis: Manifest | None) -> None:
        self._basis = basis
        self.files: dict[Digest, Where] = {}
        self._trees: dict[Digest, Where] = {}
        self._tops: list[_Aside] = []
        self._unentered = deque[_Aside]()
        self._are_files_noted = False
        self._taken = set[bytes]()
        self._broken = set[bytes]()
        self._similar = Similar()
        self._staying = Similar()

    @property
    def has_any(self) -> bool:
        """Say whether anything is here that a target's file could be taken from."""
        return bool(self.files or self._tops)

    @property
    def has_trees(self) -> bool:
        """Say whether whole directories are here."""
        return bool(self._tops)

    @property
    def has_similar(self) -> bool:
        """Say whether there are old files that a new one may be an edit of."""
        return self._similar.has_any or self._staying.has_any

    def mode_of(self, entry: Subdirectory) -> int | None:
        """Return the mode of a directory of the old tree."""
        return None if self._basis is None else self._basis.directory(entry.tree).mode

    # --- noting -----------------------------------------------------------------------------

    def note_aside(self, path: bytes, entry: Entry, name: bytes) -> None:
        """Note that ``entry`` of the old directory ``path`` is ``name`` in the work directory."""
        if isinstance(entry, File):
            self._note_file(entry, Where(True, b"", name, not entry.link))
            self._similar.note(path, entry)
        elif isinstance(entry, Subdirectory) and len(self._tops) < MAX_REUSABLE:
            aside = _Aside(entry.tree, name, below(path, entry.name))
            self._tops.append(aside)
            self._note_tree(aside, Where(True, b"", name, is_free=True))

    def note_stays(self, visit: Visit, needs: Needs) -> None:
        """Note the files that stay where they are, for now at least, and can be copied if ``needs`` say so.

        They, and those that are to be replaced, may resemble new ones, too.
        """
        if visit.was is None:
            return
        for old, new in visit.changes:
            if isinstance(old, File) and isinstance(new, File) and old.digest != new.digest:
                self._similar.note(visit.path, old)
        away = {entry.name for entry in gone(visit)}
        self._note_staying(visit.path, self._directory(visit.was), needs, away=away)

    def _note_staying(
        self,
        path: bytes,
        entries: Iterable[Entry],
        needs: Needs,
        *,
        away: Container[bytes] = (),
    ) -> None:
        files, digests = self.files, needs.digests
        least_bytes = GUESSED_BYTES if needs.largest_bytes > GUESSED_BYTES else sys.maxsize
        for entry in entries:
            if type(entry) is not File or not entry.size:
                continue
            is_like, is_needed = entry.size > least_bytes, entry.digest in digests
            if not (is_like or is_needed) or entry.name in away:
                continue
            if is_like:
                self._staying.note(path, entry)
            if is_needed and len(files) < MAX_REUSABLE // 2:
                files.setdefault(entry.digest, Where(False, path, entry.name, is_free=False))

    def note_elsewhere(self, visits: Iterable[Visit], needs: Needs) -> None:
        """Note those in directories that both trees have alike, likewise.

        After all ``visits`` of directories that both have.
        """
        entered = {
            visit.path: (visit.was, {entry.name for entry in gone(visit)})
            for visit in visits
            if visit.was is not None
        }
        stack = [
            (path, inner)
            for above, (was, away) in entered.items()
            for inner in self._directory(was)
            if isinstance(inner, Subdirectory)
            and inner.name not in away
            and (path := below(above, inner.name)) not in entered
        ]
        seen = set[Digest]()
        while stack:
            path, directory = stack.pop()
            if directory.content in seen:
                continue
            seen.add(directory.content)
            entries = self._directory(directory.tree)
            self._note_staying(path, entries, needs)
            stack += [
                (below(path, entry.name), entry)
                for entry in entries
                if isinstance(entry, Subdirectory) and entry.size
            ]

    # --- finding ----------------------------------------------------------------------------

    def file(self, digest: Digest) -> Where | None:
        """Return where a content is."""
        if self._tops and not self._are_files_noted:
            self._note_files()
        return self.files.get(digest)

    def find_similar(self, path: bytes, entry: File) -> Resembling | None:
        """Return an old file that ``entry`` may be an edit of.

        ``entry`` is new in the directory ``path``, and its content was looked for by ``file``,
        which notes what is in removed directories. What was replaced since has other content.
        """
        old, is_guess = self._similar.find(path, entry), False
        if old is None and entry.size > GUESSED_BYTES:
            old, is_guess = self._staying.find(path, entry), True
        if old is None:
            return None
        where = self.files.get(old.digest) or Where(False, old.path, old.name, is_free=False)
        return Resembling(where, old.size, old.digest, is_guess)

    def take_tree(self, tree: Digest) -> Where | None:
        """Return where a whole directory is, which the caller moves away from there."""
        where = self._trees.pop(tree, None)
        while where is None and self._unentered:
            self._enter(self._unentered.popleft())
            where = self._trees.pop(tree, None)
        if where is None:
            return None
        path = below(where.path, where.name)
        if path in self._broken or self._is_taken(path):
            return None
        self._taken.add(path)
        # What lies above lacks a directory from now on: it cannot be taken as a whole.
        while path := path.rpartition(b"/")[0]:
            self._broken.add(path)
        return where

    # --- inside -----------------------------------------------------------------------------

    def _is_taken(self, path: bytes) -> bool:
        while path:
            if path in self._taken:
                return True
            path = path.rpartition(b"/")[0]
        return False

    def _note_tree(self, aside: _Aside, where: Where) -> None:
        if aside.tree not in self._trees and len(self._trees) < MAX_REUSABLE:
            self._trees[aside.tree] = where
            self._unentered.append(aside)

    def _enter(self, aside: _Aside) -> None:
        """Note the directories in one, unless it was taken with all that is in it."""
        if self._is_taken(aside.path):
            return
        for inner, name in _directories_in(self._directory(aside.tree), aside):
            self._note_tree(inner, Where(True, aside.path, name, is_free=True))

    def _note_files(self) -> None:
        """Note what is in the directories that were moved aside and not taken as a whole."""
        self._are_files_noted = True
        seen = set[Digest]()
        stack = [*reversed(self._tops)]
        while stack and len(self.files) < MAX_REUSABLE and len(seen) < MAX_REUSABLE:
            aside = stack.pop()
            if aside.tree in seen or self._is_taken(aside.path):
                continue
            seen.add(aside.tree)
            entries = self._directory(aside.tree)
            for entry in entries:
                if isinstance(entry, File):
                    where = Where(True, aside.path, entry.name, not entry.link)
                    self._note_file(entry, where)
                    self._similar.note(aside.was, entry)
            stack += [inner for inner, _ in _directories_in(entries, aside)][::-1]

    def _directory(self, tree: Digest) -> Iterable[Entry]:
        return self._basis.directory(tree).entries if self._basis is not None else ()

    def _note_file(self, entry: File, where: Where) -> None:
        has = self.files.get(entry.digest)
        if not entry.size or (has is not None and has.is_free):
            return
        if has is not None or len(self.files) < MAX_REUSABLE:
            self.files[entry.digest] = where


def _directories_in(entries: Iterable[Entry], aside: _Aside) -> Iterator[tuple[_Aside, bytes]]:
    for entry in entries:
        if isinstance(entry, Subdirectory):
            name = entry.name
            yield _Aside(entry.tree, below(aside.path, name), below(aside.was, name)), name
