"""Which directories an update enters, and what it does to the names in each."""

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Set
from typing import Final, NamedTuple

import msgspec

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.disk.reserved import is_reserved
from filesync.errors import MalformedManifest
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    Nodes,
    Subdirectory,
    empty_manifest,
    is_name,
)
from filesync.manifest.node import MAX_DEPTH, folded
from filesync.trees.diff import diff

MAX_PATH_BYTES: Final = 256 << 20
"""Bound on the paths of all directories that arrive: two million of a hundred bytes. And on what those
that an update enters take beyond ``USUAL_PATH_BYTES`` each, for all of them are held at once."""
USUAL_PATH_BYTES: Final = 256
MAX_REMEMBERED: Final = 100_000
"""Bound on the entries that differ, and are kept between two walks: about 35 MB. A larger
update decodes its directories at each walk."""


class Visit(msgspec.Struct, frozen=True):
    """One directory of the target that is new or differs.

    Attributes:
        path: where it is; b"" is the root.
        old: as the basis has it, without its entries; None when it is new.
        was: the tree digest of that.
        new: as it shall be, without its entries.
        removed: names that are gone.
        changes: (old or None, new) of each name that is new or differs, ascending by name.
            Subdirectories are among them only where there was none before.
        fresh: the subdirectories among the changes.
    """

    path: bytes
    old: Directory | None
    was: Digest | None
    new: Directory
    removed: tuple[Entry, ...]
    changes: list[tuple[Entry | None, Entry]]
    fresh: list[Subdirectory]

    def gives(self, name: bytes) -> bool:
        """Say whether ``name`` is new or differs."""
        at = bisect_left(self.changes, name, key=_name)
        return at < len(self.changes) and _name(self.changes[at]) == name


def below(path: bytes, name: bytes) -> bytes:
    """Return the path of ``name`` in the directory ``path``."""
    return path + b"/" + name if path else name


def depth_of(path: bytes) -> int:
    """Return how deep ``path`` is: 0 for the root."""
    return path.count(b"/") + 1 if path else 0


def is_below(path: bytes, tops: Set[bytes]) -> bool:
    """Say whether ``path`` is, or is below, one of ``tops``."""
    end = len(path) if tops else -1
    while end >= 0:
        if path[:end] in tops:
            return True
        end = path.rfind(b"/", 0, end)
    return False


def gone(visit: Visit) -> Iterator[Entry]:
    """Yield what has to go from a directory: names that are gone, or become another kind."""
    yield from visit.removed
    for old, new in visit.changes:
        if old is not None and type(old) is not type(new):
            yield old


def refuse_reserved(names: Iterable[bytes]) -> None:
    """Let none of the ``names`` in a root be ours.

    Raises:
        MalformedManifest: one is.
    """
    for name in names:
        if is_reserved(name):
            raise MalformedManifest(f"{shown(name)} is a reserved name")


