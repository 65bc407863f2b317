"""A Dockerfile's stages, and what the name of one can mean."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from filesync.errors import UsageError
from solver.dockerfile.errors import Invalid
from solver.dockerfile.flags import parse_flags
from solver.dockerfile.suggestion import did_you_mean
from solver.dockerfile.syntax import Instruction, Script
from worker.wire.images import BadReference, parse_reference

MAX_STAGES: Final = 256
_SHOWN_STAGES: Final = 12
SCRATCH: Final = "scratch"
IMAGE_SCHEME: Final = "docker-image://"
_ONLY_EARLIER: Final = "a stage can only read an earlier stage"
_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]{0,255}")


class Stage(msgspec.Struct, frozen=True):
    """One FROM and what follows.

    Attributes:
        index: its number.
        name: in small letters, empty where it has none.
        base: what FROM names, before variables are put in.
        platform: FROM's ``--platform``, likewise.
    """

    index: int
    name: str
    base: str
    platform: str
    line: int
    instructions: tuple[Instruction, ...]

    @property
    def label(self) -> str:
        """The name, or ``stage-N``."""
        return self.name or f"stage-{self.index}"


class Layout(msgspec.Struct, frozen=True):
    """All of a Dockerfile's stages and the ARGs before the first."""

    args: tuple[Instruction, ...]
    stages: tuple[Stage, ...]


class FromScratch(msgspec.Struct, frozen=True):
    """An empty tree."""


class FromStage(msgspec.Struct, frozen=True):
    """The result of an earlier stage."""

    index: int


class FromContext(msgspec.Struct, frozen=True):
    """A named context: an image layout or a directory."""

    name: str
    is_image: bool


class FromImage(msgspec.Struct, frozen=True):
    """An image in a registry.

    Attributes:
        name: its reference, with nothing left out.
        guess: what else the user may have meant, for the error when there is no such image.
    """

    name: str
    guess: str = ""


Origin = FromScratch | FromStage | FromContext | FromImage


def split(script: Script) -> Layout:
    """Return the stages of ``script``; every flag in it is known.

    Raises:
        DockerfileError: no stage, too many, or one whose FROM cannot be.
    """
    args: list[Instruction] = []
    heads: list[Instruction] = []
    bodies: list[list[Instruction]] = []
    for instruction in script.instructions:
        with script.source.at(instruction.line):
            parse_flags(instruction)
            if instruction.keyword == "FROM":
                heads.append(instruction)
                bodies.append([])
                if len(heads) > MAX_STAGES:
                    raise Invalid(f"more than {MAX_STAGES} stages")
            elif bodies:
                bodies[-1].append(instruction)
            elif instruction.keyword == "ARG":
                args.append(instruction)
            else:
                raise Invalid(f"{instruction.keyword} before the first FROM; only ARG may be")
    if not heads:
        what = "there is no FROM" if script.instructions else "the Dockerfile is empty"
        raise script.source.error(1, what)
    stages = []
    for index, head in enumerate(heads):
        with script.source.at(head.line):
            stages.append(_stage(index, head, tuple(bodies[index])))
    return Layout(tuple(args), tuple(stages))


def find_target(target: str, stages: Sequence[Stage], option: str) -> Stage:
    """Return the stage that a user means with ``option``; the last for an empty ``target``.

    Raises:
        UsageError: there is none.
    """
    if not target:
        return stages[-1]
    by_name = [stage for stage in stages if target.lower() in (stage.name, stage.label)]
    if by_name:
        return by_name[-1]
    number = _number(target)
    if number is not None and number < len(stages):
        return stages[number]
    labels = [stage.label for stage in stages]
    guess = did_you_mean(target, labels)
    shown = ", ".join(labels[:_SHOWN_STAGES])
    raise UsageError(f"{option}: there is no stage {target[:80]!r}{guess}; there are {shown}")


def find_context(name: str, contexts: Mapping[str, str]) -> FromContext | FromImage | None:
    """Return the named context that stands for ``name``; ``alpine`` is ``alpine:latest``."""
    wanted = _familiar(name)
    if wanted in (SCRATCH, "context"):
        return None
    for context, kind in contexts.items():
        if context == name or _familiar(context) == wanted:
            if kind.startswith(IMAGE_SCHEME):
                return _image(kind.removeprefix(IMAGE_SCHEME), f"the context {context}: ")
            if kind not in ("local", "oci-layout"):
                raise Invalid(f"the context {context} is of an unknown kind: {kind!r}")
            return FromContext(context, is_image=kind == "oci-layout")
    return None


def find_origin(
    name: str,
    *,
    before: int,
    stages: Sequence[Stage],
    contexts: Mapping[str, str],
    asked_by: str,
    is_base: bool,
) -> Origin:
    """Return what ``name`` means to the stage with number ``before``.

    The nearest earlier stage of that name, whatever the case of its letters, then a named
    context, then an earlier stage's number, then an image in a registry. A base alone
    may be an image that has the name of a stage that comes later: ``FROM nginx AS nginx``.

    Raises:
        Invalid: none of these; ``asked_by`` (``FROM``, ``COPY --from=``) is in the sentence.
    """
    if name == SCRATCH:
        return FromScratch()
    named = [stage.index for stage in stages if stage.name == name.lower()]
    earlier = [index for index in named if index < before]
    if earlier:
        return FromStage(earlier[-1])
    if context := find_context(name, contexts):
        return context
    number = _number(name)
    if number is not None and number < before:
        return FromStage(number)
    if number is not None and number < len(stages):
        raise Invalid(f"{asked_by}{name}: {_ONLY_EARLIER}", name)
    if number is not None and not is_base:
        raise Invalid(f"{asked_by}{name}: the last stage is number {len(stages) - 1}", name)
    if named and not is_base:
        raise Invalid(f"{asked_by}{name}: {_ONLY_EARLIER}", name)
    guess = did_you_mean(name, [stage.name for stage in stages[:before]] + list(contexts))
    if any(index > before for index in named):
        guess = f"; {_ONLY_EARLIER}"
    return _image(name, asked_by, guess)


def _image(name: str, asked_by: str, guess: str = "") -> FromImage:
    try:
        return FromImage(str(parse_reference(name)), guess)
    except BadReference as error:
        raise Invalid(f"{asked_by}{error}{guess}", name) from error


def _stage(index: int, head: Instruction, body: tuple[Instruction, ...]) -> Stage:
    name = ""
    match head.args:
        case (base,):
            pass
        case (base, word, given) if word.lower() == "as":
            name = given.lower()
            if not _STAGE_NAME.fullmatch(name):
                raise Invalid(
                    f"{given[:80]!r} cannot name a stage: start with a letter, then letters, "
                    "digits, '_', '-' and '.'",
                    given,
                )
        case _:
            raise Invalid("FROM is followed by a name, or by a name, AS and a stage's name")
    platform = parse_flags(head).text("platform")
    return Stage(index, name, base, platform, head.line, body)


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _familiar(name: str) -> str:
    """Return a name in small letters, without what everyone leaves out of an image's."""
    short = name.lower().removeprefix("docker.io/").removeprefix("library/")
    return short.removesuffix(":latest")
