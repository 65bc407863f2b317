"""What becomes of the result: the ``-o`` option and taking the exports."""

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from filesync.errors import UsageError
from solver.client.outputs.annotations import AnnotationKey, parse_annotation
from solver.client.outputs.epoch import parse_epoch
from solver.client.outputs.fields import parse_fields, switch
from solver.client.outputs.files import check_place
from worker.wire.images import Compression, parse_reference, parse_target
from worker.wire.orders import ExportForm

STDOUT: Final = "-"
CACHE_ONLY: Final = "type=cacheonly"
"""A ``-o`` that asks for nothing but the steps' results in the workers' cache."""
_LEVELS: Final = {
    Compression.GZIP: range(10),
    Compression.ESTARGZ: range(10),
    Compression.ZSTD: range(1, 23),
}
E = TypeVar("E", bound=StrEnum)


class OutputType(StrEnum):
    """The forms that a user can ask for, named as docker names them."""

    LOCAL = "local"
    TAR = "tar"
    OCI = "oci"
    DOCKER = "docker"
    IMAGE = "image"
    REGISTRY = "registry"


class Output(msgspec.Struct, frozen=True):
    """One ``-o``.

    Attributes:
        dest: a directory, a file, or ``-`` for standard output (what is one file); empty for an
            image that is pushed.
        packed: type oci as one tar, not as a directory.
        compression: of an image's layers; docker's default, which every tool reads.
        level: of that compression; None is the usual one.
        names: of an image, with nothing left out; empty takes those of ``--tag``.
        by_digest: it is pushed under no name but its digest; ``names`` are repositories.
        annotations: of an image's manifest.
        descriptor_annotations: of the manifest's descriptor in a layout's index.
        platforms: those that annotations name.
        rewrite: files in layers that are newer than ``epoch_s`` get its time.
        epoch_s: when an image says that it was made, and what all files are from that are no
            image, in seconds since 1970; None is SOURCE_DATE_EPOCH, if there is one.
    """

    type: OutputType
    dest: str
    packed: bool = True
    compression: Compression = Compression.GZIP
    level: int | None = None
    names: tuple[str, ...] = ()
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    rewrite: bool = False
    descriptor_annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    platforms: frozenset[str] = frozenset()
    epoch_s: int | None = None
    by_digest: bool = False

    @property
    def form(self) -> ExportForm | None:
        """What to ask of the worker; None where nothing comes here, but is pushed."""
        match self.type:
            case OutputType.LOCAL:
                return ExportForm.TREE
            case OutputType.TAR:
                return ExportForm.TAR
            case OutputType.OCI | OutputType.DOCKER:
                return ExportForm.OCI
            case OutputType.IMAGE | OutputType.REGISTRY:
                return None

    @property
    def is_image(self) -> bool:
        """Whether it has names and a manifest, and is not just files."""
        return self.form in (ExportForm.OCI, None)

    @property
    def is_directory(self) -> bool:
        """Whether many files go to ``dest``."""
        return self.type is OutputType.LOCAL or not self.packed


def place_of(output: Output) -> str:
    """Return where it goes, for people."""
    return "standard output" if output.dest == STDOUT else output.dest


