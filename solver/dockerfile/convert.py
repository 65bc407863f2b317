"""From Dockerfile text to a build graph.

The way: text -> instructions (``syntax``) -> stages (``stages``) -> a plan of the stages that
the target needs -> each of them in order, its instructions applied to a ``State`` (``copying``,
``running``, ``metadata``), which adds vertices -> the graph of what the target needs.
"""

import copy
import posixpath
from collections.abc import Callable, Mapping
from typing import Final, TypeGuard

import msgspec

from filesync.errors import FilesyncError
from solver.dockerfile.copying import apply_copy
from solver.dockerfile.errors import Invalid, NoSuchImage
from solver.dockerfile.flags import parse_flags
from solver.dockerfile.frontend import SYNTAX_ARG, check_frontend
from solver.dockerfile.image import Image, empty_image, fitting_history, read_image
from solver.dockerfile.metadata import (
    apply_arg,
    apply_cmd,
    apply_entrypoint,
    apply_env,
    apply_expose,
    apply_healthcheck,
    apply_label,
    apply_maintainer,
    apply_onbuild,
    apply_shell,
    apply_stopsignal,
    apply_user,
    apply_volume,
    apply_workdir,
    trigger_of,
)
from solver.dockerfile.options import BaseImage, Converted, ImageResolver, Options
from solver.dockerfile.platform import parse_platform, platform_args
from solver.dockerfile.running import apply_run, mount_origins
from solver.dockerfile.stages import (
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    Origin,
    Stage,
    find_context,
    find_origin,
    find_target,
    split,
)
from solver.dockerfile.state import State, Surroundings
from solver.dockerfile.suggestion import did_you_mean
from solver.dockerfile.syntax import Instruction, parse, parse_trigger
from solver.dockerfile.variables import Variables, check_name, is_predefined
from solver.dockerfile.vertices import Vertices, context_selectors
from solver.dockerfile.words import Words
from worker.wire.platforms import Platform

_APPLY: Final[Mapping[str, Callable[[State, Instruction], None]]] = {
    "ADD": apply_copy,
    "ARG": apply_arg,
    "CMD": apply_cmd,
    "COPY": apply_copy,
    "ENTRYPOINT": apply_entrypoint,
    "ENV": apply_env,
    "EXPOSE": apply_expose,
    "HEALTHCHECK": apply_healthcheck,
    "LABEL": apply_label,
    "MAINTAINER": apply_maintainer,
    "ONBUILD": apply_onbuild,
    "RUN": apply_run,
    "SHELL": apply_shell,
    "STOPSIGNAL": apply_stopsignal,
    "USER": apply_user,
    "VOLUME": apply_volume,
    "WORKDIR": apply_workdir,
}
_NUMBERED: Final = frozenset({"ADD", "COPY", "RUN", "WORKDIR"})


def convert(text: str, *, filename: str, options: Options, images: ImageResolver) -> Converted:
    """Return the graph that builds the target of the Dockerfile ``text``.

    Args:
        text: the Dockerfile.
        filename: how to call it in errors and warnings.
        options: what the user asks for.
        images: asked for the images of the named contexts that the target needs.

    Raises:
        DockerfileError: whatever is wrong with the text or does not fit it; it has a line.
        UsageError: an option names a stage that is not there.
    """
    return _Conversion(text, filename=filename, options=options, images=images).run()


class _Plan(msgspec.Struct, frozen=True):
    """A stage that the target needs: what it starts from and all it does."""

    stage: Stage
    origin: Origin
    base: str
    instructions: tuple[Instruction, ...]
    needs: frozenset[int]


