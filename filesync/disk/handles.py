"""Directory descriptors below one root: the only way in which paths of a tree are opened.

A path is walked one name at a time, each relative to its parent's descriptor and never through
a link, so that nobody who changes the tree meanwhile can lead a reader or writer out of it.
"""

import errno
import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from filesync.errors import LocalError, StoreError
from filesync.process.descriptors import HOW, are_used_up, may_open

_SAFE: Final = os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | _SAFE
"""To open a directory by its last name."""
READ_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _SAFE
"""To read a file by its last name. It may have become a FIFO, which must not be waited for, or a
terminal, which must not become this process's."""
NEW_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE
"""To make a file of a name that nothing has, write it and read it again."""
_GET_FLAGS: Final = 0x80086601
"""FS_IOC_GETFLAGS."""
_APPEND_ONLY: Final = 0x20
MAX_HELD: Final = 256
"""Descriptors kept open; a walk needs few more than two, the rest saves time."""


def shown(path: bytes) -> str:
    """Return ``path`` for people: quoted, with all that is not printable escaped."""
    return repr(path.decode("utf-8", "surrogateescape"))


def open_root(root: Path) -> int:
    """Open the directory that an operator named; a link at its end is followed.

    Raises:
        StoreError: it is not a directory, or cannot be opened.
    """
    try:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise StoreError(f"{shown(os.fsencode(root))}: {exc.strerror}") from exc


def why_unwritable(fd: int) -> int:
    """Return why this process cannot write in a directory (errno); 0 if it can, or may let itself.

    The owner may: an update opens up what is its own.
    """
    if os.access(b".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
        return 0
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return errno.EROFS
    status = os.fstat(fd)
    if os.geteuid() == 0 or (status.st_uid == os.geteuid() and status.st_mode & 0o300 == 0o300):
        return errno.EPERM  # no mode is in the way: it is immutable
    return 0 if status.st_uid == os.geteuid() else errno.EACCES


def why_no_root(fd: int) -> int:
    """Return the same of a directory in which an update works: it removes what it makes there."""
    return why_unwritable(fd) or (errno.EPERM if is_append_only(fd) else 0)


def is_append_only(fd: int) -> bool:
    """Say whether nothing that is made in a directory can be renamed or removed."""
    flags = bytearray(8)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
    except OSError:
        return False  # a file system without flags
    return bool(flags[0] & _APPEND_ONLY)


class _Share:
    """What each ``DirectoryHandles`` of this process may hold, so that all do with half of its descriptors.

    A server has several for each of its clients.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self.each = MAX_HELD

    def change(self, by: int) -> None:
        """Take note that there are so many more."""
        with self._lock:
            self._count += by
            self.each = may_open() // 2 // max(self._count, 1)


_share: Final = _Share()


class DirectoryHandles:
    """Descriptors of the directories below one root, a bounded number of them held open.

    They are fewer the more of these there are, and where no more files may be opened.
    Paths are bytes, '/'-separated, relative to the root; b"" is the root. Not for two threads
    at once.
    """

    def __init__(self, root: Path | int, *, limit: int = MAX_HELD) -> None:
        """Open ``root``; a descriptor is duplicated and stays the caller's.

        Raises:
            StoreError: it is not a directory, or cannot be opened.
        """
        self._root = os.dup(root) if isinstance(root, int) else open_root(root)
        # Several trees are open at once, and files besides.
        self._limit = max(min(limit, may_open() // 8), 2)
        self._held: OrderedDict[bytes, int] = OrderedDict()
        _share.change(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: bytes) -> int:
        """Return a descriptor of the directory at ``path``, for reading it and for ``dir_fd``.

        It is this object's, and valid until the next call of any of its methods: do not close
        it. Where two are needed at once, use ``pinned`` for one of them.

        Raises:
            StoreError: it, or a directory above it, is not there or not a directory (a link to
                one is not one either), or cannot be opened.
        """
        if not path:
            return self._root
        fd = self._held.get(path)
        if fd is not None:
            self._held.move_to_end(path)
            return fd
        return self._walk(path)

    def dup(self, path: bytes) -> int:
        """Return a descriptor like ``open``'s that is the caller's to close.

        Raises:
            StoreError: as ``open``.
        """
        fd = self.open(path)
        try:
            return os.dup(fd)
        except OSError as exc:
            raise _not_opened(path or b".", exc) from exc

    @contextmanager
    def pinned(self, path: bytes) -> Iterator[int]:
        """Give a descriptor like ``open``'s that is valid until the end of the block.

        Raises:
            StoreError: as ``open``.
        """
        fd = self.dup(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def forget(self, path: bytes) -> None:
        """Drop what is held of ``path`` and below it; call it when it is moved or removed."""
        below = path + b"/" if path else b""
        for held in [at for at in self._held if at == path or at.startswith(below)]:
            os.close(self._held.pop(held))

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        self.forget(b"")
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
            _share.change(-1)

    def _walk(self, path: bytes) -> int:
        """Open what is missing between the nearest held directory and ``path``."""
        end = len(path)
        fd = self._root
        while (end := path.rfind(b"/", 0, end)) >= 0:
            held = self._held.get(path[:end])
            if held is not None:
                self._held.move_to_end(path[:end])
                fd = held
                break
        start = end + 1
        while start <= len(path):
            end = path.find(b"/", start)
            end = len(path) if end < 0 else end
            fd = self._open_below(fd, path[start:end], path[:end])
            self._hold(path[:end], fd)
            start = end + 1
        return fd

    def _hold(self, path: bytes, fd: int) -> None:
        self._held[path] = fd
        self._keep(max(min(self._limit, _share.each), 2))

    def _open_below(self, parent: int, name: bytes, path: bytes) -> int:
        try:
            return _open_below(parent, name, path)
        except StoreError as exc:
            if not are_used_up(exc) or len(self._held) < 2:
                raise
        self._keep(1)  # the parent was asked for last, unless it is the root
        return _open_below(parent, name, path)

    def _keep(self, count: int) -> None:
        while len(self._held) > count:
            os.close(self._held.popitem(last=False)[1])


def _open_below(parent: int, name: bytes, path: bytes) -> int:
    if name in (b"", b".", b".."):
        raise LocalError(f"{shown(path)} is not a path below a root")
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    except OSError as exc:
        if exc.errno in (errno.ENOTDIR, errno.ELOOP):
            raise StoreError(f"{shown(path)} is not a directory") from exc
        raise _not_opened(path, exc) from exc


def _not_opened(path: bytes, exc: OSError) -> StoreError:
    advice = f"; {HOW}" if are_used_up(exc) else ""
    return StoreError(f"{shown(path)}: {exc.strerror}{advice}")
