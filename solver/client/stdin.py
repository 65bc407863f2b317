"""A context on standard input: a Dockerfile alone, or an archive with all that it reads."""

import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from os import getgid, getuid
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from filesync.errors import UsageError
from solver.client.outputs.files import making_beside
from solver.client.outputs.outputs import Output, OutputType
from solver.client.request import STDIN_NAME, BuildRequest, dockerfile_text
from solver.dockerfile import MAIN_CONTEXT, Options
from solver.errors import BuildError

_MAGIC: Final = (b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""
_ARCHIVE: Final = "archive"
_OPENED: Final = "context"


class Piped(msgspec.Struct, frozen=True):
    """What came.

    Attributes:
        directory: holds the archive, or nothing.
        text: the Dockerfile, where that is all that came.
    """

    directory: Path
    text: str | None


@contextmanager
def piped(stream: BinaryIO) -> Iterator[Piped]:
    """Yield what ``stream`` gives; what is kept of it is removed in the end.

    Raises:
        UsageError: it is neither an archive nor a Dockerfile.
    """
    head = stream.read(tarfile.BLOCKSIZE)
    with making_beside(None) as directory:
        if not _is_archive(head):
            yield Piped(directory, dockerfile_text(stream, head))
            return
        with (directory / _ARCHIVE).open("wb") as file:
            file.write(head)
            shutil.copyfileobj(stream, file)
        yield Piped(directory, None)


@asynccontextmanager
async def unpacked(
    directory: Path, build: Callable[[BuildRequest], Awaitable[object]]
) -> AsyncIterator[Path]:
    """Yield what is in the archive that came, unpacked by a worker as ADD does it.

    ``build`` builds; the caller removes ``directory``, in which all is.

    Raises:
        FilesyncError: it is no archive that can be unpacked.
    """
    owner = f"{getuid()}:{getgid()}"  # who can own nothing else may build, too
    text = f"FROM scratch\nADD --chown={owner} {_ARCHIVE} /\n"
    opened = directory / _OPENED
    output = Output(OutputType.LOCAL, str(opened))
    roots = {MAIN_CONTEXT: directory}
    try:
        await build(
            BuildRequest(directory / "Dockerfile", text, Options(), roots, {}, [output])
        )
    except BuildError as exc:
        sentence = exc.detail.partition("\n")[0].rpartition(": ")[2]
        raise BuildError(exc.reason, f"{STDIN_NAME}: {sentence}") from None
    if [one.name for one in opened.iterdir()] == [_ARCHIVE]:
        raise UsageError(f"{STDIN_NAME}: it is compressed, and no archive")
    yield opened


def _is_archive(head: bytes) -> bool:
    if head.startswith(_MAGIC):
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
