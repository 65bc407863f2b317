"""What is left to do of a copy, in a tree to which one like it was made before.

``COPY . /app`` of a context in which a file was edited makes the tree of the last time but for that
file. It is planned here, on manifests alone, and done on top of that tree, by ``perform_again``:
what it has already stays, what only the earlier copy has put there goes.

The plan is for a tree that differs from the base only where the copy puts something: whatever else
has been made of the base, the plan is None. So it is where it would have to be found out what the
copy does that ``Copier`` knows and manifests do not tell, as with hard links, or with what is of one
kind in the base and of another in what is copied. Then all is copied, onto the base.
"""

from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.disk.updating.visits import names_of
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    Special,
    Subdirectory,
    Symlink,
)
from filesync.process.wanted import check_wanted
from filesync.trees.find import clean
from filesync.trees.select import Pick, matched
from worker.files.attributes import Attributes, attributes_of
from worker.files.mode import ChangeMode, made_mode, parse_mode
from worker.files.named import directory_at, has_own_time, reduced
from worker.files.tree import Owner, join
from worker.wire.ops import Copy, FileOp

LEAST_KEPT: Final = 64
"""With fewer names to keep nothing is gained."""
LEAST_TIMES: Final = 2
"""So many names are kept for each that is not, and so many bytes for each that the earlier tree has
for nothing: it stays as long as what is made on it, of which it is all a part for a prune."""
_NAME_BYTES: Final = 4096
"""What a name takes on a disk beside its content, about."""


class Basis(msgspec.Struct, frozen=True):
    """What a copy is made onto, and what an earlier one has made of that.

    Attributes:
        owner: what the copy's ``owner`` names in the base; None to keep the source's.
        maker: who owns the directories that are made on the way if ``owner`` is None.
    """

    base: Manifest
    earlier: Manifest
    owner: Owner | None
    maker: Owner


class Given(msgspec.Struct, frozen=True):
    """A directory of an input, what is in which is copied.

    Attributes:
        manifest: the input, or what is not excluded of it.
        path: where the directory is.
    """

    manifest: Manifest
    path: bytes
    directory: Directory


class Again(msgspec.Struct, frozen=True):
    """What is left to do. Paths are relative to the roots of the input and the tree.

    Attributes:
        manifest: the input, or what is not excluded of it.
        dest: the destination, which gets the time ``mtime_ns``.
        removed: paths in the tree, of whatever kind.
        made: (path in the input, digest of its node, path in the tree) of whole directories.
        copied: (path in the input, entry, path in the tree) of what is no directory.
        finished: (directory of the input, path in the tree) of those that get its attributes.
        touched: directories that get the time of the copy: those on the way that it makes, or in
            which it makes a name, of the base's tree.
        kept: names that stay.
        changed: names that come or go, about.
    """

    manifest: Manifest
    owner: Owner | None
    dest: bytes
    mtime_ns: int
    removed: list[bytes] = msgspec.field(default_factory=list)
    made: list[tuple[bytes, Digest, bytes]] = msgspec.field(default_factory=list)
    copied: list[tuple[bytes, Entry, bytes]] = msgspec.field(default_factory=list)
    finished: list[tuple[Directory, bytes]] = msgspec.field(default_factory=list)
    touched: list[bytes] = msgspec.field(default_factory=list)
    kept: int = 0
    changed: int = 0


def copy_of(op: FileOp) -> Copy | None:
    """Return the one Copy that an op is, if it is one that can be done again."""
    match op.actions:
        case (Copy(parents=False) as copy,):
            return copy
        case _:
            return None


def given_to(op: Copy, given: Manifest) -> Given | None:
    """Return what ``op`` copies of the input ``given``, if that is what is in one directory.

    Raises:
        FilesyncError: as ``perform``.
    """
    match matched(given, Pick(op.source, exclude=op.exclude, wildcard=op.wildcard)):
        case [one] if (directory := directory_at(given, one.real)) is not None:
            manifest, directory = reduced(op, given, one.real, directory)
            if _has_links(directory) or not has_own_time(one.real, directory):
                return None
            return Given(manifest, one.real, directory)
        case _:
            return None


def plan_again(op: Copy, given: Given, basis: Basis) -> Again | None:
    """Return what is left to do of ``op``; None: do it all on the base.

    Raises:
        FilesyncError: as ``perform``.
    """
    planning = _Planning(op, basis, given)
    try:
        planning.plan(given.path, given.directory)
    except _Unlike:
        return None
    return planning.done() if planning.is_worth_it() else None


