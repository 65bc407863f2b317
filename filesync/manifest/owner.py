"""Whose a tree is: of one user, or group, throughout; or as far as who writes it may say."""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from msgspec.structs import replace

from filesync.digest import Digest
from filesync.manifest.growth import Expansion, Known, grow
from filesync.manifest.leaving import Leaf, One, leaving
from filesync.manifest.node import (
    Directory,
    Entry,
    File,
    Special,
    Subdirectory,
    Symlink,
    subdirectories,
)
from filesync.manifest.tree import Manifest, Nodes

MAX_GROUPS: Final = 4096
"""Bound on those of one writer; whoever is in more gives files none of the others."""
OTHERS: Final = 0xFFFFFFFF
"""Stands for each group of which a writer is no member. It is none: to chown(2) it says that
nothing is to change."""
_OTHERS: Final = b"\xce" + OTHERS.to_bytes(4, "big")
"""As it is encoded in a node."""


class Writer(NamedTuple):
    """A user who may not give files away: what he makes is his, and of a group that he is in."""

    uid: int
    groups: frozenset[int]

    def owner(self, one: Leaf | Directory, *, others: int = OTHERS) -> tuple[int, int]:
        """Return whose ``one`` is as he makes it: his, and of ``others`` if it is of no group of his."""
        return self.uid, one.gid if one.gid in self.groups else others

    def written(self, one: One) -> One:
        """Return ``one`` as he makes it."""
        uid, gid = self.owner(one)
        return replace(one, uid=uid, gid=gid)


def owned_by(manifest: Manifest, nodes: Nodes, uid: int | None, gid: int | None) -> Manifest:
    """Return ``manifest`` with this user and group throughout; its nodes go to ``nodes``.

    None leaves each with its own.
    """

    def owner(one: Leaf | Directory) -> tuple[int, int]:
        return one.uid if uid is None else uid, one.gid if gid is None else gid

    return _with_owners(manifest, nodes, owner)


def as_written_by(
    writer: Writer, manifest: Manifest, nodes: Nodes, *, others: int = OTHERS
) -> Manifest:
    """Return what ``writer`` is to make of ``manifest``: all is his, and of ``others`` what is of no group of his.

    Its nodes go to ``nodes``.
    """
    return _with_owners(manifest, nodes, partial(writer.owner, others=others))


def _with_owners(
    manifest: Manifest, nodes: Nodes, owner: Callable[[Leaf | Directory], tuple[int, int]]
) -> Manifest:
    def expand(tree: Digest) -> Expansion[Digest]:
        directory = manifest.directory(tree)
        children: list[tuple[bytes, Digest]] = []
        entries: list[Entry] = []
        uid, gid = owner(directory)
        is_same = (uid, gid) == (directory.uid, directory.gid)
        expansion = Expansion(_header(directory, uid, gid), entries, children)
        for entry in directory.entries:
            if isinstance(entry, Subdirectory):
                children.append((entry.name, entry.tree))
                continue
            uid, gid = owner(entry)
            if uid != entry.uid or gid != entry.gid:
                is_same, entry = False, _with_owner(entry, uid, gid)
            entries.append(entry)
        if is_same:  # most often all is: nothing need be encoded again
            data, summary = manifest.nodes.read(tree), manifest.nodes.summary(tree)
            expansion.known = Known(tree, data, summary, tuple(children))
        return expansion

    return Manifest(grow(nodes, manifest.tree, expand), nodes)


def seem_others(manifest: Manifest) -> bool:
    """Say whether something in a tree is of ``OTHERS``; it may be a digest that looks like it."""
    level = [manifest.tree]
    while level:
        below: dict[Digest, None] = {}
        for tree in level:
            data = manifest.nodes.read(tree)
            if _OTHERS in data:
                return True
            below.update((entry.tree, None) for entry in subdirectories(data))
        level = list(below)
    return False


def as_left(
    basis: Manifest, top: Manifest, nodes: Nodes, *, rename: bytes | None = None
) -> Manifest:
    """Return ``basis`` with those owners that ``top`` has and a writer will not set: those differ no more.

    These are the users, and the groups of what is of ``OTHERS`` in ``top``. For the rest see ``leaving``.
    """
    return leaving(basis, top, nodes, _left, rename=rename)


def _left(has: One, wanted: Leaf | Directory) -> One:
    gid = OTHERS if wanted.gid == OTHERS else has.gid
    if (wanted.uid, gid) == (has.uid, has.gid):
        return has
    return replace(has, uid=wanted.uid, gid=gid)


def _header(directory: Directory, uid: int, gid: int) -> Directory:
    return Directory(directory.mode, uid, gid, directory.mtime_ns, directory.xattrs, ())


def _with_owner(entry: Leaf, uid: int, gid: int) -> Leaf:
    match entry:
        case File(name, mode, _, _, mtime_ns, size, digest, link, xattrs):
            return File(name, mode, uid, gid, mtime_ns, size, digest, link, xattrs)
        case Symlink(name, _, _, mtime_ns, target, xattrs):
            return Symlink(name, uid, gid, mtime_ns, target, xattrs)
        case Special(name, mode, _, _, mtime_ns, major, minor, xattrs):
            return Special(name, mode, uid, gid, mtime_ns, major, minor, xattrs)