class Visits:
    """The directories to enter, walked several times and always in the same order.

    Attributes:
        moved: paths of new directories that are there already; they are not entered. Looked
            at after the visit of the directory above, which may thus still add to it.
        refused: paths of new directories that cannot be made; not entered, nor what is in them.
        is_settled: set it when ``moved`` changes no more.
        twins: paths of names that have none of their own on a file system that takes two for one.
    """

    def __init__(self, basis: Manifest | None, target: Manifest) -> None:
        self.moved = set[bytes]()
        self.refused: Set[bytes] = frozenset()
        self.is_settled = False
        self.twins = set[bytes]()
        self._folds_case = False
        self._basis = basis
        self._target = target
        self._common: list[Visit] | None = None
        self._all: list[Visit] | None = None

    def fold_case(self) -> None:
        """Leave out new names that differ in case alone from another, from the next walk on.

        The second would be written over the first, or not be made at all.
        """
        self._folds_case = True
        self._common = self._all = None

    def common(self) -> Iterator[Visit]:
        """Yield the directories that both trees have, and the root, parents first.

        Raises:
            MalformedManifest: their paths are too long, all together.
        """
        if self._common is not None:
            yield from self._common
            return
        kept = _Remembered()
        room = _PathRoom()
        for change in diff(self._basis, self._target):
            room.take(change.path)
            changes: list[tuple[Entry | None, Entry]] = [(None, new) for new in change.added]
            if change.changed:
                changes += change.changed
                changes.sort(key=_name)
            if self._folds_case:
                new = self._target.directory(change.tree)
                changes = self._without_twins(change.path, new, changes)
            fresh = [new for _, new in changes if isinstance(new, Subdirectory)]
            visit = Visit(
                change.path,
                change.old,
                change.was,
                change.new,
                change.removed,
                changes,
                fresh,
            )
            kept.add(visit)
            yield visit
        self._common = kept.visits

    def __iter__(self) -> Iterator[Visit]:
        """Yield all directories, each before those in it.

        Raises:
            MalformedManifest: their paths are too long, all together.
        """
        if self._all is not None:
            yield from self._all
            return
        kept = _Remembered() if self.is_settled else None
        for visit in self._walk():
            if kept is not None:
                kept.add(visit, to_come=sum(entry.entries for entry in self._entered(visit)))
            yield visit
        if kept is not None:
            self._all = kept.visits
            if self._all is not None:
                self._common = None

    def new_below(
        self,
        visit: Visit,
        *,
        skip: Container[Digest] = (),
        room: "_PathRoom | None" = None,
    ) -> Iterator[Visit]:
        """Yield the new directories in one that both trees have, but for the trees ``skip``.

        Raises:
            MalformedManifest: their paths take more than ``room``.
        """
        if not visit.fresh:
            return
        room = room or _PathRoom()
        stack = [self._inside(visit, skip)]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
                continue
            path, entry = found
            room.take(path)
            inner = self._new_visit(path, self._target.directory(entry.tree))
            yield inner
            stack.append(self._inside(inner, skip))

    def _walk(self) -> Iterator[Visit]:
        room = _PathRoom()
        for visit in self.common():
            yield visit
            yield from self.new_below(visit, room=room)

    def _inside(
        self, visit: Visit, skip: Container[Digest]
    ) -> Iterator[tuple[bytes, Subdirectory]]:
        for entry in self._entered(visit):
            if entry.tree not in skip:
                yield below(visit.path, entry.name), entry

    def _new_visit(self, path: bytes, directory: Directory) -> Visit:
        """Return the visit of a directory in which all is new."""
        entries = directory.entries
        changes: list[tuple[Entry | None, Entry]] = [(None, entry) for entry in entries]
        if self._folds_case:
            changes = self._without_twins(path, directory, changes)
        fresh = [entry for _, entry in changes if isinstance(entry, Subdirectory)]
        return Visit(path, None, None, directory.header, (), changes, fresh)

    def _without_twins(
        self, path: bytes, new: Directory, changes: list[tuple[Entry | None, Entry]]
    ) -> list[tuple[Entry | None, Entry]]:
        is_new = self._is_new
        added = {entry.name for old, entry in changes if is_new(path, old, entry)}
        taken = {folded(entry.name) for entry in new.entries if entry.name not in added}
        kept: list[tuple[Entry | None, Entry]] = []
        for old, entry in changes:
            if is_new(path, old, entry):
                if (alike := folded(entry.name)) in taken:
                    self.twins.add(below(path, entry.name))
                    continue
                taken.add(alike)
            kept.append((old, entry))
        return kept

    def _is_new(self, path: bytes, old: Entry | None, entry: Entry) -> bool:
        """Say whether nothing of this name is in the directory ``path`` yet."""
        return old is None

    def _entered(self, visit: Visit) -> Iterator[Subdirectory]:
        for entry in visit.fresh:
            path = below(visit.path, entry.name)
            if path not in self.moved and path not in self.refused:
                yield entry


def check_path(path: bytes) -> None:
    """Check that a directory of a tree may be at ``path``, whoever says so.

    Raises:
        MalformedManifest: it may not.
    """
    # The root is one of the directories inside each other.
    if path.count(b"/") + 2 > MAX_DEPTH:
        raise MalformedManifest("paths of directories are too long")
    if path and not all(map(is_name, path.split(b"/"))):
        raise MalformedManifest(f"{shown(path)} is no path of a directory")


