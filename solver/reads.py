"""What steps read of each other's results. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from filesync.trees.find import bytes_of, clean
from filesync.trees.select import Pick, Selector
from solver.graph import Graph, reachable
from worker.wire.ops import selector_of

MAX_PICKS: Final = 10_000
"""What a selector can have."""


class Read(NamedTuple):
    """A step, and which of its inputs."""

    step: int
    number: int


def reads(graph: Graph) -> Mapping[int, Sequence[Read]]:
    """Return who reads each result, of all that the target needs."""
    found: dict[int, list[Read]] = {}
    for step in reachable(graph):
        for number, position in enumerate(graph.vertices[step].inputs):
            found.setdefault(position, []).append(Read(step, number))
    return found


def together(graph: Graph, some: Iterable[Read]) -> Selector | None:
    """Return all that ``some`` read of one result; None where that is, or may be, the whole."""
    picks: dict[Pick, None] = {}
    for step, number in some:
        selector = selector_of(graph.vertices[step].op, number)
        if selector is None or any(_is_all(pick) for pick in selector.picks):
            return None
        picks.update(dict.fromkeys(selector.picks))
    return Selector(tuple(sorted(picks, key=repr))) if len(picks) <= MAX_PICKS else None


def _is_all(pick: Pick) -> bool:
    return not clean(bytes_of(pick.path))
