"""What one sync is to do: what is there, what shall be, what differs."""

import msgspec

from filesync.digest import Digest
from filesync.disk.updating.visits import Counts, Visits, count
from filesync.errors import UsageError
from filesync.manifest import (
    Directory,
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
    put,
    with_entries,
)
from filesync.overlay import overlay
from filesync.sync.part import Removal


class Plan(msgspec.Struct, frozen=True):
    """What a place holds and shall hold."""

    basis: Manifest
    target: Manifest

    @property
    def is_done(self) -> bool:
        """Nothing differs."""
        return self.basis.tree == self.target.tree

    def counts(self) -> Counts:
        """Count what comes and goes; costs what has changed."""
        return count(Visits(self.basis, self.target).common())


def make_plan(
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    *,
    names: frozenset[bytes] | None = None,
    rename: bytes | None = None,
    removal: Removal | None = None,
) -> Plan:
    """Return what brings ``top`` to the place that holds ``basis``.

    Args:
        basis: what is there.
        top: what is given.
        nodes: holds both, and gets what is new.
        names: what of the place's directory is synced, if it is names; the directory itself
            is not then.
        rename: what the one name in ``top`` is called at the place.
        removal: what goes besides; None for nothing.

    Raises:
        UsageError: ``top`` is not what it was said to be.
    """
    if names is not None:
        return Plan(basis, Manifest(_with_names(basis, top, nodes, names, rename), nodes))
    if removal is None:
        return Plan(basis, overlay(basis, top))
    if not (removal.filter or removal.others or removal.spared):
        return Plan(basis, top)
    kept = canonical_links(nodes, _without_removed(basis, top, nodes, removal))
    return Plan(basis, overlay(Manifest(kept, nodes), top))


def _with_names(
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    names: frozenset[bytes],
    rename: bytes | None,
) -> Digest:
    given = {entry.name: entry for entry in top.root.entries}
    if any(isinstance(entry, Subdirectory) for entry in given.values()):
        raise UsageError("what was announced as a file is a directory")
    if rename is not None and given:
        if len(given) != 1:
            raise UsageError("what was announced as one file is more")
        (entry,) = given.values()
        given = {rename: msgspec.structs.replace(entry, name=rename)}
    if not names.issuperset(given):
        raise UsageError("other names are given than were announced")
    entries = {entry.name: entry for entry in basis.root.entries} | given
    return canonical_links(nodes, put(nodes, with_entries(basis.root, entries.values())))


class _At(msgspec.Struct, frozen=True):
    """A directory of the basis, and what the sources have in its place."""

    directory: Directory
    prefix: bytes
    tops: tuple[Manifest, ...]


def _without_removed(basis: Manifest, top: Manifest, nodes: Nodes, removal: Removal) -> Digest:
    """Return the tree of what is left of ``basis``.

    What the filter excludes stays, with the directories that lead to it.
    """

    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        roots = [manifest.root for manifest in at.tops]
        for entry in at.directory.entries:
            path = at.prefix + entry.name
            is_directory = isinstance(entry, Subdirectory)
            given = [root.find(entry.name) for root in roots]
            if (
                removal.filter.excludes(path, is_directory)
                or (not at.prefix and entry.name in removal.spared)
                or entry in given
            ):
                entries.append(entry)
            elif isinstance(entry, Subdirectory):
                below = tuple(
                    Manifest(one.tree, manifest.nodes)
                    for one, manifest in zip(given, at.tops, strict=True)
                    if isinstance(one, Subdirectory)
                )
                children.append(
                    (entry.name, _At(basis.directory(entry.tree), path + b"/", below))
                )
            elif any(given):
                entries.append(entry)
        return Expansion(at.directory, entries, children, drop_if_empty=not at.tops)

    return grow(nodes, _At(basis.root, b"", (top, *removal.others)), expand)
