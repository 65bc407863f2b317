"""Files that the user named: there as a whole or not at all, and what is no file stays what it is."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp
from typing import Final

from filesync.disk.handles import DIRECTORY_FLAGS
from filesync.disk.removing import remove_path
from filesync.errors import StoreError, UsageError
from filesync.process.entropy import random_name

_MADE: Final = ".filesync-made-"


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

    It has to be in a directory of `making_beside`, or its copy would be seen in part.
    """
    if is_stream(dest):
        with made.open("rb") as file, dest.open("wb") as stream:
            shutil.copyfileobj(file, stream)
    else:
        made.replace(os.path.realpath(dest))


@contextmanager
def making_beside(dest: Path | None) -> Iterator[Path]:
    """Give a directory in which to make what `put_file` then puts at ``dest``; it is removed in the end.

    It is locked for as long as this process lives: what one that was killed has left there, which may
    be gigabytes under a name that nobody sees, goes now. None is for what is put nowhere: it is made
    where temporary files are.
    """
    if dest is None or is_stream(dest):
        parent = Path(gettempdir())
    else:
        parent = Path(os.path.realpath(dest)).parent
    _remove_left(parent)
    with ExitStack() as stack:
        made = _new_in(parent, stack)
        try:
            yield made
        finally:
            remove_path(made)


def _remove_left(parent: Path) -> None:
    for left in parent.glob(f"{_MADE}*"):
        with suppress(OSError, StoreError), _locked(left):  # else somebody is at work there
            if left.lstat().st_uid == os.geteuid():
                remove_path(left)


def _new_in(parent: Path, stack: ExitStack) -> Path:
    while True:
        made = Path(mkdtemp(prefix=_MADE, dir=parent))
        try:
            stack.enter_context(_locked(made))
        except (FileNotFoundError, BlockingIOError):
            continue  # another build has just taken it for one that was left
        except OSError:
            pass  # a file system without locks, where none is ever taken for left
        return made


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, DIRECTORY_FLAGS)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not directory.exists():
            raise FileNotFoundError(directory)
        yield
    finally:
        os.close(fd)


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
