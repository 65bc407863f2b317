"""What of one source stands behind other sources that go to the same place."""

from collections.abc import Iterable, Mapping, Sequence

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
    """Return the other parts that may have names that the part ``at`` has, too."""
    # No two parts that are names have one in common (see ``find_sources``).
    return [
        number
        for number, other in enumerate(parts)
        if number != at
        and other.inside == parts[at].inside
        and (other.names is None or parts[at].names is None)
    ]


def unshadowed(
    parts: Sequence[Part], at: int, tops: Mapping[int, Manifest], nodes: Nodes
) -> Manifest:
    """Return the tree of the part ``at`` without what stands behind others.

    That would be replaced by theirs at once, in each run anew. As in rsync, a directory stands
    before anything else of its name, for what is in it; of the others, the first one. Where
    several have a directory, their entries are looked at in their turn, and its own mode, owner
    and times are the first's.

    Args:
        parts: all parts.
        at: which of them.
        tops: the tree of this one, and of all that ``shadowing`` names.
        nodes: has them all, and gets what is new.
    """
    top, numbers = tops[at], shadowing(parts, at)
    if not numbers:
        return top
    before = [number for number in numbers if number < at]
    # What is names has no root of its own.
    root = next((tops[number].root for number in before if not parts[number].names), top.root)

    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        first = [manifest.root for manifest in at.before]
        later = [manifest.root for manifest in at.after]
        for entry in at.directory.entries:
            ahead, behind = _find(first, entry.name), _find(later, entry.name)
            above, below = _directories(ahead, nodes), _directories(behind, nodes)
            if not isinstance(entry, Subdirectory):
                if not ahead and not below:
                    entries.append(entry)
            elif above or below:
                children.append((entry.name, _At(top.directory(entry.tree), above, below)))
            else:
                entries.append(entry)
        header = root if at.is_root else [*first, at.directory][0]
        return Expansion(header, entries, children)

    start = _At(
        top.root,
        tuple(tops[number] for number in before),
        tuple(tops[number] for number in numbers if number > at),
        is_root=True,
    )
    return Manifest(canonical_links(nodes, grow(nodes, start, expand)), nodes)


def _find(directories: Iterable[Directory], name: bytes) -> list[Entry]:
    return [found for one in directories if (found := one.find(name)) is not None]


def _directories(entries: Iterable[Entry], nodes: Nodes) -> tuple[Manifest, ...]:
    return tuple(Manifest(one.tree, nodes) for one in entries if isinstance(one, Subdirectory))


class _At(msgspec.Struct, frozen=True):
    """A directory, and those in its place of the parts before and after."""

    directory: Directory
    before: tuple[Manifest, ...]
    after: tuple[Manifest, ...]
    is_root: bool = False
