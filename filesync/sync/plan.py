"""What one sync is to do: what is there, what shall be, what differs."""

from collections.abc import Sequence
from functools import cached_property

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
from filesync.sync.part import Removal
from filesync.sync.unseen import Unseen
from filesync.trees.overlay import overlay


class Plan(msgspec.Struct, frozen=True, dict=True):
    """What a place holds and shall hold.

    Attributes:
        left_out: paths of what is given that will not be there, as a directory stands in its
            place and stays.
        is_of_names: the directory itself, in which they are, is not synced.
    """

    basis: Manifest
    target: Manifest
    left_out: tuple[bytes, ...] = ()
    is_of_names: bool = False

    @property
    def is_done(self) -> bool:
        """Nothing differs."""
        return self.basis.tree == self.target.tree

    @cached_property
    def visits(self) -> Visits:
        """The directories to enter; for the one update that does all of it, too."""
        return Visits(self.basis, self.target)

    def counts(self) -> Counts:
        """Count what comes and goes; costs what has changed."""
        return count(self.visits.common())


def make_plan(
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    *,
    names: frozenset[bytes] | None = None,
    trees: bool = False,
    rename: bytes | None = None,
    removal: Removal | None = None,
    unseen: Unseen | None = None,
) -> Plan:
    """Return what brings ``top`` to the place that holds ``basis``.

    A directory with anything in it that is not to be removed stays, and what else has its name
    in ``top`` is left out.

    Args:
        basis: what is there.
        top: what is given.
        nodes: holds both, and gets what is new.
        names: what of the place's directory is synced, if it is names; the directory itself
            is not then.
        trees: directories may be among the names.
        rename: what the one name in ``top`` is called at the place.
        removal: what goes besides; None for nothing.
        unseen: what the place has that ``basis`` does not show; None for nothing.

    Raises:
        UsageError: ``top`` is not what it was said to be.
        StoreError: what is unseen cannot be read.
    """
    if names is not None:
        top = _as_announced(top, nodes, names, rename, trees=trees)
        top = Manifest(put(nodes, with_entries(basis.root, top.root.entries)), nodes)
        if removal is not None:  # nothing but what is in one of them, or stands in its way
            given = {entry.name for entry in top.root.entries}
            others = {entry.name for entry in basis.root.entries} - given
            removal = msgspec.structs.replace(removal, spared=removal.spared | others)
    elif removal is not None and removal.is_of_all:
        return Plan(basis, top)
    standing = _Standing(unseen, is_cleared=removal is not None)
    kept = basis
    if removal is not None:
        tree = canonical_links(nodes, _without_removed(basis, top, nodes, removal))
        kept = Manifest(tree, nodes)
    target = overlay(kept, top, stays=standing.stays, nodes=nodes)
    return Plan(basis, target, tuple(standing.left_out), is_of_names=names is not None)


class _Standing:
    """Directories that stay where something else is given.

    Attributes:
        left_out: the paths that were asked for and stay, as they were asked for.
    """

    def __init__(self, unseen: Unseen | None, *, is_cleared: bool) -> None:
        """``is_cleared``: what may be removed is not there any more."""
        self.left_out: list[bytes] = []
        self._unseen = unseen
        self._is_cleared = is_cleared

    def stays(self, path: bytes, below: Entry | None) -> bool:
        is_kept = self._is_kept(path, below)
        if is_kept:
            self.left_out.append(path)
        return is_kept

    def _is_kept(self, path: bytes, below: Entry | None) -> bool:
        if isinstance(below, Subdirectory):
            if self._is_cleared or below.entries:
                return True
            return self._unseen is not None and self._unseen.is_in(path)
        return below is None and self._unseen is not None and self._unseen.is_directory(path)


def _as_announced(
    top: Manifest, nodes: Nodes, names: frozenset[bytes], rename: bytes | None, *, trees: bool
) -> Manifest:
    """Return the names that are given, as they are called at the place."""
    given = top.root.entries
    if not trees and any(isinstance(entry, Subdirectory) for entry in given):
        raise UsageError("what was announced as a file is a directory")
    if rename is not None and given:
        if len(given) != 1:
            raise UsageError("what was announced as one file is more")
        given = (msgspec.structs.replace(given[0], name=rename),)
        top = Manifest(canonical_links(nodes, put(nodes, with_entries(top.root, given))), nodes)
    if not names.issuperset(entry.name for entry in given):
        raise UsageError("other names are given than were announced")
    return top


class _At(msgspec.Struct, frozen=True):
    """A directory of the basis, and what the sources have in its place.

    Attributes:
        tops: the directories of the sources that have one.
        has_own: the source at hand does: its is the first.
    """

    directory: Directory
    prefix: bytes
    tops: tuple[Manifest, ...]
    has_own: bool


def _without_removed(basis: Manifest, top: Manifest, nodes: Nodes, removal: Removal) -> Digest:
    """Return the tree of what is left of ``basis``.

    What the filter excludes stays, with the directories that lead to it, and to what nobody saw.
    """

    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        roots = [manifest.root for manifest in at.tops]
        for entry in at.directory.entries:
            path = at.prefix + entry.name
            is_directory = isinstance(entry, Subdirectory)
            given = [root.find(entry.name) for root in roots]
            own = given[0] if at.has_own else None
            if (
                entry in given
                or removal.filter.excludes(path, is_directory)
                or (not at.prefix and entry.name in removal.spared)
                or (own is None and _is_for_another(entry, given))
            ):
                entries.append(entry)
            elif isinstance(entry, Subdirectory):
                below = tuple(
                    Manifest(one.tree, manifest.nodes)
                    for one, manifest in zip(given, at.tops, strict=True)
                    if isinstance(one, Subdirectory)
                )
                children.append(
                    (
                        entry.name,
                        _At(
                            basis.directory(entry.tree),
                            path + b"/",
                            below,
                            has_own=isinstance(own, Subdirectory),
                        ),
                    )
                )
            elif any(given):
                entries.append(entry)
        is_extra = not at.tops and at.prefix[:-1] not in removal.leading
        return Expansion(at.directory, entries, children, drop_if_empty=is_extra)

    start = _At(basis.root, b"", (top, *removal.others), has_own=True)
    return grow(nodes, start, expand)


def _is_for_another(entry: Entry, given: Sequence[Entry | None]) -> bool:
    """Say whether a directory is in the way of what other sources have by its name: no directories.

    Whether that comes, for which all in the directory has to go, shows when it is their turn.
    """
    there = [one for one in given if one is not None]
    is_met = bool(there) and not any(isinstance(one, Subdirectory) for one in there)
    return is_met and isinstance(entry, Subdirectory)
