"""What is there, as if it had already what it will not get."""

from typing import Protocol, TypeVar

from msgspec.structs import replace

from filesync.digest import Digest
from filesync.manifest.growth import Expansion, grow
from filesync.manifest.node import Directory, Entry, File, Special, Subdirectory, Symlink
from filesync.manifest.tree import Manifest, Nodes

Leaf = File | Symlink | Special
One = TypeVar("One", bound=Leaf | Directory)


class Leave(Protocol):
    """What is left as it is of one name."""

    def __call__(self, has: One, wanted: Leaf | Directory) -> One:
        """Return ``has`` with those attributes of ``wanted`` that it will not get."""


def leaving(
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    leave: Leave,
    *,
    rename: bytes | None = None,
) -> Manifest:
    """Return ``basis`` with what it is left without of ``top``: that differs no more.

    What is not in ``top`` stays as it is, and so does a directory where that has none, or the other way
    round. ``nodes`` has both, and gets what is new. The one name in ``top`` is called ``rename`` in
    ``basis``, if that is said.
    """

    def expand(pair: tuple[Digest, Digest]) -> Expansion[tuple[Digest, Digest]]:
        directory, wanted = basis.directory(pair[0]), top.directory(pair[1])
        by_name = {rename or entry.name: entry for entry in wanted.entries}
        children: list[tuple[bytes, tuple[Digest, Digest]]] = []
        entries: list[Entry] = []
        for entry in directory.entries:
            other = by_name.get(entry.name)
            if isinstance(entry, Subdirectory):
                if isinstance(other, Subdirectory) and other.tree != entry.tree:
                    children.append((entry.name, (entry.tree, other.tree)))
                else:
                    entries.append(entry)
            elif other is None or isinstance(other, Subdirectory):
                entries.append(entry)
            else:
                entries.append(leave(entry, other))
        header = replace(leave(directory, wanted), entries=())
        return Expansion(header, entries, children)

    if basis.tree == top.tree:
        return basis
    return Manifest(grow(nodes, (basis.tree, top.tree), expand), nodes)
