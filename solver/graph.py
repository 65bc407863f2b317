"""The build graph: vertices in topological order, as a client sends it."""

from typing import Annotated, Final

import msgspec

from worker.wire.ops import Op

MAX_VERTICES: Final = 10_000
MAX_READS: Final = 100_000
"""Bound on the inputs of all vertices together: somebody waits for each of them while it is built."""


class Vertex(msgspec.Struct, frozen=True):
    """One operation and where its inputs come from.

    Attributes:
        op: what to do.
        inputs: positions, in the graph, of the vertices whose results the op reads.
        name: for people, e.g. ``[build 2/4] RUN make``.
        stage: name of the Dockerfile stage, or of its number.
        constraints: labels that a worker must have to run this.
        ignore_cache: run even when a result is known.
    """

    op: Op
    inputs: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_VERTICES)] = ()
    name: str = ""
    stage: str = ""
    constraints: tuple[tuple[str, str], ...] = ()
    ignore_cache: bool = False


class Graph(msgspec.Struct, frozen=True):
    """Vertices, each after all that it reads, and the one whose result is asked for.

    Raises:
        ValueError: an input that does not come earlier, too many inputs, or a target outside
            (msgspec turns it into a ValidationError while decoding).
    """

    vertices: Annotated[tuple[Vertex, ...], msgspec.Meta(max_length=MAX_VERTICES)]
    target: int

    def __post_init__(self) -> None:
        if sum(len(vertex.inputs) for vertex in self.vertices) > MAX_READS:
            raise ValueError(f"the vertices read more than {MAX_READS} others")
        for position, vertex in enumerate(self.vertices):
            if any(not 0 <= i < position for i in vertex.inputs):
                raise ValueError(f"vertex {position} reads one that does not come before it")
        if not 0 <= self.target < len(self.vertices):
            raise ValueError(f"target {self.target} is not in a graph of {len(self.vertices)}")


def above_ignored(graph: Graph) -> set[int]:
    """Return the positions of all that reads, at whatever distance, a vertex with ``ignore_cache``.

    What such a one was the last time, it need not be now, though it is defined as it was.
    """
    found: set[int] = set()
    for position, vertex in enumerate(graph.vertices):
        if any(i in found or graph.vertices[i].ignore_cache for i in vertex.inputs):
            found.add(position)
    return found


def reachable(graph: Graph) -> set[int]:
    """Return the positions of the target and of all that it needs."""
    found: set[int] = set()
    todo = [graph.target]
    while todo:
        position = todo.pop()
        if position not in found:
            found.add(position)
            todo.extend(graph.vertices[position].inputs)
    return found
