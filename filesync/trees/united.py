"""Several directories of one tree as one: the tree of what is in all of them.

It is as in rsync: what several of them have of one name is the first one's, a directory stands before
anything else, and directories of one name are one, as the first is.
"""

from collections.abc import Collection, Sequence

from filesync.digest import Digest
from filesync.errors import SourceChanged
from filesync.manifest import (
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
)


def below(path: bytes, depth: int) -> bytes:
    """Return what stands in ``path`` behind the first ``depth`` names; b"" if nothing does."""
    names = path.split(b"/", depth)
    return names[depth] if len(names) > depth else b""


def depth_of(paths: Sequence[bytes]) -> int:
    """Return how many names lead to each of ``paths``, which are united."""
    return paths[0].count(b"/") + 1


def unite(scanned: Manifest, paths: Sequence[bytes], nodes: Nodes) -> Manifest:
    """Return what the directories ``paths``, in this order, of a tree come to.

    Args:
        scanned: the tree.
        paths: of directories in it, all as many names down.
        nodes: holds it, and gets what is new.

    Raises:
        SourceChanged: one of them is not there any more, or is none. Left out, it would have had nothing in it,
            and all that it gave would go.
    """
    found = _trees(scanned, depth_of(paths))
    if not found.keys() >= set(paths):
        raise SourceChanged("the directories changed while they were scanned; run again", b"")
    tops = tuple(found[path] for path in paths)

    def expand(at: tuple[Digest, ...]) -> Expansion[tuple[Digest, ...]]:
        directories = [scanned.directory(tree) for tree in at]
        first: dict[bytes, Entry] = {}
        trees: dict[bytes, list[Digest]] = {}
        for entry in (entry for directory in directories for entry in directory.entries):
            if isinstance(entry, Subdirectory):
                trees.setdefault(entry.name, []).append(entry.tree)
                if not isinstance(first.get(entry.name), Subdirectory):
                    first[entry.name] = entry
            else:
                first.setdefault(entry.name, entry)
        both = {name: tuple(found) for name, found in trees.items() if len(found) > 1}
        entries = [entry for name, entry in first.items() if name not in both]
        return Expansion(directories[0], entries, [*both.items()])

    return Manifest(canonical_links(nodes, grow(nodes, tops, expand)), nodes)


def nowhere_else(
    scanned: Manifest, paths: Sequence[bytes], empty: Collection[bytes]
) -> list[bytes]:
    """Return those of directories that were taken for ``empty`` which are so in all of ``paths``.

    That is by what they are called in these; ``empty`` has them as they are in ``scanned``.
    """
    tops = [
        (path, Manifest(tree, scanned.nodes))
        for path, tree in (_trees(scanned, depth_of(paths)) if empty else {}).items()
    ]

    def is_elsewhere(name: bytes) -> bool:
        return any(
            path + b"/" + name not in empty and isinstance(top.find(name), Subdirectory)
            for path, top in tops
        )

    names = dict.fromkeys(below(path, depth_of(paths)) for path in empty)
    return [name for name in names if name and not is_elsewhere(name)]


def _trees(scanned: Manifest, depth: int) -> dict[bytes, Digest]:
    """Return the directories ``depth`` names down, by path; each of those above them is read once."""
    found = {b"": scanned.tree}
    for _ in range(depth):
        found = {
            path + b"/" * bool(path) + entry.name: entry.tree
            for path, tree in found.items()
            for entry in scanned.directory(tree).entries
            if isinstance(entry, Subdirectory)
        }
    return found
