"""A tree without what rules leave out, as a scan with them would have found it."""

import msgspec

from filesync.digest import Digest
from filesync.manifest import (
    Entry,
    Expansion,
    Manifest,
    Subdirectory,
    canonical_links,
    grow,
)
from filesync.sync.filter import Filter


class _At(msgspec.Struct, frozen=True):
    tree: Digest
    prefix: bytes


def without(manifest: Manifest, filter: Filter) -> Manifest:
    """Return ``manifest`` without what ``filter`` leaves out; what is new goes to its nodes."""
    if not filter:
        return manifest

    def expand(at: _At) -> Expansion[_At]:
        directory = manifest.directory(at.tree)
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        for entry in directory.entries:
            path = at.prefix + entry.name
            if filter.excludes(path, isinstance(entry, Subdirectory)):
                continue
            if isinstance(entry, Subdirectory):
                children.append((entry.name, _At(entry.tree, path + b"/")))
            else:
                entries.append(entry)
        return Expansion(directory, entries, children)

    nodes = manifest.nodes
    tree = grow(nodes, _At(manifest.tree, b""), expand)
    return Manifest(canonical_links(nodes, tree), nodes)
