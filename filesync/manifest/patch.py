"""Patching a manifest: a tree and a description of what changed in it give the new tree.

A ``Change`` describes one directory as an overlay's upper directory does: what replaced or
joined its entries, which names went, what changed further down. What it does not speak of is
kept by digest and never read, so a patch costs what changed and not what there is.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from filesync.digest import Digest, digest_of
from filesync.errors import LocalError
from filesync.manifest.growth import Expansion, grow
from filesync.manifest.links import canonical_links
from filesync.manifest.node import (
    EMPTY_DIRECTORY,
    LINK_GROUP_BYTES,
    Directory,
    Entry,
    File,
    Special,
    Subdirectory,
    Symlink,
)
from filesync.manifest.tree import Manifest, Nodes


class Change(msgspec.Struct, frozen=True, eq=False):
    """What changed in one directory.

    Attributes:
        header: its new mode, owner, times and xattrs; None keeps them.
        opaque: nothing of the old directory stays.
        entries: replace or join the old entries. Their hard-link groups are their own: files
            are one where these entries say so, and none of them is one with a kept file.
        removed: names that went; one that is also in ``entries`` or ``children`` is there.
        children: subdirectories that are new or changed. Where the old entry is no directory,
            or is not there, the change is made to an empty one.
    """

    header: Directory | None = None
    opaque: bool = False
    entries: Sequence[File | Symlink | Special] = ()
    removed: Collection[bytes] = frozenset()
    children: Mapping[bytes, "Change"] = {}


class _At(msgspec.Struct, frozen=True):
    old: Directory | None
    change: Change


def patch(nodes: Nodes, base: Digest | None, change: Change) -> Digest:
    """Return the digest of the tree ``base`` with ``change`` made; None is an empty tree.

    Raises:
        LocalError: a name is both an entry and a subdirectory of the same change.
    """

    def enter(tree: Digest | None, below: Change) -> _At:
        return _At(Manifest(tree, nodes).root if tree is not None else None, below)

    def expand(at: _At) -> Expansion[_At]:
        change = at.change
        kept = at.old.entries if at.old is not None and not change.opaque else ()
        old_trees = {e.name: e.tree for e in kept if isinstance(e, Subdirectory)}
        entries: list[Entry] = [_own_group(entry) for entry in change.entries]
        replaced = {entry.name for entry in entries}
        if not replaced.isdisjoint(change.children):
            raise LocalError("a change has one name as an entry and as a subdirectory")
        gone = replaced.union(change.removed, change.children)
        entries += [entry for entry in kept if entry.name not in gone]
        children = [
            (name, enter(old_trees.get(name), below)) for name, below in change.children.items()
        ]
        return Expansion(change.header or at.old or EMPTY_DIRECTORY, entries, children)

    return canonical_links(nodes, grow(nodes, enter(base, change), expand))


def _own_group(entry: File | Symlink | Special) -> File | Symlink | Special:
    """Return ``entry`` in a group that no file of the old tree can be in."""
    if not isinstance(entry, File) or not entry.link:
        return entry
    group = digest_of(b"\0changed\0" + entry.link)[:LINK_GROUP_BYTES]
    return msgspec.structs.replace(entry, link=group)
