"""What of one source stands behind others that go to the same place, and what ``--delete`` leaves."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
    put,
    subdirectory,
    with_entries,
)
from filesync.sync.filter import Filter
from filesync.sync.part import Part, Parts, Removal


def shadowing(parts: Parts, at: int) -> list[int]:
    """Return the other parts that may have names that the part ``at`` has, too."""
    return [
        number
        for number in parts.near(at)
        if number != at and _may_meet(parts[at], parts[number])
    ]


def stands_alone(parts: Parts, at: int, *, delete: bool) -> bool:
    """Say whether nobody has to know of a part before some of it comes to where nothing is.

    No other part has names where it goes, and none has to spare what it brings.
    """
    return not shadowing(parts, at) and (len(parts) == 1 or not delete)


def _may_meet(one: Part, other: Part) -> bool:
    if one.inside and other.inside:
        return one.inside == other.inside
    if one.names is not None and other.names is not None:
        return False  # they have none in common (see ``find_sources``)
    inside = one.inside or other.inside
    names = other.names if one.names is None else one.names
    return not inside or names is None or inside in names


def _seen(
    parts: Parts, at: int, tops: Mapping[int, Manifest], nodes: Nodes
) -> dict[int, Manifest]:
    """Return, of the parts that ``shadowing`` names, what comes to stand where the part ``at`` does."""
    found = {
        number: _seen_from(parts[at], parts[number], tops[number], nodes)
        for number in shadowing(parts, at)
    }
    return {number: manifest for number, manifest in found.items() if manifest is not None}


def _seen_from(part: Part, other: Part, top: Manifest, nodes: Nodes) -> Manifest | None:
    """Return what the tree ``top`` of ``other`` is where ``part`` goes; None if it is nothing.

    A directory that comes to stand in the destination is there one of several names.
    """
    if part.inside == other.inside:
        return top
    if other.inside:
        entry = subdirectory(nodes, other.inside, top.tree)
        return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, (entry,))), nodes)
    found = top.root.find(part.inside)
    return Manifest(found.tree, nodes) if isinstance(found, Subdirectory) else None


def unshadowed(parts: Parts, at: int, tops: Mapping[int, Manifest], nodes: Nodes) -> Manifest:
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
    top = tops[at]
    seen = _seen(parts, at, tops, nodes)
    if not seen:
        return top
    before = [number for number in seen if number < at]
    # Only what is all of a directory here has a root of its own.
    roots = (seen[number].root for number in before if _has_root(parts[number], parts[at]))
    root = next(roots, top.root)

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
        tuple(seen[number] for number in before),
        tuple(manifest for number, manifest in seen.items() if number > at),
        is_root=True,
    )
    return Manifest(canonical_links(nodes, grow(nodes, start, expand)), nodes)


def _has_root(part: Part, here: Part) -> bool:
    if part.names is not None:
        return part.trees and here.inside in part.names
    return part.inside in (b"", here.inside)


def _find(directories: Iterable[Directory], name: bytes) -> list[Entry]:
    return [found for one in directories if (found := one.find(name)) is not None]


def _directories(entries: Iterable[Entry], nodes: Nodes) -> tuple[Manifest, ...]:
    return tuple(Manifest(one.tree, nodes) for one in entries if isinstance(one, Subdirectory))


def removal_of(
    parts: Parts,
    at: int,
    given: Manifest,
    tops: Mapping[int, Manifest],
    rules: Sequence[bytes],
    nodes: Nodes,
) -> Removal:
    """Return what ``--delete`` removes for the part ``at``: what none of the parts has.

    Of names that is what is in a directory that is one, or in the way of one. ``given`` is what
    ``unshadowed`` returned for the part; for ``tops`` and ``nodes`` see there; ``rules`` say what
    is left alone.
    """
    part = parts[at]
    filter = Filter(rules, root=part.prefix)
    if part.is_of_files:
        return Removal(filter, rules=tuple(rules))
    others: list[Manifest] = []
    spared: set[bytes] = set()
    for number, seen in _seen(parts, at, tops, nodes).items():
        other = parts[number]
        is_met = isinstance(given.root.find(other.inside), Subdirectory)
        if part.inside or other == Part() or other.trees or is_met:
            others.append(seen)
        elif other.names is None:
            spared.add(other.inside)
        else:  # a name that this one gives stands before theirs
            spared |= {name for name in other.names if not given.root.find(name)}
    return Removal(filter, others, frozenset(spared), rules=tuple(rules))


class _At(msgspec.Struct, frozen=True):
    """A directory, and those in its place of the parts before and after."""

    directory: Directory
    before: tuple[Manifest, ...]
    after: tuple[Manifest, ...]
    is_root: bool = False
