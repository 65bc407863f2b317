"""What differs between two trees, from their manifests alone.

The diff enters only directories whose digests differ, so it costs what changed and not what is
there. A directory that only one tree has is one entry of its parent's diff and is not entered:
whoever needs what is inside can walk it, and who moves it whole need not.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from filesync.digest import Digest
from filesync.manifest import Directory, Entry, File, Manifest, Subdirectory
from filesync.manifest.node import Sketch, differing


class DirectoryDiff(msgspec.Struct, frozen=True):
    """What differs in one directory that both trees have.

    A subdirectory that both have under one name is in none of the lists: if it differs it has
    a diff of its own, further on.

    Attributes:
        path: '/'-separated, no slash at the ends; ``b""`` is the root.
        old: the directory as it was, without its entries; None for the root of a tree that starts
            from nothing.
        was: the tree digest of that.
        new: the directory as it shall be, without its entries.
        tree: the tree digest of that.
        removed: names that are gone, ascending.
        added: names that are new, ascending.
        changed: (old, new) entries of one name, ascending; not two subdirectories.
    """

    path: bytes
    old: Directory | None
    was: Digest | None
    new: Directory
    tree: Digest
    removed: tuple[Entry, ...]
    added: tuple[Entry, ...]
    changed: tuple[tuple[Entry, Entry], ...]


class _Pair(NamedTuple):
    """A directory that differs: its name, and how long the path above it is, which leads its own."""

    name: bytes
    above: int
    old: Digest | None
    new: Digest


def diff(old: Manifest | None, new: Manifest) -> Iterator[DirectoryDiff]:
    """Yield the directories of ``new`` that differ from ``old``, in walk order.

    Without ``old`` the root is one diff that adds everything. Equal trees yield nothing.
    Memory is that of the directories between the root and the one at hand.
    """
    if old is not None and old.tree == new.tree:
        return
    stack = [iter((_Pair(b"", 0, old.tree if old is not None else None, new.tree),))]
    path = b""
    while stack:
        pair = next(stack[-1], None)
        if pair is None:
            stack.pop()
            continue
        path = path[: pair.above] + pair.name
        before = None if old is None or pair.old is None else old.sketch(pair.old)
        one, below = _compare(path, pair, before, new.sketch(pair.new))
        yield one
        path += b"/" if path else b""
        stack.append(iter(below))


def _compare(
    path: bytes, pair: _Pair, old: Sketch | None, new: Sketch
) -> tuple[DirectoryDiff, list[_Pair]]:
    gone, come = differing(old.entries if old is not None else (), new.entries)
    before = {entry.name: entry for entry in gone}
    above = len(path) + 1 if path else 0
    added: list[Entry] = []
    changed: list[tuple[Entry, Entry]] = []
    below: list[_Pair] = []
    for entry in come:
        had = before.pop(entry.name, None)
        if had is None:
            added.append(entry)
        elif isinstance(had, Subdirectory) and isinstance(entry, Subdirectory):
            if had.tree != entry.tree:
                below.append(_Pair(entry.name, above, had.tree, entry.tree))
        elif had != entry:
            changed.append((had, entry))
    diff = DirectoryDiff(
        path,
        None if old is None else old.header,
        pair.old,
        new.header,
        pair.new,
        tuple(before.values()),
        tuple(added),
        tuple(changed),
    )
    return diff, below


def bytes_to_fetch_at_most(basis: Manifest | None, target: Manifest) -> int:
    """Return a bound on the bytes of content that ``target`` needs and ``basis`` lacks.

    Each content counts once. It costs the changed directories only: a file that a changed
    directory of ``basis`` had, or a whole directory that was removed from one, counts nothing
    under its new name; what lies deeper in an added or removed directory is not looked at.
    """
    have = set[Digest]()
    wanted: dict[Digest, int] = {}
    for change in diff(basis, target):
        if basis is not None and change.was is not None:
            entries = basis.directory(change.was).entries
            have.update(entry.digest for entry in entries if isinstance(entry, File))
        gone = (*change.removed, *(was for was, _ in change.changed))
        have.update(entry.content for entry in gone if isinstance(entry, Subdirectory))
        for entry in (*change.added, *(entry for _, entry in change.changed)):
            if isinstance(entry, File):
                wanted[entry.digest] = entry.size
            elif isinstance(entry, Subdirectory):
                wanted[entry.content] = entry.size
    return sum(size for content, size in wanted.items() if content not in have)
