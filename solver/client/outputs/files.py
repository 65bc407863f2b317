"""Files that the user named: there as a whole or not at all, and what is no file stays what it is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filesync.entropy import random_name
from filesync.errors import UsageError


def is_stream(path: Path) -> bool:
    """Tell whether ``path`` is a device, a pipe or a socket: written to as it is.

    Root could put a file in the place of ``/dev/null``, and the whole machine would write there.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def check_place(path: Path) -> None:
    """Refuse a ``path`` where nothing can be put, before what is to be put there is made.

    Raises:
        UsageError: the directory that it is to be in is not there, or cannot be written.
    """
    if is_stream(path):
        return
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        raise UsageError(f"{parent} is not a directory")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{parent} is not writable")


def put_file(made: Path, dest: Path) -> None:
    """Put the file ``made`` at ``dest``, where a link is followed; it may be gone afterwards.

    It has to be in the directory that `beside` says, or its copy would be seen in part.
    """
    if is_stream(dest):
        with made.open("rb") as file, dest.open("wb") as stream:
            shutil.copyfileobj(file, stream)
    else:
        made.replace(os.path.realpath(dest))


def beside(dest: Path) -> str | None:
    """Return where to make what is to be put at ``dest``; None where any directory will do."""
    return None if is_stream(dest) else os.path.dirname(os.path.realpath(dest))


def write_text(path: Path, text: str) -> None:
    """Write a file that is never there in part; a link is followed, a device written to."""
    if is_stream(path):
        path.write_text(text)
        return
    with replacing(Path(os.path.realpath(path))) as part, part.open("x") as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name, which nobody can foretell, under which to make what then takes ``path``'s place."""
    part = path.with_name(f".{path.name}.{random_name()}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
