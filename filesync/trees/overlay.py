"""One tree laid over another."""

from collections.abc import Callable

import msgspec

from filesync.digest import Digest, digest_of
from filesync.manifest import (
    Entry,
    Expansion,
    File,
    Known,
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
)
from filesync.manifest.node import LINK_GROUP_BYTES, differing

Stays = Callable[[bytes, Entry | None], bool]
"""Whether what ``base`` has at a path, or nothing, stays where ``top`` has no directory."""


def overlay(
    base: Manifest, top: Manifest, *, stays: Stays | None = None, nodes: Nodes | None = None
) -> Manifest:
    """Return ``base`` with all that ``top`` has laid over it.

    Where both have a directory of one name, their entries are united and the directory's own
    mode, owner and times are ``top``'s, the root's too; where anything else of one name meets,
    ``top``'s stands alone, unless ``stays`` says that it is left out. New nodes go to ``nodes``,
    which holds both; else they are kept in memory, above those of the two.
    """
    if base.tree == top.tree:
        return top
    if nodes is None:
        nodes = LayeredNodes(MemoryNodes(), LayeredNodes(top.nodes, base.nodes))
    base_tree = base.tree
    if base.summary.links and top.summary.links:
        # Both name a group by its first path: without this two of one name would become one.
        base_tree = with_other_groups(nodes, base_tree, b"base")
    root = _Both(base_tree, top.tree, b"")
    tree = grow(nodes, root, lambda at: _unite(nodes, at, stays))
    return Manifest(canonical_links(nodes, tree), nodes)


class _Both(msgspec.Struct, frozen=True):
    base: Digest
    top: Digest
    prefix: bytes


def _unite(nodes: Nodes, at: _Both, stays: Stays | None) -> Expansion[_Both]:
    base, top = Manifest(at.base, nodes), Manifest(at.top, nodes)
    sketch = top.sketch(at.top)
    before, given = differing(base.sketch(at.base).entries, sketch.entries)
    left = {entry.name: entry for entry in before}
    both: dict[bytes, _Both] = {}
    out = set[bytes]()
    for entry in given:
        path, below = at.prefix + entry.name, left.get(entry.name)
        if isinstance(entry, Subdirectory):
            if isinstance(below, Subdirectory) and below.tree != entry.tree:
                both[entry.name] = _Both(below.tree, entry.tree, path + b"/")
        elif stays is not None and stays(path, below):
            out.add(entry.name)
            continue
        left.pop(entry.name, None)
    expansion = Expansion(sketch.header, [*left.values()], [*both.items()])
    if left or out:
        out.update(both)
        expansion.entries += [one for one in top.root.entries if one.name not in out]
    else:  # most often all is as the top has it: nothing need be encoded again
        entered = tuple((name, one.top) for name, one in both.items())
        expansion.known = Known(at.top, nodes.read(at.top), top.summary, entered)
    return expansion


def with_root_of(tree: Manifest, other: Manifest) -> Manifest:
    """Return ``tree`` with a root that has the mode, owner and xattrs of ``other``'s.

    The new node is kept in memory, above ``tree``'s.
    """
    nodes = LayeredNodes(MemoryNodes(), tree.nodes)
    root = tree.root
    header = msgspec.structs.replace(other.header, mtime_ns=root.mtime_ns)
    alone: Expansion[Digest] = Expansion(header, [*root.entries], [])
    return Manifest(grow(nodes, tree.tree, lambda _: alone), nodes)


def with_other_groups(nodes: Nodes, tree: Digest, salt: bytes) -> Digest:
    """Return ``tree`` with hard-link groups of other names, which depend on ``salt``.

    So it can become part of a tree in which a group may have such a name already; name them by
    the rule then (``canonical_links``).
    """
    manifest = Manifest(tree, nodes)

    def expand(at: Digest) -> Expansion[Digest]:
        directory = manifest.directory(at)
        entries: list[Entry] = []
        children: list[tuple[bytes, Digest]] = []
        for entry in directory.entries:
            if isinstance(entry, Subdirectory) and entry.links:
                children.append((entry.name, entry.tree))
            elif isinstance(entry, File) and entry.link:
                other = digest_of(salt + entry.link)[:LINK_GROUP_BYTES]
                entries.append(msgspec.structs.replace(entry, link=other))
            else:
                entries.append(entry)
        return Expansion(directory, entries, children)

    return grow(nodes, tree, expand)
