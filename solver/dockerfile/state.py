"""A stage while its instructions are applied."""

import posixpath
from collections.abc import Callable
from typing import Final

import msgspec

from solver.dockerfile.errors import Invalid
from solver.dockerfile.image import DEFAULT_PATH, Image
from solver.dockerfile.options import MAIN_CONTEXT, Options
from solver.dockerfile.stages import Stage
from solver.dockerfile.syntax import Instruction
from solver.dockerfile.variables import Variables
from solver.dockerfile.vertices import Vertices
from solver.dockerfile.words import Words
from solver.graph import Vertex
from worker.wire.ops import Op

_MAX_NAME_CHARS: Final = 400


class Surroundings(msgspec.Struct, frozen=True):
    """What all stages share.

    Attributes:
        words: expands words.
        options: the user's.
        vertices: the graph so far.
        global_args: what an ARG without a value takes.
        warn: takes a line and a sentence.
        is_only_stage: names of vertices then leave the stage out.
        no_cache: the stages of which every step is run, by number.
    """

    words: Words
    options: Options
    vertices: Vertices
    global_args: dict[str, str]
    warn: Callable[[int, str], None]
    is_only_stage: bool
    no_cache: frozenset[int]


class State(msgspec.Struct):
    """What a stage has become so far.

    Attributes:
        tree: returns the vertex behind a ``from``; its second argument is how to call it.
        vertex: the tree; None is an empty one that has no vertex yet.
        constraints: labels for every vertex of the stage.
        steps: how many vertices have a number in the names.
        exposed: how many ports were listed, the same ones again too.
        cmd_is_set: by this stage, so that ENTRYPOINT keeps it.
        asked: names of the ARGs, to tell which build arguments nothing asks for.
    """

    stage: Stage
    around: Surroundings
    image: Image
    variables: Variables
    vertex: int | None
    tree: Callable[[str, str], int]
    constraints: tuple[tuple[str, str], ...] = ()
    steps: int = 0
    step: int = 0
    exposed: int = 0
    cmd_is_set: bool = False
    asked: set[str] = msgspec.field(default_factory=set)

    def read_env(self) -> None:
        """Take the image's variables; there is always a PATH."""
        for pair in self.image.config.env or []:
            name, _, value = pair.partition("=")
            self.variables.set_env(name, value)
        if "PATH" not in self.variables.env:
            self.variables.set_env("PATH", DEFAULT_PATH)
        self.write_env()

    def write_env(self) -> None:
        """Put the variables into the image."""
        self.image.config.env = [f"{k}={v}" for k, v in self.variables.env.items()]

    def commit(self, created_by: str, *, layer: bool = False) -> None:
        """Add an instruction to the image's history."""
        created = self.around.options.created
        self.image.commit(created_by, layer=layer, created=created)

    def expand(self, word: str) -> str:
        """Return ``word`` with this stage's variables put in."""
        return self.around.words.expand(word, self.variables)

    def expand_all(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return each of ``words`` expanded."""
        return tuple(self.expand(word) for word in words)

    def absolute(self, path: str) -> str:
        """Return ``path`` seen from the working directory, without '.' and '..'."""
        return posixpath.normpath(
            "/" + posixpath.join(self.image.working_dir, path).lstrip("/")
        )

    def source(self, name: str, *, asked_by: str) -> int:
        """Return the vertex that a ``from`` means; empty is the main context."""
        if not name:
            return self.around.vertices.local(MAIN_CONTEXT)
        if "$" in name:
            raise Invalid(
                f"{asked_by}{name[:80]}: a variable cannot be used here; name a stage with "
                f"FROM {name[:80]} AS …",
                name,
            )
        return self.tree(name, asked_by)

    def add(
        self, op: Op, sources: tuple[int, ...], *, instruction: Instruction, shown: str
    ) -> int:
        """Add a vertex that reads this stage's tree, then ``sources``; return its position.

        ``op`` must be a scratch op exactly where there is no tree yet.
        """
        root = () if self.vertex is None else (self.vertex,)
        if instruction.triggered:
            shown = f"ONBUILD {shown}"
        is_run = self.around.options.no_cache or self.stage.index in self.around.no_cache
        vertex = Vertex(
            op,
            inputs=root + sources,
            name=self.next_name(shown),
            stage=self.stage.label,
            constraints=self.constraints,
            ignore_cache=is_run,
        )
        self.vertex = self.around.vertices.add(vertex)
        return self.vertex

    def next_name(self, shown: str) -> str:
        """Return ``[stage n/m] …`` for the next step, as BuildKit prints it."""
        self.step += 1
        stage = "" if self.around.is_only_stage else f"{self.stage.label} "
        width = len(str(self.steps))
        shown = shown if len(shown) <= _MAX_NAME_CHARS else shown[:_MAX_NAME_CHARS] + "…"
        return f"[{stage}{self.step:>{width}}/{self.steps}] {shown}"
