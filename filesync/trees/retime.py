"""A tree whose names all have one time."""

import msgspec

from filesync.digest import Digest
from filesync.manifest import Entry, Expansion, Manifest, Nodes, Subdirectory, grow


def with_times(tree: Manifest, nodes: Nodes, *, mtime_ns: int) -> Manifest:
    """Return ``tree`` with everything in it, and its root, last changed at ``mtime_ns``.

    Its contents are the same. The new directory nodes are written to ``nodes``.
    """

    def expand(at: Digest) -> Expansion[Digest]:
        directory = tree.directory(at)
        entries: list[Entry] = []
        children: list[tuple[bytes, Digest]] = []
        for entry in directory.entries:
            if isinstance(entry, Subdirectory):
                children.append((entry.name, entry.tree))
            else:
                entries.append(msgspec.structs.replace(entry, mtime_ns=mtime_ns))
        header = msgspec.structs.replace(directory, mtime_ns=mtime_ns, entries=())
        return Expansion(header, entries, children)

    return Manifest(grow(nodes, tree.tree, expand), nodes)
