"""The parts of a sync: its sources, and what ``--delete`` removes for each of them."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec

from filesync.manifest import EMPTY_DIRECTORY, Manifest, Nodes, put, with_entries
from filesync.sync.filter import Filter


class Removal(msgspec.Struct, frozen=True):
    """What ``--delete`` removes: what none of the sources has.

    Attributes:
        filter: what it leaves alone.
        others: trees that go to the same place before or after this one.
        spared: names in the place that are other sources'.
        leading: directories in the place that lead to something in it that could not be read.
        rules: those of ``filter``, where another machine is to be told.
    """

    filter: Filter
    others: Sequence[Manifest] = ()
    spared: frozenset[bytes] = frozenset()
    leading: frozenset[bytes] = frozenset()
    rules: tuple[bytes, ...] = ()

    @property
    def is_of_all(self) -> bool:
        """Nothing else is left than what is given."""
        return not (self.filter or self.others or self.spared or self.leading)

    def leaves(self, path: bytes) -> bool:
        """Say whether it leaves the directory ``path`` alone, which this source has not."""
        names = path.split(b"/")
        tops = (b"/".join(names[:count]) for count in range(1, len(names) + 1))
        return (
            names[0] in self.spared
            or any(other.find(path) is not None for other in self.others)
            or any(self.filter.excludes(top, is_directory=True) for top in tops)
        )


class Part(NamedTuple):
    """One of the sources of a sync.

    Attributes:
        inside: the name under which a directory comes to stand in the destination; b"" when
            what is in it goes there, or when it is names.
        names: which names in a directory it is; None for all of the directory.
        trees: directories are among the names, and come with all that is in them.
        touches: no source gives the destination times of its own: they change with what is
            made in it.
    """

    inside: bytes = b""
    names: frozenset[bytes] | None = None
    trees: bool = False
    touches: bool = False

    @property
    def prefix(self) -> bytes:
        """What its paths begin with, seen from the transfer's root."""
        return self.inside + b"/" if self.inside else b""

    @property
    def is_of_files(self) -> bool:
        """It is names, none of which is a directory."""
        return self.names is not None and not self.trees

    def given_as(self, rename: bytes | None) -> bytes | None:
        """Return what the one name that it is was called, if it is to be called ``rename``."""
        return min(self.names) if rename is not None and self.names else None


class Parts(tuple[Part, ...]):
    """The parts of one sync, of which there may be thousands."""

    def near(self, at: int) -> Iterable[int]:
        """Yield, ascending, the parts that may come to stand where the part ``at`` does, and that."""
        inside = self[at].inside
        if not inside:
            return range(len(self))
        return sorted(self._by_inside[inside] + self._by_inside.get(b"", []))

    @cached_property
    def _by_inside(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for number, part in enumerate(self):
            found.setdefault(part.inside, []).append(number)
        return found


def as_told(part: Part, manifest: Manifest, nodes: Nodes) -> Manifest:
    """Return the tree of a part as the other side of a sync is told of it; ``nodes`` gets what is new.

    A part that is names is told without the metadata of the directory that they are in, so that what
    is the same on both sides has the same digest.
    """
    if part.names is None:
        return manifest
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, manifest.root.entries)), nodes)


def in_one_place(parts: Iterable[Part]) -> Parts:
    """Return the parts of one sync, each of which knows by ``touches`` whether any gives times."""
    found = list(parts)
    is_given = Part() in found
    return Parts(part._replace(touches=not is_given) for part in found)
