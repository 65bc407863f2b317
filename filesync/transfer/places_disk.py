"""Where a sync reads and writes: directories that an operator, or a peer below a root, names."""

import os
from pathlib import Path
from typing import Final, Protocol

from filesync.disk.handles import DIRECTORY_FLAGS, open_root, shown
from filesync.errors import PathMissing, StoreError, UsageError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Place:
    """A directory, or one name in it. Close it when the sync is over.

    Attributes:
        root: the directory, as a path that leads to it until this is closed.
        only: the name; None for all of the directory.
        label: the path for people.
    """

    def __init__(
        self,
        fd: int,
        root: Path | None,
        *,
        only: bytes | None,
        label: bytes,
        is_new: bool = False,
    ) -> None:
        self._fd = fd
        self.root = Path(f"/proc/self/fd/{fd}") if root is None else root
        self.only = only
        self.label = label

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Places(Protocol):
    """What paths mean."""

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``.

        Raises:
            OSError: it is not there, or no directory.
        """

    def path_of(self, path: bytes) -> Path | None:
        """Return a name of the directory ``path`` for this process, if it is safe to use one."""


class LocalPlaces:
    """Paths that the user of this process gives: links are followed as ever."""

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``."""
        return os.open(path or b".", _DIRECTORY)

    def path_of(self, path: bytes) -> Path | None:
        """Return ``path`` itself."""
        return Path(os.fsdecode(path or b"."))


class ServedPlaces:
    """Paths below ``root`` that a peer gives: no link is followed, and '..' is refused."""

    def __init__(self, root: Path) -> None:
        self._root = root
        os.close(open_root(root))

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``."""
        fd = open_root(self._root)
        try:
            for name in filter(None, path.split(b"/")):
                if name in (b".", b"..") or b"\0" in name:
                    raise UsageError(f"{shown(path)} is not a path below the served directory")
                parent, fd = fd, os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
                os.close(parent)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def path_of(self, path: bytes) -> Path | None:
        """Return None: a name could lead elsewhere by the time that it is used."""


def find(places: Places, path: bytes) -> Place:
    """Return the directory that ``path`` names, or the directory of the file that it names.

    Raises:
        PathMissing: it is not there.
        UsageError: it may not be named.
    """
    try:
        return Place(places.open(path), places.path_of(path), only=None, label=path)
    except OSError as exc:
        if path.endswith(b"/"):
            raise PathMissing(os.fsdecode(path)) from exc
    directory, name = _split(path)
    try:
        fd = places.open(directory)
    except OSError as exc:
        raise PathMissing(os.fsdecode(path)) from exc
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as exc:
        os.close(fd)
        raise PathMissing(os.fsdecode(path)) from exc
    return Place(fd, places.path_of(directory), only=name, label=path)


def find_target(
    places: Places, path: bytes, *, file: bytes | None, inside: bytes, make: bool
) -> Place:
    """Return where what is given to ``path`` goes.

    Args:
        places: what paths mean.
        path: as it was named.
        file: the name of the one file that is given; None for a directory.
        inside: the directory in ``path`` that a directory is given to; b"" for ``path`` itself.
        make: make directories that are missing, though none above ``path``.

    Raises:
        PathMissing: the directory above is not there; or, without ``make``, this one.
        StoreError: the directory cannot be made.
    """
    if file is not None:
        try:
            return Place(places.open(path), places.path_of(path), only=file, label=path)
        except OSError:
            directory, name = _split(path)
    else:
        if inside:
            _make(places, path, make=make)
            path = path.rstrip(b"/") + b"/" + inside
        _make(places, path, make=make)
        directory, name = path, None
    try:
        fd = places.open(directory)
    except OSError as exc:
        raise PathMissing(os.fsdecode(directory)) from exc
    return Place(fd, places.path_of(directory), only=name, label=path)


def _make(places: Places, path: bytes, *, make: bool) -> None:
    """Make the directory ``path`` unless it is there."""
    try:
        os.close(places.open(path))
    except FileNotFoundError:
        if not make:
            raise PathMissing(os.fsdecode(path)) from None
    except NotADirectoryError:
        raise StoreError(f"{shown(path)} is not a directory") from None
    else:
        return
    directory, name = _split(path)
    try:
        parent = places.open(directory)
    except OSError as exc:
        raise PathMissing(os.fsdecode(directory)) from exc
    try:
        os.mkdir(name, dir_fd=parent)
    except OSError as exc:
        raise StoreError(f"{shown(path)} cannot be made: {exc.strerror}") from exc
    finally:
        os.close(parent)


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, slash, name = path.rstrip(b"/").rpartition(b"/")
    if name in (b"", b".", b".."):
        raise UsageError(f"{shown(path)} does not name a file")
    return (directory or slash), name
