"""What a dry run would have left at a place by the time that the next source goes there."""

from typing import TYPE_CHECKING

from filesync.manifest import (
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Subdirectory,
    canonical_links,
    put,
    with_entries,
)
from filesync.sync.part import Part

if TYPE_CHECKING:  # who gives may need none
    from filesync.sync.plan import Plan


class Planned:
    """The plans of a dry run so far: nothing of them is to be found on the disk."""

    def __init__(self) -> None:
        self._plans: list[tuple[Part, Plan]] = []

    def note(self, part: Part, plan: "Plan") -> None:
        """Take note of what would be done for ``part``."""
        self._plans.append((part, plan))

    def is_made_before(self, part: Part) -> bool:
        """Say whether the directory where ``part`` goes would have been made for another."""
        return any(not part.inside or other.inside == part.inside for other, _ in self._plans)

    def basis(self, part: Part, there: Manifest) -> Manifest:
        """Return what would be where ``part`` goes, and is to be seen for it; ``there`` is now."""
        for other, plan in self._plans:
            if other.inside != part.inside:
                continue
            if part.names is None and other.names is None:
                there = plan.target
            elif part.names is None and other.names is not None:
                there = _with_names(there, plan.target, other.names)
            elif part.names is not None and other.names is None:
                nothing = Manifest(put(there.nodes, with_entries(there.root, ())), there.nodes)
                there = _with_names(nothing, plan.target, part.names)
        return there


def _with_names(there: Manifest, planned: Manifest, names: frozenset[bytes]) -> Manifest:
    """Return ``there`` with what ``planned`` has of ``names``, directories aside."""
    nodes = LayeredNodes(MemoryNodes(), LayeredNodes(there.nodes, planned.nodes))
    entries = {entry.name: entry for entry in there.root.entries}
    for entry in planned.root.entries:
        if entry.name in names and not isinstance(entry, Subdirectory):
            entries[entry.name] = entry
    tree = put(nodes, with_entries(there.root, entries.values()))
    return Manifest(canonical_links(nodes, tree), nodes)