class _Conversion:
    def __init__(
        self, text: str, *, filename: str, options: Options, images: ImageResolver
    ) -> None:
        script = parse(text, filename)
        layout = split(script)
        self._source = script.source
        self._stages = layout.stages
        self._options = options
        self._images = images
        self._warnings = list(script.warnings)
        self._words = Words(script.escape)
        self._found: dict[str, BaseImage] = {}
        self._states: dict[int, State] = {}
        self._asked: set[str] = set()
        with self._source.at(1):
            check_frontend(options.build_args.get(SYNTAX_ARG, ""), f"--build-arg {SYNTAX_ARG}=")
        self._target = find_target(options.target, self._stages, "--target")
        self._places = self._read_places()
        no_cache = frozenset(
            find_target(name, self._stages, "--no-cache-filter").index
            for name in options.no_cache_stages
        )
        self._around = Surroundings(
            words=self._words,
            options=options,
            vertices=Vertices(),
            global_args=self._read_global_args(layout.args),
            warn=self._warn,
            is_only_stage=len(self._stages) == 1,
            no_cache=no_cache,
        )

    def run(self) -> Converted:
        plans = self._plan_all()
        for index in sorted(plans):
            self._build(plans[index])
        target = self._states[self._target.index]
        if target.vertex is None:
            # An image has a layer, even if nothing is in it.
            target.commit("FROM scratch", layer=True)
        if self._options.labels:
            labels = target.image.config.labels or {}
            target.image.config.labels = {**labels, **self._options.labels}
        vertices = self._around.vertices
        with self._source.at(self._target.line):
            vertex = vertices.empty() if target.vertex is None else target.vertex
        graph, spans = vertices.graph(vertex)
        paths = {name: image.paths for name, image in self._found.items()}
        self._warn_of_unused_args()
        return Converted(
            graph=graph,
            config=target.image.as_config(self._options.created),
            selectors=context_selectors(graph, paths),
            warnings=tuple(self._warnings),
            excerpts=tuple(self._source.excerpt(*span) for span in spans),
        )

    # --- before any stage ---------------------------------------------------------------

    def _read_global_args(self, args: tuple[Instruction, ...]) -> dict[str, str]:
        given = self._options.build_args
        target_stage = self._options.target or self._target.name
        known = dict(platform_args(self._options.platform, target_stage=target_stage))
        known |= {name: given[name] for name in known if name in given}
        for instruction in args:
            with self._source.at(instruction.line):
                if not instruction.args:
                    raise Invalid("ARG needs at least one argument")
                for word in instruction.args:
                    self._read_global_arg(word, known)
        return known

    def _read_global_arg(self, word: str, known: dict[str, str]) -> None:
        name, equals, default = word.partition("=")
        check_name(name)
        self._asked.add(name)
        if name in self._options.build_args:
            known[name] = self._options.build_args[name]
        elif equals:
            known[name] = self._words.expand(default, known)

    def _read_places(self) -> dict[int, tuple[tuple[str, str], ...]]:
        return {
            find_target(name, self._stages, "--place").index: labels
            for name, labels in self._options.place.items()
            if name
        }

    def _warn(self, line: int, message: str) -> None:
        self._warnings.append(f"{self._source.filename}:{line}: {message}")

    def _warn_of_unused_args(self) -> None:
        for name in sorted(self._options.build_args):
            known = name in self._asked or name in self._around.global_args
            if known or is_predefined(name):
                continue
            if name.startswith("BUILDKIT_"):
                self._warnings.append(f"the build argument {name} changes nothing here")
            else:
                guess = did_you_mean(name, self._asked)
                self._warnings.append(f"no ARG asks for the build argument {name}{guess}")

    # --- what the target needs ----------------------------------------------------------

    def _plan_all(self) -> dict[int, _Plan]:
        plans: dict[int, _Plan] = {}
        todo = [self._target.index]
        while todo:
            index = todo.pop()
            if index not in plans:
                plans[index] = self._plan(self._stages[index])
                todo.extend(plans[index].needs)
        return plans

    def _plan(self, stage: Stage) -> _Plan:
        with self._source.at(stage.line):
            context = self._replacement(stage)
            if context is not None:
                return _Plan(stage, context, stage.name, (), frozenset())
            self._check_platform(stage)
            base = self._words.expand(stage.base, self._around.global_args)
            if not base:
                raise Invalid(
                    f"FROM {stage.base} names nothing; a variable is not set", stage.base
                )
            origin = self._find(base, stage, asked_by="FROM ", is_base=True)
            triggers = self._triggers(origin, stage)
        instructions = triggers + stage.instructions
        needs = {origin.index} if isinstance(origin, FromStage) else set()
        for instruction in instructions:
            with self._source.at(instruction.line):
                needs |= self._needs(instruction, stage)
        return _Plan(stage, origin, base, instructions, frozenset(needs))

    def _replacement(self, stage: Stage) -> FromContext | FromImage | None:
        return find_context(stage.name, self._options.contexts) if stage.name else None

    def _find(self, name: str, stage: Stage, *, asked_by: str, is_base: bool = False) -> Origin:
        return find_origin(
            name,
            before=stage.index,
            stages=self._stages,
            contexts=self._options.contexts,
            asked_by=asked_by,
            is_base=is_base,
        )

    def _needs(self, instruction: Instruction, stage: Stage) -> set[int]:
        names: tuple[str, ...] = ()
        if instruction.keyword == "COPY":
            names = (parse_flags(instruction).text("from"),)
        elif instruction.keyword == "RUN":
            names = mount_origins(instruction)
        found = set()
        for name in names:
            if name and "$" not in name:
                asked_by = f"{instruction.keyword} --from="
                origin = self._find(name, stage, asked_by=asked_by)
                if isinstance(origin, FromStage):
                    found.add(origin.index)
        return found

    def _triggers(self, origin: Origin, stage: Stage) -> tuple[Instruction, ...]:
        texts: list[str] = []
        match origin:
            case FromStage(index) if context := self._replacement(self._stages[index]):
                return self._triggers(context, stage)
            case FromStage(index):
                for instruction in self._stages[index].instructions:
                    if instruction.keyword == "ONBUILD":
                        with self._source.at(instruction.line):
                            texts.append(trigger_of(instruction))
            case FromContext(name, is_image=True) | FromImage(name):
                image = read_image(self._image(origin).config, name=name)
                texts += image.config.on_build or []
            case FromContext() | FromScratch():
                pass
        return tuple(parse_trigger(text, line=stage.line) for text in texts)

    def _image(self, origin: FromContext | FromImage) -> BaseImage:
        if origin.name not in self._found:
            self._found[origin.name] = self._find_image(origin)
        return self._found[origin.name]

    def _find_image(self, origin: FromContext | FromImage) -> BaseImage:
        if isinstance(origin, FromImage):
            try:
                return self._images.registry_image(origin.name)
            except NoSuchImage as error:
                raise Invalid(f"{error}{origin.guess}") from error
            except FilesyncError as error:
                raise Invalid(str(error)) from error
        image = self._images.image(origin.name)
        if image is None:
            raise Invalid(f"there is no image behind the context {origin.name}")
        return image

    def _check_platform(self, stage: Stage) -> None:
        if not stage.platform:
            return
        text = self._words.expand(stage.platform, self._around.global_args)
        wanted = parse_platform(text, self._options.platform)
        if not wanted.is_same(self._options.platform):
            raise Invalid(
                f"--platform={text[:80]}: building for a platform other than "
                f"{self._options.platform} is not supported yet",
                "--platform",
            )

    # --- one stage ----------------------------------------------------------------------

    def _build(self, plan: _Plan) -> None:
        stage, vertices = plan.stage, self._around.vertices
        vertices.span = (stage.line, stage.line)
        with self._source.at(stage.line):
            state = self._begin(plan)
            state.read_env()
        self._states[stage.index] = state
        for instruction in plan.instructions:
            vertices.span = (instruction.line, instruction.last_line)
            with self._source.at(instruction.line):
                _APPLY[instruction.keyword](state, instruction)
        self._asked |= state.asked

    def _begin(self, plan: _Plan) -> State:
        stage = plan.stage
        variables, image, vertex = Variables(), empty_image(self._options.platform), None
        if isinstance(plan.origin, FromStage):
            parent = self._states[plan.origin.index]
            variables, vertex = parent.variables.copy(), parent.vertex
            image = copy.deepcopy(parent.image)
        elif isinstance(plan.origin, FromContext | FromImage):
            image = self._context_image(plan.origin, stage)
        # What a base asks of those who build on it was done by now.
        image.config.on_build = None
        state = State(
            stage=stage,
            around=self._around,
            image=image,
            variables=variables,
            vertex=vertex,
            tree=lambda name, asked_by: self._tree(name, stage, asked_by=asked_by),
            constraints=self._places.get(stage.index, ()),
            steps=_count_steps(plan) + self._has_tree(plan.origin),
        )
        if self._has_tree(plan.origin):
            shown = state.next_name(f"FROM {plan.base}")
            state.vertex = self._base_tree(plan.origin, state.constraints, stage, shown)
            if _is_directory(plan.origin):
                state.commit(f"FROM {plan.base}", layer=True)
        return state

    def _context_image(self, origin: FromContext | FromImage, stage: Stage) -> Image:
        if _is_directory(origin):
            return empty_image(self._options.platform)
        image = read_image(self._image(origin).config, name=origin.name)
        image.history = fitting_history(image.history or (), self._image(origin).layer_count)
        if image.config.working_dir:
            path = image.config.working_dir.lstrip("/")
            image.config.working_dir = posixpath.normpath(f"/{path}")
        built_for = Platform(image.os, image.architecture, image.variant)
        if not image.os or not image.architecture:
            platform = self._options.platform
            image.os, image.architecture = platform.os, platform.architecture
            image.variant = platform.variant
        elif not built_for.is_same(self._options.platform):
            self._warn(
                stage.line,
                f"the image {origin.name} is for {built_for}, not {self._options.platform}",
            )
        return image

    def _has_tree(self, origin: Origin) -> TypeGuard[FromContext | FromImage]:
        """Whether there is a tree of its own; an image without layers is like scratch."""
        if not isinstance(origin, FromContext | FromImage):
            return False
        return _is_directory(origin) or self._image(origin).layer_count > 0

    def _base_tree(
        self,
        origin: FromContext | FromImage,
        constraints: tuple[tuple[str, str], ...],
        stage: Stage,
        shown: str,
    ) -> int:
        vertices = self._around.vertices
        if _is_directory(origin):
            return vertices.taken(
                origin.name, shown=shown, stage=stage.label, constraints=constraints
            )
        return vertices.image(
            self._image(origin), name=shown, stage=stage.label, constraints=constraints
        )

    def _tree(self, name: str, stage: Stage, *, asked_by: str) -> int:
        """Return the vertex behind a ``from`` of ``stage``."""
        origin = self._find(name, stage, asked_by=asked_by)
        vertices = self._around.vertices
        match origin:
            case FromStage(index):
                vertex = self._states[index].vertex
                return vertices.empty() if vertex is None else vertices.readable(vertex)
            case FromContext(context, is_image=False):
                return vertices.local(context)
            case FromContext() | FromImage() if not self._has_tree(origin):
                return vertices.empty()
            case FromContext() | FromImage():
                constraints = self._places.get(stage.index, ())
                return self._base_tree(origin, constraints, stage, f"FROM {name}")
            case FromScratch():
                return vertices.empty()


def _is_directory(origin: Origin) -> bool:
    return isinstance(origin, FromContext) and not origin.is_image


def _count_steps(plan: _Plan) -> int:
    return sum(1 for instruction in plan.instructions if instruction.keyword in _NUMBERED)
