"""Paths inside a root that nobody trusts, walked through directory descriptors.

Every step is one ``openat`` with ``O_NOFOLLOW``. Links are read and resolved here, inside the
root: an absolute one starts again at the root and '..' stops there, as the command inside the
container would see it. The kernel is never given a path that it could follow out of the root.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

MAX_LINKS: Final = 255
MAX_STEPS: Final = 1 << 16
"""Bound on the names that are opened for one path: each '..' begins again at the root."""

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Location(msgspec.Struct, frozen=True):
    """Where a path leads: ``names`` are there and hold no links, ``missing`` are not there."""

    names: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The resolved path as the container sees it, absolute."""
        return "/" + "/".join(self.names + self.missing)


def open_root(path: Path) -> int:
    """Open the directory ``path`` as a root; the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def locate(root_fd: int, path: str) -> Location:
    """Resolve ``path`` inside the root, a link at its end included.

    Raises:
        NotADirectoryError: a part of the path is no directory.
        FileNotFoundError: '..' behind a name that is not there.
        OSError: ELOOP past 255 links, or where they lead up and down without end.
    """
    walk = _Walk(root_fd, path)
    try:
        return walk.run()
    finally:
        walk.close()


def open_below(root_fd: int, names: Sequence[str], flags: int = os.O_PATH) -> int:
    """Open what ``names`` lead to without following any link; the caller closes it.

    Raises:
        OSError: a name is missing, or has become a link since it was located.
    """
    fd = os.dup(root_fd)
    try:
        for name in names[:-1]:
            fd = _step(fd, name, _STEP | os.O_DIRECTORY)
        last = names[-1] if names else "."
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


def read_file(root_fd: int, path: str, *, max_bytes: int) -> bytes | None:
    """Return the bytes of a regular file, or None where there is no such file.

    Raises:
        OSError: EFBIG when it holds more than ``max_bytes``; what reading raises.
    """
    try:
        where = locate(root_fd, path)
        if where.missing:
            return None
        # A FIFO must not block us: O_NONBLOCK opens it at once and the type tells.
        fd = open_below(root_fd, where.names, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def make_directories(root_fd: int, where: Location) -> None:
    """Make the missing part of ``where``, each 0755 and root's."""
    fd = open_below(root_fd, where.names, os.O_PATH | os.O_DIRECTORY)
    try:
        for name in where.missing:
            make_directory(fd, name)
            fd = _step(fd, name, _STEP | os.O_DIRECTORY)
    finally:
        os.close(fd)


def make_directory(parent_fd: int, name: str) -> None:
    """Make one directory, 0755 whatever the umask; nobody else may be at work in the tree."""
    os.mkdir(name, 0o755, dir_fd=parent_fd)
    os.chmod(name, 0o755, dir_fd=parent_fd)


class _Walk:
    def __init__(self, root_fd: int, path: str) -> None:
        self.path = path
        self.root_fd = root_fd
        self.fd = os.dup(root_fd)
        self.names: list[str] = []
        self.todo = deque(_parts(path))
        self.links = self.steps = 0

    def close(self) -> None:
        os.close(self.fd)

    def run(self) -> Location:
        while self.todo:
            name = self.todo.popleft()
            if name == "..":
                self._back_to(self.names[:-1])
                continue
            self._count(1)
            try:
                child = os.open(name, _STEP, dir_fd=self.fd)
            except FileNotFoundError:
                return self._missing(name)
            self._enter(name, child)
        return Location(tuple(self.names))

    def _missing(self, name: str) -> Location:
        if ".." in self.todo:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        return Location(tuple(self.names), (name, *self.todo))

    def _enter(self, name: str, child: int) -> None:
        if not stat.S_ISLNK(os.fstat(child).st_mode):
            os.close(self.fd)
            self.fd = child
            self.names.append(name)
            return
        try:
            text = os.readlink("", dir_fd=child)
        finally:
            os.close(child)
        self.links += 1
        if self.links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
        self.todo.extendleft(reversed(_parts(text)))
        if text.startswith("/"):
            self._back_to([])

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)

    def _back_to(self, names: list[str]) -> None:
        self._count(len(names))
        fd = open_below(self.root_fd, names)
        os.close(self.fd)
        self.fd, self.names = fd, list(names)


def _step(fd: int, name: str, flags: int) -> int:
    """Open ``name`` below ``fd`` and close ``fd``; on failure ``fd`` stays open."""
    child = os.open(name, flags, dir_fd=fd)
    os.close(fd)
    return child


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