def parse_output(text: str) -> Output:
    """Return what ``type=T,KEY=VALUE,…`` or a plain path asks for; a value may be quoted as CSV.

    Raises:
        UsageError: it cannot be understood, or is of a kind that is not there yet.
    """
    if not text:
        # Path("") is the current directory, which nobody means to fill with an unset variable.
        raise UsageError("-o: it is empty; say a directory, or type=TYPE,dest=PATH")
    if text == STDOUT:
        return Output(OutputType.TAR, STDOUT)
    if "=" not in text:
        return Output(OutputType.LOCAL, text)
    fields, annotations = parse_fields(text)
    told = _told(text, fields, annotations)
    if fields.get("type") == "cacheonly":
        raise UsageError(f"-o {text}: {CACHE_ONLY} stands alone, and without other outputs")
    kind = _one_of(OutputType, fields.get("type", ""), f"-o {text}: the type")
    compression, level = compression_of(f"-o {text}", fields)
    if kind in (OutputType.IMAGE, OutputType.REGISTRY):
        names = _pushed_names(text, kind, fields)
        by_digest = switch(text, fields, "push-by-digest")
        pushed = Output(kind, "", True, compression, level, by_digest=by_digest, **told)
        return msgspec.structs.replace(pushed, names=_names(pushed, names))
    if kind in (OutputType.LOCAL, OutputType.TAR) and annotations:
        raise UsageError(f"-o {text}: type={kind} is no image, and takes no annotations")
    _check_fields(text, kind, fields)
    if not fields.get("dest"):
        raise UsageError(f"-o {text}: say where to: dest=PATH")
    if kind is OutputType.LOCAL and fields["dest"] == STDOUT:
        raise UsageError(f"-o {text}: a directory cannot go to standard output; use type=tar")
    packed = switch(text, fields, "tar", default=True)
    names = image_names(_split_names(fields))
    return Output(kind, fields["dest"], packed, compression, level, names, **told)


def _told(
    text: str, fields: Mapping[str, str], annotations: Mapping[AnnotationKey, str]
) -> dict[str, Any]:
    """Return the attributes of an output that are the same for every type."""
    return {
        **_annotated(annotations),
        "rewrite": switch(text, fields, "rewrite-timestamp"),
        "epoch_s": parse_epoch(
            fields.get("source-date-epoch", ""), f"-o {text}: source-date-epoch"
        ),
    }


def _annotated(annotations: Mapping[AnnotationKey, str]) -> dict[str, Any]:
    """Return the attributes of an output that are its annotations."""
    # Those for one platform are said last, so they stand.
    ordered = sorted(annotations.items(), key=lambda pair: bool(pair[0].platform))
    return {
        "annotations": {key.name: value for key, value in ordered if not key.of_descriptor},
        "descriptor_annotations": {
            key.name: value for key, value in ordered if key.of_descriptor
        },
        "platforms": frozenset(key.platform for key in annotations if key.platform),
    }


def compression_of(option: str, fields: Mapping[str, str]) -> tuple[Compression, int | None]:
    """Return the compression and level that an option's fields ask for.

    Raises:
        UsageError: there is none such; ``option`` begins the sentence.
    """
    asked = fields.get("compression", "gzip")
    compression = _one_of(Compression, asked, f"{option}: the compression")
    level = fields.get("compression-level", "")
    if not level:
        return compression, None
    levels = _LEVELS.get(compression, range(0))
    if not level.isascii() or not level.isdigit() or int(level[:9]) not in levels:
        known = f"{levels[0]} to {levels[-1]}" if levels else "none at all"
        raise UsageError(f"{option}: the levels of {compression} are {known}")
    return compression, int(level)


def _pushed_names(text: str, kind: OutputType, fields: Mapping[str, str]) -> tuple[str, ...]:
    if fields.get("dest") or "tar" in fields:
        raise UsageError(f"-o {text}: type={kind} goes to a registry and has no dest")
    is_pushed = switch(text, fields, "push", default=kind is OutputType.REGISTRY)
    if kind is OutputType.IMAGE and not is_pushed:
        raise UsageError(
            f"-o {text}: an image is kept by the workers anyway; say push=true to push it, or"
            " use type=oci,dest=PATH"
        )
    return _split_names(fields)


def _check_fields(text: str, kind: OutputType, fields: Mapping[str, str]) -> None:
    if switch(text, fields, "push") or switch(text, fields, "push-by-digest"):
        raise UsageError(f"-o {text}: type={kind} is not pushed; use type=registry")
    if "name" in fields and kind not in (OutputType.OCI, OutputType.DOCKER):
        raise UsageError(f"-o {text}: type={kind} is no image and has no name")
    if kind is OutputType.DOCKER and not switch(text, fields, "tar", default=True):
        raise UsageError(f"-o {text}: docker reads one file; type=oci can be a directory")


def _split_names(fields: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in fields.get("name", "").split(",") if name)


