"""What becomes of the result: the ``-o`` option and taking the exports."""

import csv
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from filesync.errors import UsageError
from worker.wire.images import Compression, Reference, parse_reference
from worker.wire.orders import ExportForm

STDOUT: Final = "-"
_FIELDS: Final = (
    "type",
    "dest",
    "tar",
    "name",
    "push",
    "compression",
    "compression-level",
)
_LEVELS: Final = {Compression.GZIP: range(10), Compression.ZSTD: range(1, 23)}
E = TypeVar("E", bound=StrEnum)


class OutputType(StrEnum):
    """The forms that a user can ask for, named as docker names them."""

    LOCAL = "local"
    TAR = "tar"
    OCI = "oci"
    IMAGE = "image"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True)
class Output:
    """One ``-o``.

    Attributes:
        dest: a directory, a file, or ``-`` for standard output (types tar and oci); empty for
            an image that is pushed.
        packed: type oci as one tar, not as a directory.
        compression: of an image's layers; docker's default, which every tool reads.
        level: of that compression; None is the usual one.
        names: of an image that is pushed; empty takes those of ``--tag``.
    """

    type: OutputType
    dest: str
    packed: bool = True
    compression: Compression = Compression.GZIP
    level: int | None = None
    names: tuple[str, ...] = ()

    @property
    def form(self) -> ExportForm | None:
        """What to ask of the worker; None where nothing comes here, but is pushed."""
        match self.type:
            case OutputType.LOCAL:
                return ExportForm.TREE
            case OutputType.TAR:
                return ExportForm.TAR
            case OutputType.OCI:
                return ExportForm.OCI
            case OutputType.IMAGE | OutputType.REGISTRY:
                return None


def parse_output(text: str) -> Output:
    """Return what ``type=T,KEY=VALUE,…`` or a plain path asks for; a value may be quoted as CSV.

    Raises:
        UsageError: it cannot be understood, or is of a kind that is not there yet.
    """
    if text == STDOUT:
        return Output(OutputType.TAR, STDOUT)
    if "=" not in text:
        return Output(OutputType.LOCAL, text)
    fields = _fields(text)
    kind = _one_of(OutputType, fields.get("type", ""), f"-o {text}: the type")
    compression, level = _compression(text, fields)
    if kind in (OutputType.IMAGE, OutputType.REGISTRY):
        return Output(
            kind,
            "",
            compression=compression,
            level=level,
            names=_pushed_names(text, kind, fields),
        )
    if not fields.get("dest"):
        raise UsageError(f"-o {text}: say where to: dest=PATH")
    if kind is OutputType.LOCAL and fields["dest"] == STDOUT:
        raise UsageError(f"-o {text}: a directory cannot go to standard output; use type=tar")
    packed = fields.get("tar", "true") != "false"
    return Output(kind, fields["dest"], packed, compression, level)


def _fields(text: str) -> dict[str, str]:
    try:
        (parts,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        raise UsageError(f"-o {text}: {exc}") from exc
    fields: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key not in _FIELDS:
            raise UsageError(f"-o {text}: {part!r} is none of {', '.join(_FIELDS)}")
        fields[key] = value
    return fields


def _compression(text: str, fields: Mapping[str, str]) -> tuple[Compression, int | None]:
    asked = fields.get("compression", "gzip")
    if asked == "estargz":
        raise UsageError(f"-o {text}: estargz is not supported yet; use gzip or zstd")
    compression = _one_of(Compression, asked, f"-o {text}: the compression")
    level = fields.get("compression-level", "")
    if not level:
        return compression, None
    levels = _LEVELS.get(compression, range(0))
    if not level.isascii() or not level.isdigit() or int(level[:9]) not in levels:
        known = f"{levels[0]} to {levels[-1]}" if levels else "none at all"
        raise UsageError(f"-o {text}: the levels of {compression} are {known}")
    return compression, int(level)


def _pushed_names(text: str, kind: OutputType, fields: Mapping[str, str]) -> tuple[str, ...]:
    if fields.get("dest") or "tar" in fields:
        raise UsageError(f"-o {text}: type={kind} goes to a registry and has no dest")
    if kind is OutputType.IMAGE and fields.get("push") != "true":
        raise UsageError(
            f"-o {text}: an image is kept by the workers anyway; say push=true to push it, or"
            " use type=oci,dest=PATH"
        )
    return tuple(str(_push_target(name)) for name in fields.get("name", "").split(",") if name)


def _push_target(name: str) -> Reference:
    reference = parse_reference(name)
    if reference.digest:
        raise UsageError(f"{name}: a digest is not chosen, it is made; push to a tag")
    return reference


def with_tags(outputs: Sequence[Output], tags: Sequence[str]) -> list[Output]:
    """Return ``outputs``, those that are pushed without a name under ``tags``.

    Raises:
        UsageError: there is no name to push under, or it is none.
    """
    named: list[Output] = []
    for output in outputs:
        if output.form is None and not output.names:
            if not tags:
                raise UsageError("a push needs a name: give -t REGISTRY/NAME:TAG")
            names = tuple(str(_push_target(tag)) for tag in tags)
            output = replace(output, names=tuple(dict.fromkeys(names)))
        named.append(output)
    return named


def _one_of(choices: type[E], text: str, what: str) -> E:
    try:
        return choices(text)
    except ValueError:
        raise UsageError(f"{what} is one of {', '.join(choices)}") from None


def check_outputs(outputs: Sequence[Output]) -> None:
    """Refuse destinations that cannot work, before anything is built.

    Raises:
        UsageError: two outputs to one place, or a parent directory that is not there.
    """
    outputs = [output for output in outputs if output.form is not None]
    dests = [output.dest for output in outputs]
    for dest in dests:
        if dests.count(dest) > 1:
            raise UsageError(f"two outputs go to {dest}")
        if dest != STDOUT and not Path(dest).absolute().parent.is_dir():
            raise UsageError(f"{Path(dest).absolute().parent} is not a directory")
        if dest != STDOUT and not os.access(Path(dest).absolute().parent, os.W_OK):
            raise UsageError(f"{Path(dest).absolute().parent} is not writable")
    for output in outputs:
        _check_kind(output)


def _check_kind(output: Output) -> None:
    """Refuse to put a directory in place of a file, or a file in place of a directory."""
    if output.dest == STDOUT or not os.path.lexists(output.dest):
        return
    makes_file = output.type is OutputType.TAR or (
        output.type is OutputType.OCI and output.packed
    )
    if makes_file and Path(output.dest).is_dir():
        raise UsageError(f"{output.dest} is a directory; name a file for type={output.type}")
    if not makes_file and not Path(output.dest).is_dir():
        raise UsageError(f"{output.dest} is no directory; remove it, or give another dest")


def pack_layout(layout: Path, dest: Path) -> None:
    """Write an image layout as one tar, deterministic, in place of what is at ``dest``."""
    part = dest.with_name(f".{dest.name}.part")
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(layout.rglob("*")):
                info = tar.gettarinfo(path, path.relative_to(layout).as_posix())
                info.uid = info.gid = info.mtime = 0
                info.uname = info.gname = ""
                if info.isfile():
                    with path.open("rb") as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)
        part.replace(dest)
    finally:
        part.unlink(missing_ok=True)
