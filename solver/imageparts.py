"""Which images a build reads only in parts: by COPY --from and read-only mounts, and nothing else. Pure."""

from collections.abc import Mapping

from filesync.trees.select import Selector
from solver.graph import Graph
from solver.reads import reads, together
from worker.wire.ops import ImageOp


def image_parts(graph: Graph) -> Mapping[int, Selector]:
    """Return, for each image that is not needed whole, all that the graph reads of it.

    An image in a client's layout is not among them: what a build reads of a layout is sent once,
    as one tree.
    """
    found: dict[int, Selector] = {}
    for position, some in reads(graph).items():
        op = graph.vertices[position].op
        if isinstance(op, ImageOp) and op.repository:
            selector = together(graph, some)
            if selector is not None:
                found[position] = selector
    return found