class _Unlike(Exception):
    """The earlier tree is not what this copy would make of the base, but for some names."""


class _Pair(msgspec.Struct, frozen=True):
    """A directory of the base, if it is there, and of the earlier tree, which is there."""

    base: Directory | None
    earlier: Directory


class _Planning:
    def __init__(self, op: Copy, basis: Basis, given: Given) -> None:
        self._dest = clean(op.dest.encode("utf-8", "surrogateescape"))
        self._change_mode: ChangeMode | None = parse_mode(op.mode)
        self._made_mode = made_mode(op.mode)
        self._basis = basis
        self._manifest = given.manifest
        self._is_plain = basis.owner is None and self._change_mode is None
        dest, mtime_ns = b"/".join(self._dest), given.directory.mtime_ns
        self._plan = Again(given.manifest, basis.owner, dest, mtime_ns)
        self._kept = self._changed = 0
        self._kept_bytes = self._hidden_bytes = 0

    def is_worth_it(self) -> bool:
        """Say whether enough of the earlier tree is kept."""
        return (
            self._kept >= max(LEAST_KEPT, LEAST_TIMES * self._changed)
            and self._kept_bytes >= LEAST_TIMES * self._hidden_bytes
        )

    def done(self) -> Again:
        plan = self._plan
        return msgspec.structs.replace(plan, kept=self._kept, changed=self._changed)

    def plan(self, source: bytes, directory: Directory) -> None:
        dest = self._plan.dest
        todo = [(source, directory, dest, self._way())]
        most = sum(map(names_of, directory.entries))
        while todo:
            check_wanted()
            if self._changed * LEAST_TIMES > most:
                raise _Unlike  # before all is compared
            source, directory, target, pair = todo.pop()
            is_changed = self._names(source, directory, target, pair, todo)
            # That to which all is copied is one on the way, and gets no attributes.
            if target != dest and (not self._is_finished(directory, pair) or is_changed):
                self._plan.finished.append((directory, target))

    def _way(self) -> _Pair:
        """Follow the destination in both trees, which have nothing else that differs there."""
        pair = _Pair(self._basis.base.root, self._basis.earlier.root)
        for above, name in enumerate(self._dest):
            others = [one for one in pair.earlier.entries if one.name != name]
            in_base = pair.base.entries if pair.base is not None else ()
            if others != [one for one in in_base if one.name != name]:
                raise _Unlike
            here = {one.name: one for one in pair.earlier.entries}
            there = {one.name: one for one in in_base}
            below = self._below(there.get(name), here.get(name))
            # The root keeps its time, whatever is made in it.
            self._pass(pair, above, is_touched=above > 0 and below.base is None)
            pair = below
        self._check(pair)
        return pair

    def _pass(self, pair: _Pair, depth: int, *, is_touched: bool) -> None:
        """Check a directory on the way, which a copy leaves as it is, makes, or makes a name in."""
        self._check(pair)
        if is_touched or pair.base is None:
            self._plan.touched.append(b"/".join(self._dest[:depth]))
        elif pair.earlier.mtime_ns != pair.base.mtime_ns:
            raise _Unlike

    def _check(self, pair: _Pair) -> None:
        """Check a directory that keeps its attributes, but for its time, or has those of one on the way."""
        earlier = pair.earlier
        if earlier.xattrs:
            raise _Unlike  # what a copy makes there gets a default ACL, whatever the manifest says
        if pair.base is None:
            uid, gid = self._basis.owner or self._basis.maker
            wanted = Attributes(uid, gid, self._made_mode, None)
        else:
            wanted = _attributes(pair.base)
        if _attributes(earlier) != wanted:
            raise _Unlike

    def _below(self, in_base: Entry | None, in_earlier: Entry | None) -> _Pair:
        if not isinstance(in_earlier, Subdirectory):
            raise _Unlike
        earlier = self._basis.earlier.directory(in_earlier.tree)
        if in_base is None:
            return _Pair(None, earlier)
        if not isinstance(in_base, Subdirectory):
            raise _Unlike
        return _Pair(self._basis.base.directory(in_base.tree), earlier)

    def _names(
        self,
        source: bytes,
        directory: Directory,
        target: bytes,
        pair: _Pair,
        todo: list[tuple[bytes, Directory, bytes, _Pair]],
    ) -> bool:
        """Plan one directory's names; say whether any comes or goes. Subdirectories go to ``todo``."""
        here = {one.name: one for one in pair.earlier.entries}
        there = {one.name: one for one in pair.base.entries} if pair.base is not None else {}
        before = self._changed
        for entry in directory.entries:
            old, was = here.pop(entry.name, None), there.pop(entry.name, None)
            if was is not None and not _is_alike(was, entry, old):
                raise _Unlike
            if isinstance(entry, Subdirectory):
                if self._is_descended(entry, old, was):
                    below = self._manifest.directory(entry.tree)
                    at = join(source, entry.name), below, join(target, entry.name)
                    todo.append((*at, self._below(was, old)))
                else:
                    self._subdirectory(source, entry, target, old)
            elif old == self._wanted(entry):
                self._keep(entry)
            else:
                self._put(old, target, entry)
                self._plan.copied.append(
                    (join(source, entry.name), entry, join(target, entry.name))
                )
        self._leave(here, there, target)
        return self._changed != before

    def _leave(
        self, here: dict[bytes, Entry], there: dict[bytes, Entry], target: bytes
    ) -> None:
        """Plan for the names that are not copied, of the earlier tree and of the base."""
        for name, old in here.items():
            if name not in there:
                self._remove(old, target)
        if any(here.get(name) != was for name, was in there.items()):
            raise _Unlike

    def _is_descended(self, entry: Subdirectory, old: Entry | None, was: Entry | None) -> bool:
        if not isinstance(old, Subdirectory):
            return False
        return was is not None or not self._is_plain or old.tree != entry.tree

    def _subdirectory(
        self, source: bytes, entry: Subdirectory, target: bytes, old: Entry | None
    ) -> None:
        if isinstance(old, Subdirectory):
            self._keep(entry)
            return
        self._put(old, target, entry)
        self._changed += entry.entries
        self._plan.made.append((join(source, entry.name), entry.tree, join(target, entry.name)))

    def _put(self, old: Entry | None, target: bytes, entry: Entry) -> None:
        if old is not None and isinstance(old, Subdirectory) != isinstance(entry, Subdirectory):
            self._remove(old, target)
        elif old is not None:
            self._hidden_bytes += _bytes(old)
        self._changed += 1

    def _keep(self, entry: Entry) -> None:
        self._kept += names_of(entry)
        self._kept_bytes += _bytes(entry)

    def _remove(self, old: Entry, target: bytes) -> None:
        self._changed += names_of(old)
        self._hidden_bytes += _bytes(old)
        self._plan.removed.append(join(target, old.name))

    def _is_finished(self, directory: Directory, pair: _Pair) -> bool:
        if directory.xattrs or pair.earlier.xattrs:
            # They are added to those that a directory has, and none is taken away.
            raise _Unlike
        have = attributes_of(pair.earlier, None, None)
        return have == attributes_of(directory, self._basis.owner, self._change_mode)

    def _wanted(self, entry: File | Symlink | Special) -> Entry:
        """Return what becomes of an entry."""
        if self._is_plain:
            return entry
        uid, gid = self._basis.owner or (entry.uid, entry.gid)
        if isinstance(entry, Symlink):
            return msgspec.structs.replace(entry, uid=uid, gid=gid)
        mode = attributes_of(entry, self._basis.owner, self._change_mode).mode
        if isinstance(entry, Special):
            mode |= entry.mode & ~0o7777
        return msgspec.structs.replace(entry, uid=uid, gid=gid, mode=mode)


def _bytes(entry: Entry) -> int:
    """Return what an entry, with all below it, takes on a disk, about."""
    size = entry.size if isinstance(entry, File | Subdirectory) else 0
    return size + names_of(entry) * _NAME_BYTES


def _has_links(directory: Directory) -> bool:
    return any(
        bool(one.links) if isinstance(one, Subdirectory) else isinstance(one, File) and one.link
        for one in directory.entries
    )


def _is_alike(was: Entry, entry: Entry, old: Entry | None) -> bool:
    """Say whether ``entry`` goes over what the base has without a question, then as now."""
    kinds = {isinstance(one, Subdirectory) for one in (was, entry, old) if one is not None}
    return old is not None and len(kinds) == 1


def _attributes(directory: Directory) -> Attributes:
    """Return those of a directory that is on the way, but for its time."""
    return Attributes(directory.uid, directory.gid, directory.mode, None, directory.xattrs)
