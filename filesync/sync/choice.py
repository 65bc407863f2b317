"""Which names of a source come, by what stands there: ``--existing``, ``--ignore-existing``, ``-u``.

All of it is worked out by who syncs: a server is given, or gives, a tree as ever, and is not told
why. What does not come is not part of what is given; what stands in its place stays, with ``--delete`` too.
A directory that is there gets the mode, owner and times of the one that is given, whatever is in it.
"""

from typing import NamedTuple

import msgspec

from filesync.manifest import (
    Directory,
    Entry,
    Expansion,
    File,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
)
from filesync.sync.options import Choice
from filesync.sync.part import Removal


class Chosen(NamedTuple):
    """What comes of a source.

    Attributes:
        given: its tree without the rest.
        removal: what is removed, which is nothing that stays for the rest not coming.
    """

    given: Manifest
    removal: Removal | None


def choose(
    choice: Choice,
    basis: Manifest,
    given: Manifest,
    removal: Removal | None,
    nodes: Nodes,
    *,
    rename: bytes | None = None,
) -> Chosen:
    """Return what comes of ``given`` to the place that holds ``basis``.

    Args:
        choice: what of it.
        basis: what is there.
        given: what would come.
        removal: what is to be removed there.
        nodes: holds both, and gets what is new.
        rename: what the one name that is given is called there.
    """
    if not choice or basis.tree == given.tree:
        return Chosen(given, removal)
    if removal is not None:
        stays = _staying(choice, basis, given, nodes, rename)
        removal = msgspec.structs.replace(removal, others=(*removal.others, stays))
    return Chosen(_coming(choice, basis, given, nodes, rename), removal)


def _comes(choice: Choice, given: Entry, there: Entry | None) -> bool:
    if there is None:
        return not choice.only_existing
    if isinstance(given, Subdirectory) and isinstance(there, Subdirectory):
        return True
    if choice.only_new:
        return False
    if not (isinstance(given, File) and isinstance(there, File)):
        return True  # no mtime matters where the kinds differ
    return not choice.no_older or there.mtime_ns <= given.mtime_ns


class _At(msgspec.Struct, frozen=True):
    """A directory that is given, and the one in its place; None where there is none."""

    given: Directory
    there: Directory | None
    rename: bytes | None = None

    def find(self, name: bytes) -> Entry | None:
        """Return what is there where ``name`` goes."""
        return None if self.there is None else self.there.find(self.rename or name)


def _coming(
    choice: Choice, basis: Manifest, given: Manifest, nodes: Nodes, rename: bytes | None
) -> Manifest:
    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        for entry in at.given.entries:
            there = at.find(entry.name)
            if not _comes(choice, entry, there):
                continue
            if not isinstance(entry, Subdirectory) or there is None:
                entries.append(entry)  # of what is not there, all
            elif not isinstance(there, Subdirectory):
                if choice.only_existing:
                    children.append((entry.name, _At(given.directory(entry.tree), None)))
                else:
                    entries.append(entry)
            elif there.tree == entry.tree and not (choice.only_new and entry.links):
                entries.append(entry)
            else:  # what comes of it may be linked to what does not
                below = _At(given.directory(entry.tree), basis.directory(there.tree))
                children.append((entry.name, below))
        return Expansion(at.given, entries, children)

    tree = grow(nodes, _At(given.root, basis.root, rename), expand)
    return Manifest(canonical_links(nodes, tree), nodes)


def _staying(
    choice: Choice, basis: Manifest, given: Manifest, nodes: Nodes, rename: bytes | None
) -> Manifest:
    """Return what of ``basis`` stays for what does not come, and the directories that lead there."""

    def expand(at: _At) -> Expansion[_At]:
        assert at.there is not None
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        for entry in at.given.entries:
            there = at.find(entry.name)
            if there is None:
                continue
            if not _comes(choice, entry, there):
                entries.append(there)
            elif (
                isinstance(entry, Subdirectory)
                and isinstance(there, Subdirectory)
                and (there.tree != entry.tree or (choice.only_new and entry.links))
            ):
                below = _At(given.directory(entry.tree), basis.directory(there.tree))
                children.append((entry.name, below))
        return Expansion(at.there, entries, children)

    tree = grow(nodes, _At(given.root, basis.root, rename), expand)
    return Manifest(canonical_links(nodes, tree), nodes)
