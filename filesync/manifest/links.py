"""Hard-link groups: which names of a tree are one file.

A group's name is the BLAKE3 of its first member's path in walk order, cut to eight bytes, and a
file that is alone in its group has none. So equal trees have equal digests however they came to
be, and a subtree keeps its digest when something changes elsewhere. Filtering or patching a tree
can take a group's first member away; ``canonical_links`` names the groups again. It enters
only subtrees that have links in them.
"""

import msgspec

from filesync.digest import Digest, digest_of
from filesync.manifest.growth import Expansion, grow
from filesync.manifest.node import LINK_GROUP_BYTES, Directory, Entry, File, Subdirectory
from filesync.manifest.tree import Manifest, Nodes


def group_name(first_path: bytes) -> bytes:
    """Return the name of the group whose first member stands at ``first_path``."""
    return digest_of(first_path)[:LINK_GROUP_BYTES]


def link_groups(manifest: Manifest) -> dict[bytes, list[bytes]]:
    """Return each group's paths, in walk order."""
    groups: dict[bytes, list[bytes]] = {}
    stack: list[tuple[bytes, Directory]] = [(b"", manifest.root)]
    while stack:
        prefix, directory = stack.pop()
        for entry in directory.entries:
            if isinstance(entry, File) and entry.link:
                groups.setdefault(entry.link, []).append(prefix + entry.name)
            elif isinstance(entry, Subdirectory) and entry.links:
                stack.append((prefix + entry.name + b"/", manifest.directory(entry.tree)))
    for paths in groups.values():
        paths.sort(key=lambda path: path.split(b"/"))
    return groups


class _At(msgspec.Struct, frozen=True):
    directory: Directory
    path: bytes


def canonical_links(nodes: Nodes, tree: Digest) -> Digest:
    """Return the digest of ``tree`` with every hard-link group named by the rule."""
    if not nodes.summary(tree).links:
        return tree
    manifest = Manifest(tree, nodes)
    groups = link_groups(manifest)
    names = {
        group: group_name(paths[0]) if len(paths) > 1 else b""
        for group, paths in groups.items()
    }
    if all(old == new for old, new in names.items()):
        return tree

    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        for entry in at.directory.entries:
            if isinstance(entry, Subdirectory) and entry.links:
                below = _At(manifest.directory(entry.tree), at.path + entry.name + b"/")
                children.append((entry.name, below))
            elif isinstance(entry, File) and entry.link:
                entries.append(msgspec.structs.replace(entry, link=names[entry.link]))
            else:
                entries.append(entry)
        return Expansion(at.directory, entries, children)

    return grow(nodes, _At(manifest.root, b""), expand)
