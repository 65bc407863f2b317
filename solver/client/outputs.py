"""What becomes of the result: the ``-o`` option and taking the exports."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from filesync.errors import UsageError
from worker.wire.images import Compression
from worker.wire.orders import ExportForm

STDOUT: Final = "-"
_FIELDS: Final = ("type", "dest", "tar", "compression")
E = TypeVar("E", bound=StrEnum)


class OutputType(StrEnum):
    """The forms that a user can ask for, named as docker names them."""

    LOCAL = "local"
    TAR = "tar"
    OCI = "oci"


@dataclass(frozen=True, slots=True)
class Output:
    """One ``-o``.

    Attributes:
        dest: a directory, a file, or ``-`` for standard output (types tar and oci).
        packed: type oci as one tar, not as a directory.
        compression: of an image's layers; docker's default, which every tool reads.
    """

    type: OutputType
    dest: str
    packed: bool = True
    compression: Compression = Compression.GZIP

    @property
    def form(self) -> ExportForm:
        """What to ask of the worker."""
        match self.type:
            case OutputType.LOCAL:
                return ExportForm.TREE
            case OutputType.TAR:
                return ExportForm.TAR
            case OutputType.OCI:
                return ExportForm.OCI


def parse_output(text: str) -> Output:
    """Return what ``type=T,dest=PATH[,tar=false][,compression=C]`` or a plain path asks for.

    Raises:
        UsageError: it cannot be understood, or is of a kind that is not there yet.
    """
    if text == STDOUT:
        return Output(OutputType.TAR, STDOUT)
    if "=" not in text:
        return Output(OutputType.LOCAL, text)
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in _FIELDS:
            raise UsageError(f"-o {text}: {part!r} is none of {', '.join(_FIELDS)}")
        fields[key] = value
    kind = _one_of(OutputType, fields.get("type", ""), f"-o {text}: the type")
    compression = _one_of(
        Compression, fields.get("compression", "gzip"), f"-o {text}: the compression"
    )
    if not fields.get("dest"):
        raise UsageError(f"-o {text}: say where to: dest=PATH")
    if kind is OutputType.LOCAL and fields["dest"] == STDOUT:
        raise UsageError(f"-o {text}: a directory cannot go to standard output; use type=tar")
    return Output(kind, fields["dest"], fields.get("tar", "true") != "false", compression)


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
