"""What a dry run would have left at a place by the time that the next source goes there."""

from typing import TYPE_CHECKING

from filesync.manifest import (
    Entry,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    put,
    subdirectory,
    with_entries,
)
from filesync.sync.part import Part
from filesync.trees.overlay import with_other_groups

if TYPE_CHECKING:  # who gives may need none
    from filesync.sync.plan import Plan


class Planned:
    """What the plans of a dry run so far would have made of the destination.

    Nothing of it is to be found on the disk.

    Args:
        nodes: has all that is planned, and gets what is new.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._is_any = False
        self._whole: Manifest | None = None
        self._since: dict[bytes, Entry] = {}  # what was planned for names in it after that

    def note(self, part: Part, plan: "Plan") -> None:
        """Take note of what would be done for ``part``."""
        self._is_any = True
        if part.inside:
            tree = with_other_groups(self._nodes, plan.target.tree, part.prefix)
            self._since[part.inside] = subdirectory(self._nodes, part.inside, tree)
        elif part.names is None:
            self._whole = plan.target
            self._since.clear()
        else:
            # Of directories that stand among names not all may have been seen.
            self._since.update(
                (one.name, one)
                for one in plan.target.root.entries
                if part.trees or not isinstance(one, Subdirectory)
            )

    def is_made_before(self, part: Part) -> bool:
        """Say whether the directory where ``part`` goes would have been made for another."""
        return self._is_any if not part.inside else self._inside(part.inside) is not None

    def basis(self, part: Part, there: Manifest) -> Manifest:
        """Return what a run would have left where ``part`` goes, where ``there`` is now."""
        if not self._is_any:
            return there  # whatever a single name is called there
        if part.inside:
            planned = self._inside(part.inside)
            return there if planned is None else planned
        before = there if self._whole is None else self._whole
        entries = {entry.name: entry for entry in before.root.entries} | self._since
        if part.names is not None:
            entries = {name: one for name, one in entries.items() if name in part.names}
        header = there.root if part.names is not None else before.root
        tree = put(self._nodes, with_entries(header, entries.values()))
        return Manifest(canonical_links(self._nodes, tree), self._nodes)

    def _inside(self, name: bytes) -> Manifest | None:
        """Return the directory that would be there as ``name``, if one was planned."""
        found = self._since.get(name)
        if found is None and self._whole is not None:
            found = self._whole.root.find(name)
        if not isinstance(found, Subdirectory):
            return None
        return Manifest(canonical_links(self._nodes, found.tree), self._nodes)
