"""What of one source stands behind sources that are named before it."""

from collections.abc import Mapping, Sequence

import msgspec

from filesync.manifest import (
    Directory,
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
)
from filesync.sync.part import Part


def shadowing(parts: Sequence[Part], at: int) -> list[int]:
    """Return the parts before the part ``at`` that may have names that it has, too."""
    # No two parts that are names have one in common (see ``find_sources``).
    return [
        number
        for number, other in enumerate(parts[:at])
        if other.inside == parts[at].inside and (other.names is None or parts[at].names is None)
    ]


def unshadowed(
    parts: Sequence[Part], at: int, tops: Mapping[int, Manifest], nodes: Nodes
) -> Manifest:
    """Return the tree of the part ``at`` without names that parts before it have.

    Those would be replaced by the first's at once, in each run anew. Where both have a directory
    of one name its entries are looked at in their turn, and its own mode, owner and times are
    the first's.

    Args:
        parts: all parts.
        at: which of them.
        tops: the tree of this one, and of all that ``shadowing`` names.
        nodes: has them all, and gets what is new.
    """
    top, numbers = tops[at], shadowing(parts, at)
    if not numbers:
        return top
    # What is names has no root of its own.
    root = next((tops[number].root for number in numbers if not parts[number].names), top.root)

    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        roots = [manifest.root for manifest in at.before]
        for entry in at.directory.entries:
            given = [found for root in roots if (found := root.find(entry.name)) is not None]
            if not given:
                entries.append(entry)
            elif isinstance(entry, Subdirectory) and isinstance(given[0], Subdirectory):
                below = tuple(
                    Manifest(one.tree, nodes) for one in given if isinstance(one, Subdirectory)
                )
                children.append((entry.name, _At(top.directory(entry.tree), below)))
        header = root if at.is_root else roots[0]
        return Expansion(header, entries, children)

    before = tuple(tops[number] for number in numbers)
    tree = grow(nodes, _At(top.root, before, is_root=True), expand)
    return Manifest(canonical_links(nodes, tree), nodes)


class _At(msgspec.Struct, frozen=True):
    directory: Directory
    before: tuple[Manifest, ...]
    is_root: bool = False
