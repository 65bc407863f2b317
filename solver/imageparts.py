"""Which images a build reads only in parts: by COPY --from and read-only mounts, and nothing else. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from filesync.find import bytes_of, clean
from filesync.select import Pick, Selector
from solver.graph import Graph, reachable
from worker.wire.ops import ImageOp, selector_of

MAX_PICKS: Final = 10_000
"""What a selector can have; an image of which more is asked comes whole."""


def image_parts(graph: Graph) -> Mapping[int, Selector]:
    """Return, for each image that is not needed whole, all that the graph reads of it.

    An image in a client's layout is not among them: what a build reads of a layout is sent once,
    as one tree.
    """
    asked: dict[int, dict[Pick, None] | None] = {}
    for position in reachable(graph):
        vertex = graph.vertices[position]
        for index, read in enumerate(vertex.inputs):
            op = graph.vertices[read].op
            if isinstance(op, ImageOp) and op.repository:
                selector = selector_of(vertex.op, index)
                known = asked.setdefault(read, {})
                if selector is None or known is None or _is_all(selector.picks):
                    asked[read] = None
                else:
                    known.update(dict.fromkeys(selector.picks))
    return {
        position: Selector(tuple(sorted(picks, key=repr)))
        for position, picks in asked.items()
        if picks is not None and len(picks) <= MAX_PICKS
    }


def _is_all(picks: Iterable[Pick]) -> bool:
    return any(not clean(bytes_of(pick.path)) for pick in picks)