class ArrivedVisits(Visits):
    """The directories of a new tree, in the order in which they came: each after those in it.

    Attributes:
        tree: the root's digest; None until it has come, as the last one.
    """

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(None, empty_manifest(nodes))
        self.tree: Digest | None = None
        self._nodes = nodes
        self._path_bytes = 0
        self._arrived: list[tuple[bytes, Digest]] = []
        self._unclaimed: dict[bytes, dict[bytes, Digest]] = {}

    def arrive(self, path: bytes, tree: Digest) -> Visit:
        """Take the next directory, whose node is in the store; return what is to be done there.

        Raises:
            MalformedManifest: it does not hold just those that came for it, or comes after the
                root.
        """
        self._check(path)
        directory = self._directory(tree)
        visit = self._new_visit(path, directory)
        came = self._unclaimed.pop(path, {})
        held = [one for one in directory.entries if isinstance(one, Subdirectory)]
        is_whole = came == {one.name: one.tree for one in held}
        is_orphaned = not path and self._unclaimed
        if not is_whole or is_orphaned or self.tree is not None:
            raise MalformedManifest(f"{shown(path)} does not hold the directories that came")
        self._arrived.append((path, tree))
        parent, _, name = path.rpartition(b"/")
        if name:
            self._unclaimed.setdefault(parent, {})[name] = tree
        else:
            self.tree = tree
        return visit

    def pass_over(self) -> None:
        """Take the directory that came last for one that cannot be made, nor be entered."""
        path, tree = self._arrived.pop()
        if self._folds_case:  # what is in it is nobody's twin
            entries = self._directory(tree).entries
            self.twins.difference_update([below(path, entry.name) for entry in entries])

    def note_twin(self, path: bytes) -> bool:
        """Take note of a new directory whose name leads to another; False where names do not."""
        if self._folds_case:
            self.twins.add(path)
        return self._folds_case

    def _check(self, path: bytes) -> None:
        self._path_bytes += len(path)
        if self._path_bytes > MAX_PATH_BYTES:
            raise MalformedManifest("paths of directories are too many")
        check_path(path)

    def __iter__(self) -> Iterator[Visit]:
        """Yield all that have come."""
        for path, tree in self._arrived:
            yield self._new_visit(path, self._directory(tree))

    def _is_new(self, path: bytes, old: Entry | None, entry: Entry) -> bool:
        # A directory was made before the one that it is in came, unless it is a twin.
        is_made = isinstance(entry, Subdirectory) and below(path, entry.name) not in self.twins
        return not is_made and super()._is_new(path, old, entry)

    def _directory(self, tree: Digest) -> Directory:
        return Manifest(tree, self._nodes).root


class _Remembered:
    """Visits, as long as they are few."""

    def __init__(self) -> None:
        self.visits: list[Visit] | None = []
        self._entries = 0

    def add(self, visit: Visit, *, to_come: int = 0) -> None:
        """Keep one, unless it or the ``to_come`` entries below it are too many."""
        if self.visits is None:
            return
        self._entries += len(visit.changes) + len(visit.removed) + 1
        if visit.old is not None:
            self._entries += sum(old is not None for old, _ in visit.changes)
        if self._entries + to_come > MAX_REMEMBERED:
            self.visits = None
        else:
            self.visits.append(visit)


class _PathRoom:
    """What the paths of the directories that one walk enters may take.

    Of names of 255 bytes, thousands inside each other, a megabyte of nodes makes gigabytes of paths.
    """

    def __init__(self) -> None:
        self._left = MAX_PATH_BYTES

    def take(self, path: bytes) -> None:
        """Make room for another.

        Raises:
            MalformedManifest: there is none.
        """
        self._left += USUAL_PATH_BYTES - len(path)
        if self._left < 0:
            raise MalformedManifest("paths of directories are too long, all together")


class Counts(NamedTuple):
    """How many names are new, and how many are gone; what is below them counts as well."""

    created: int
    deleted: int


def count(visits: Iterable[Visit]) -> Counts:
    """Count what comes and goes in directories that both trees have."""
    created = deleted = 0
    for visit in visits:
        created += sum(names_of(new) for old, new in visit.changes if old is None)
        deleted += sum(map(names_of, visit.removed))
    return Counts(created, deleted)


def names_of(entry: Entry) -> int:
    """Return how many names an entry is, with all below it."""
    return 1 + (entry.entries if isinstance(entry, Subdirectory) else 0)


class Needs:
    """Which contents an update needs that the names which get them did not have.

    Attributes:
        is_any: there are contents or whole directories to look for in the old tree.
        digests: of the contents; what is in a directory that will be moved is left out.
        content_bytes: of the contents, however often one is needed.
        largest_bytes: of what has a new name.
    """

    def __init__(self, visits: Visits) -> None:
        self.is_any = False
        self.content_bytes = self.largest_bytes = 0
        self.digests: set[Digest] | _Everything = set()
        removed = {
            entry.tree
            for visit in visits.common()
            for entry in gone(visit)
            if isinstance(entry, Subdirectory)
        }
        for visit in visits.common():
            self._note(visit.changes)
            for inner in visits.new_below(visit, skip=removed):
                self._note(inner.changes)

    def _note(self, changes: Iterable[tuple[Entry | None, Entry]]) -> None:
        for old, entry in changes:
            if isinstance(entry, File):
                has_it = isinstance(old, File) and old.digest == entry.digest and not old.link
                if entry.size and not has_it:
                    self.is_any = True
                    self.content_bytes += entry.size
                    if old is None:
                        self.largest_bytes = max(self.largest_bytes, entry.size)
                    if isinstance(self.digests, set):
                        self.digests.add(entry.digest)
            elif isinstance(entry, Subdirectory):
                self.is_any = True
        if isinstance(self.digests, set) and len(self.digests) > MAX_REMEMBERED:
            self.digests = _Everything()


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


def _name(pair: tuple[Entry | None, Entry]) -> bytes:
    return pair[1].name
