"""The graph while it grows, and the contexts in it."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Final

import msgspec

from filesync.digest import DIGEST_BYTES, Digest
from filesync.errors import LocalError
from filesync.trees.glob import is_pattern, unescape
from filesync.trees.select import Pick, Selector
from solver.dockerfile.errors import Invalid
from solver.dockerfile.options import MAIN_CONTEXT, BaseImage
from solver.graph import MAX_VERTICES, Graph, Vertex, reachable
from solver.reads import MAX_PICKS
from worker.wire.ops import (
    Copy,
    FileOp,
    GitOp,
    HttpOp,
    ImageOp,
    LocalOp,
    MakeDirectory,
    Op,
    selector_of,
)
from worker.wire.urls import without_secrets

_UNSCANNED: Final = Digest(bytes(DIGEST_BYTES))
UNKNOWN_CHECKSUM: Final = f"sha256:{'0' * 64}"
"""Of a file from a URL that nobody has asked for yet."""
UNKNOWN_COMMIT: Final = "0" * 40
"""Of a ref of a repository that nobody has asked for yet."""
_EVERYTHING: Final = Selector((Pick("/"),))


Span = tuple[int, int]
"""The first and the last line of an instruction."""


class Vertices:
    """Vertices in topological order; what several stages read is there once.

    Attributes:
        span: of the instruction whose steps are added now.
    """

    def __init__(self) -> None:
        self.span: Span = (1, 1)
        self._spans: list[Span] = []
        self._vertices: list[Vertex] = []
        self._locals: dict[str, int] = {}
        self._images: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self._remote: dict[tuple[HttpOp | GitOp, tuple[tuple[str, str], ...]], int] = {}
        self._taken: dict[int, int] = {}
        self._empty: int | None = None

    def add(self, vertex: Vertex) -> int:
        """Add a vertex and return its position.

        Raises:
            Invalid: its op is beyond what may be sent to a worker.
        """
        if len(self._vertices) >= MAX_VERTICES:
            raise Invalid(f"more than {MAX_VERTICES} steps")
        try:
            msgspec.msgpack.decode(msgspec.msgpack.encode(vertex.op), type=Op)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise Invalid(f"too large or malformed: {error}") from error
        self._vertices.append(vertex)
        self._spans.append(self.span)
        return len(self._vertices) - 1

    def local(self, name: str) -> int:
        """Return the one vertex of the context ``name``."""
        if name not in self._locals:
            shown = "load build context" if name == MAIN_CONTEXT else f"load context {name}"
            op = LocalOp(name, content=_UNSCANNED, tree=_UNSCANNED)
            self._locals[name] = self.add(Vertex(op, name=f"[internal] {shown}"))
        return self._locals[name]

    def taken(
        self,
        name: str,
        *,
        shown: str,
        stage: str,
        constraints: tuple[tuple[str, str], ...],
    ) -> int:
        """Return a vertex of all of the context ``name``, which ops can change."""
        source = self.local(name)
        op = FileOp((Copy(0, "/", "/"),), scratch=True)
        vertex = self.add(Vertex(op, (source,), shown, stage, constraints))
        self._taken[vertex] = source
        return vertex

    def readable(self, position: int) -> int:
        """Return the vertex to read parts of a tree from: of a context, the context itself."""
        return self._taken.get(position, position)

    def image(
        self,
        base: BaseImage,
        *,
        name: str,
        stage: str,
        constraints: tuple[tuple[str, str], ...],
    ) -> int:
        """Return the vertex of an image; the first to ask names it."""
        key = (base.context or f"{base.repository}@{base.manifest}", constraints)
        if key not in self._images:
            op = ImageOp(base.manifest, base.repository)
            inputs = () if base.repository else (self.local(base.context),)
            self._images[key] = self.add(Vertex(op, inputs, name, stage, constraints))
        return self._images[key]

    def remote(self, op: HttpOp | GitOp, *, constraints: tuple[tuple[str, str], ...]) -> int:
        """Return the vertex of what is behind a URL; who asks for the same reads the same."""
        key = (op, constraints)
        if key not in self._remote:
            what = "download" if isinstance(op, HttpOp) else "fetch"
            name = f"[internal] {what} {without_secrets(op.url)}"
            self._remote[key] = self.add(Vertex(op, name=name, constraints=constraints))
        return self._remote[key]

    def empty(self) -> int:
        """Return the vertex of a tree with nothing in it."""
        if self._empty is None:
            op = FileOp((MakeDirectory("/"),), scratch=True)
            self._empty = self.add(Vertex(op, name="FROM scratch"))
        return self._empty

    def graph(self, target: int) -> tuple[Graph, tuple[Span, ...]]:
        """Return what ``target`` needs, numbered anew, and which instruction each step is of."""
        needed = sorted(reachable(Graph(tuple(self._vertices), target)))
        positions = {old: new for new, old in enumerate(needed)}
        vertices = []
        for old in needed:
            vertex = self._vertices[old]
            inputs = tuple(positions[i] for i in vertex.inputs)
            vertices.append(msgspec.structs.replace(vertex, inputs=inputs))
        spans = tuple(self._spans[old] for old in needed)
        return Graph(tuple(vertices), positions[target]), spans


def with_contexts(graph: Graph, digests: Mapping[str, tuple[Digest, Digest]]) -> Graph:
    """Return ``graph`` with each context's (content digest, tree digest) put in.

    Raises:
        LocalError: a context of the graph is not in ``digests``.
    """
    vertices = []
    for vertex in graph.vertices:
        if isinstance(vertex.op, LocalOp):
            if vertex.op.name not in digests:
                raise LocalError(f"no digests of the context {vertex.op.name!r}")
            content, tree = digests[vertex.op.name]
            op = LocalOp(vertex.op.name, content=content, tree=tree)
            vertex = msgspec.structs.replace(vertex, op=op)
        vertices.append(vertex)
    return Graph(tuple(vertices), graph.target)


def unknown_remotes(graph: Graph) -> dict[int, HttpOp | GitOp]:
    """Return what is behind URLs, by position, of which nobody has said the content."""
    return {
        position: vertex.op
        for position, vertex in enumerate(graph.vertices)
        if (isinstance(vertex.op, HttpOp) and vertex.op.checksum == UNKNOWN_CHECKSUM)
        or (isinstance(vertex.op, GitOp) and vertex.op.commit == UNKNOWN_COMMIT)
    }


def with_ops(graph: Graph, ops: Mapping[int, Op]) -> Graph:
    """Return ``graph`` with other ops at some positions."""
    vertices = list(graph.vertices)
    for position, op in ops.items():
        vertices[position] = msgspec.structs.replace(vertices[position], op=op)
    return Graph(tuple(vertices), graph.target)


def context_selectors(
    graph: Graph, images: Mapping[str, tuple[str, ...]]
) -> dict[str, Selector]:
    """Return what ``graph`` reads of each context: the union over its readers.

    Args:
        graph: the graph.
        images: the files to read of each context that is an image layout.
    """
    names = {i: v.op.name for i, v in enumerate(graph.vertices) if isinstance(v.op, LocalOp)}
    picks: dict[str, dict[Pick, None]] = {name: {} for name in names.values()}
    for vertex in graph.vertices:
        for number, position in enumerate(vertex.inputs):
            name = names.get(position)
            if name is None:
                continue
            if isinstance(vertex.op, ImageOp):
                picks[name] |= {Pick(path): None for path in images[name]}
                continue
            selector = selector_of(vertex.op, number) or _EVERYTHING
            picks[name] |= dict.fromkeys(selector.picks)
    return {name: _union(tuple(found)) for name, found in picks.items()}


def reader_of(graph: Graph, context: str, path: str) -> int | None:
    """Return the first step that reads ``path`` of a context by this name, or looks for names in it."""
    for position, vertex in enumerate(graph.vertices):
        for number, source in enumerate(vertex.inputs):
            op = graph.vertices[source].op
            if not isinstance(op, LocalOp) or op.name != context:
                continue
            selector = selector_of(vertex.op, number)
            picks = () if selector is None else selector.picks
            if any(_asked_for(pick) == path.strip("/") for pick in picks):
                return position
    return None


def _asked_for(pick: Pick) -> str:
    """Return the path that has to be there: of a pattern, the directory before its first wildcard."""
    names = pick.path.strip("/").split("/")
    if pick.wildcard:
        names = [unescape(name) for name in takewhile(lambda name: not is_pattern(name), names)]
    return "/".join(names)


def _union(picks: tuple[Pick, ...]) -> Selector:
    everything = any(
        p.path.strip("/.") == "" and not p.exclude and not p.wildcard for p in picks
    )
    return _EVERYTHING if everything or len(picks) > MAX_PICKS else Selector(picks)
