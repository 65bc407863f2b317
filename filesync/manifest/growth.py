"""Growing: the one way in which trees are made, bottom-up, one directory at a time."""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final, Generic, TypeVar

import msgspec

from filesync.digest import Digest
from filesync.manifest.node import (
    Directory,
    Entry,
    Subdirectory,
    Summary,
    decode_trusted,
    encode,
)
from filesync.manifest.tree import Nodes, put_encoded, subdirectory

T = TypeVar("T")

_by_name: Final = attrgetter("name")


class Known(msgspec.Struct, frozen=True):
    """A directory as it was once made.

    Attributes:
        tree: digest of ``data``.
        data: its node.
        summary: what belongs to ``data``.
        below: (name, tree digest) of those of its subdirectories that are expanded, ascending by
            name.
    """

    tree: Digest
    data: bytes
    summary: Summary
    below: tuple[tuple[bytes, Digest], ...]


class Expansion(msgspec.Struct, Generic[T]):
    """A directory on its way: entries that are ready, and subdirectories still to be made.

    Attributes:
        header: gives mode, owner, times and xattrs; its entries are not looked at.
        entries: any order.
        children: (name, what to expand for it).
        drop_if_empty: leave the directory out when nothing came to be in it.
        known: gives header and entries in place of the two above. Where the children come out
            as they were, nothing of it is decoded, encoded or hashed.
        made: is told what a directory became that was not taken as it was known; not of one
            that was dropped.
    """

    header: Directory
    entries: list[Entry]
    children: list[tuple[bytes, T]]
    drop_if_empty: bool = False
    known: Known | None = None
    made: Callable[[Known], None] | None = None


class _Level(msgspec.Struct, Generic[T]):
    """One of the directories between the root and the one at hand."""

    name: bytes
    of: T
    at: Expansion[T]
    below: list[Subdirectory] = []


def grow(
    nodes: Nodes,
    root: T,
    expand: Callable[[T], Expansion[T]],
    *,
    done: Callable[[T, Digest], None] | None = None,
) -> Digest:
    """Make a tree and return its digest.

    ``expand`` is called once a directory, parents first, depth first, children from the last to
    the first. ``done`` is told of each that is not dropped, when it is in ``nodes`` with all
    that is in it. Memory is that of the directories between the root and the one at hand,
    however large the tree.
    """
    stack = [_Level(b"", root, expand(root))]
    while True:
        level = stack[-1]
        if level.at.children:
            name, child = level.at.children.pop()
            stack.append(_Level(name, child, expand(child)))
            continue
        stack.pop()
        tree = _finish(nodes, level, may_drop=bool(stack))
        if done is not None and tree is not None:
            done(level.of, tree)
        if not stack:
            assert tree is not None
            return tree
        if tree is not None:
            stack[-1].below.append(subdirectory(nodes, level.name, tree))


def with_entries(header: Directory, entries: Iterable[Entry]) -> Directory:
    """Return ``header`` with other entries, put in order."""
    ordered = tuple(sorted(entries, key=_by_name))
    return Directory(
        header.mode, header.uid, header.gid, header.mtime_ns, header.xattrs, ordered
    )


def _finish(nodes: Nodes, level: _Level[T], *, may_drop: bool) -> Digest | None:
    """Put a directory whose subdirectories are done; None if it is left out."""
    at = level.at
    may_drop = may_drop and at.drop_if_empty
    header, entries = at.header, at.entries
    below = tuple(sorted((entry.name, entry.tree) for entry in level.below))
    if at.known is not None:
        if at.known.below == below:
            if may_drop and not at.known.summary.entries:
                return None
            if at.known.tree not in nodes:
                nodes.write(at.known.tree, at.known.data, at.known.summary)
            return at.known.tree
        header = decode_trusted(at.known.data)
        expanded = {name for name, _ in at.known.below}
        entries = [entry for entry in header.entries if entry.name not in expanded]
    entries += level.below
    if may_drop and not entries:
        return None
    directory = with_entries(header, entries)
    data = encode(directory)
    tree = put_encoded(nodes, directory, data)
    if at.made is not None:
        at.made(Known(tree, data, nodes.summary(tree), below))
    return tree