def image_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names that an image is given, each once and with nothing left out.

    Raises:
        UsageError: one is no name of an image.
    """
    references = dict.fromkeys(map(parse_reference, names))
    for reference in references:
        if reference.digest:
            raise UsageError(f"{reference}: a digest is not chosen, it is made; name a tag")
    return tuple(map(str, references))


def _names(output: Output, names: Iterable[str]) -> tuple[str, ...]:
    """Return what an image is pushed to: the names that it is given, or repositories."""
    if not output.by_digest:
        return image_names(names)
    targets = dict.fromkeys(parse_target(name) for name in names)
    for target in targets:
        if target.tag or target.digest:
            wrong = f"@{target.digest}" if target.digest else f":{target.tag}"
            raise UsageError(
                f"{target}: push-by-digest=true takes a repository alone; leave out {wrong}"
            )
    return tuple(map(str, targets))


def with_tags(outputs: Sequence[Output], tags: Sequence[str]) -> list[Output]:
    """Return ``outputs``, the images among them without a name under ``tags``.

    Raises:
        UsageError: there is no name to push under, or it is none.
    """
    named: list[Output] = []
    for output in outputs:
        if output.is_image and not output.names:
            if output.form is None and not tags:
                raise UsageError("a push needs a name: give -t REGISTRY/NAME:TAG")
            output = msgspec.structs.replace(output, names=_names(output, tags))
        named.append(output)
    return named


def with_annotations(outputs: Sequence[Output], texts: Sequence[str]) -> list[Output]:
    """Return ``outputs``, the images among them with what ``--annotation`` says in ``texts``, too.

    Raises:
        UsageError: a text cannot be understood, or there is no image.
    """
    asked: dict[AnnotationKey, str] = {}
    for text in texts:
        asked |= parse_annotation(text)
    if not asked:
        return list(outputs)
    if not any(output.is_image for output in outputs):
        raise UsageError(
            "--annotation: no image is written; give -o type=oci,dest=PATH or --push"
        )
    told = _annotated(asked)
    return [
        msgspec.structs.replace(
            output, **{name: getattr(output, name) | more for name, more in told.items()}
        )
        if output.is_image
        else output
        for output in outputs
    ]


def _one_of(choices: type[E], text: str, what: str) -> E:
    try:
        return choices(text)
    except ValueError:
        raise UsageError(f"{what} is one of {', '.join(choices)}") from None


def with_epoch(outputs: Sequence[Output], epoch_s: int | None) -> list[Output]:
    """Return ``outputs``, those without a time of their own at SOURCE_DATE_EPOCH.

    Raises:
        UsageError: times are to be rewritten to none.
    """
    timed = [
        msgspec.structs.replace(output, epoch_s=epoch_s) if output.epoch_s is None else output
        for output in outputs
    ]
    if any(output.rewrite and output.epoch_s is None for output in timed):
        raise UsageError("rewrite-timestamp=true needs the time, in SOURCE_DATE_EPOCH")
    return timed


def check_outputs(outputs: Sequence[Output], *, platform: str = "") -> None:
    """Refuse what cannot work, before anything is built for ``platform``.

    Raises:
        UsageError: two outputs to one place, a parent directory that is not there, or an
            annotation for another platform.
    """
    for other in sorted({name for output in outputs for name in output.platforms}):
        if other != platform:
            raise UsageError(f"annotation[{other}]: the image is for {platform} alone")
    outputs = [output for output in outputs if output.form is not None]
    dests = [output.dest for output in outputs]
    for dest in dests:
        if dests.count(dest) > 1:
            raise UsageError(f"two outputs go to {dest}")
        if dest != STDOUT:
            check_place(Path(dest))
    for output in outputs:
        _check_kind(output)


def _check_kind(output: Output) -> None:
    """Refuse to put a directory in place of a file, or a file in place of a directory."""
    if output.dest == STDOUT or not os.path.lexists(output.dest):
        return
    if not output.is_directory and Path(output.dest).is_dir():
        raise UsageError(f"{output.dest} is a directory; name a file for type={output.type}")
    if output.is_directory and not Path(output.dest).is_dir():
        raise UsageError(f"{output.dest} is no directory; remove it, or give another dest")
