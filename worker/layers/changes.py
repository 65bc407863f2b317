"""What a layer says: the members that turn a parent's tree into its child's, from manifests alone.

Members come in walk order, each directory before what is in it. A directory is a member when it
is new, its own metadata changed, or something directly in it is a member, since unpacking that
changes its times. What became another kind of thing needs no whiteout: its member replaces it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.manifest import (
    Directory,
    Entry,
    File,
    Manifest,
    Special,
    Subdirectory,
    Symlink,
)
from worker.layers.errors import NotALayer
from worker.layers.hardlinks import link_plan
from worker.layers.member import (
    WHITEOUT,
    Member,
    directory_member,
    encoded_size,
    file_size,
    leaf_member,
    link_member,
    whiteout_member,
)


class _Change(NamedTuple):
    """One member, before it is one.

    Attributes:
        now: what is at ``path`` in the child; None if nothing is there any more.
        target: of a further name of a file, its path that the layer has before.
    """

    path: bytes
    now: Directory | File | Symlink | Special | None
    target: bytes | None = None


def members(parent: Manifest | None, child: Manifest) -> Iterator[Member]:
    """Yield the members of the layer that makes ``child`` of ``parent``.

    Without ``parent``, of an empty directory. Equal trees have none. Costs what changed, and
    the directories that have hard links.

    Raises:
        NotALayer: a name that begins with ``.wh.`` is added or changed.
    """
    return map(_member, _changes(parent, child))


def encoded_bytes(parent: Manifest | None, child: Manifest) -> int:
    """Return the length of these members and their contents in a tar; raises as ``members``."""
    return sum(map(_encoded_bytes, _changes(parent, child)))


def _changes(parent: Manifest | None, child: Manifest) -> Iterator[_Change]:
    if parent is not None and parent.tree == child.tree:
        return
    walk = _Walk(parent, child)
    stack = [walk.directory(_Pair(b"", parent.tree if parent else None, child.tree))]
    while stack:
        for found in stack[-1]:
            if isinstance(found, _Pair):
                stack.append(walk.directory(found))
                break
            yield found
        else:
            stack.pop()


def _member(change: _Change) -> Member:
    path, now, target = change
    match now:
        case None:
            return whiteout_member(path)
        case Directory():
            return directory_member(path, now)
        case File() if target is not None:
            return link_member(path, now, target)
        case _:
            return leaf_member(path, now)


def _encoded_bytes(change: _Change) -> int:
    path, now, target = change
    if target is None and isinstance(now, File):
        return file_size(path, now)
    return encoded_size(_member(change))


class _Pair(NamedTuple):
    """A directory of the child, and what the parent has in its place if that is one."""

    path: bytes
    old: Digest | None
    new: Digest


class _Walk:
    def __init__(self, parent: Manifest | None, child: Manifest) -> None:
        self._parent = parent
        self._child = child
        self._links = link_plan(parent, child)
        # A name can be written though its entry is the same, to be linked anew.
        self._written = {path for path, target in self._links.items() if target is not None}
        self._way = {above for path in self._written for above in _above(path)}

    def directory(self, pair: _Pair) -> Iterator[_Change | _Pair]:
        """Yield the changes of one directory, and its subdirectories where they belong."""
        old = None
        if self._parent is not None and pair.old is not None:
            old = self._parent.directory(pair.old)
        new = self._child.directory(pair.new)
        inside = self._inside(pair.path, old, new)
        is_direct = any(isinstance(at, _Change) or at.old is None for _, at in inside)
        if is_direct or old is None or old.header != new.header:
            yield _Change(pair.path, new)
        for _, found in inside:
            yield found

    def _inside(
        self, path: bytes, old: Directory | None, new: Directory
    ) -> list[tuple[bytes, _Change | _Pair]]:
        before = {entry.name: entry for entry in old.entries} if old is not None else {}
        prefix = path + b"/" if path else b""
        found: list[tuple[bytes, _Change | _Pair]] = []
        for entry in new.entries:
            was, at = before.pop(entry.name, None), prefix + entry.name
            if was == entry and at not in self._way and at not in self._written:
                continue
            if (item := self._changed(at, was, entry)) is not None:
                found.append((entry.name, item))
        for name in before:
            _check_name(prefix, name)
            found.append((name, _Change(prefix + name, None)))
        found.sort(key=_name)
        return found

    def _changed(self, path: bytes, was: Entry | None, entry: Entry) -> _Change | _Pair | None:
        _check_name(path, entry.name)
        if isinstance(entry, Subdirectory):
            old = was.tree if isinstance(was, Subdirectory) else None
            return _Pair(path, old, entry.tree)
        target = self._links.get(path, path)
        if target is None:
            return None
        return _Change(path, entry, None if target == path else target)


def _check_name(path: bytes, name: bytes) -> None:
    if name.startswith(WHITEOUT):
        raise NotALayer(
            f"{shown(path)}: in a layer a name that begins with {shown(WHITEOUT)} removes another:"
            " leave it out or give it another name"
        )


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the directories that ``path`` lies in, the root left out."""
    while path := path.rpartition(b"/")[0]:
        yield path


def _name(found: tuple[bytes, _Change | _Pair]) -> bytes:
    return found[0]
