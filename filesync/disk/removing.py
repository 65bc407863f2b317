"""Removing all of a tree; ``updating.removal`` removes what of one can be removed."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from filesync.disk.entries import entries_of
from filesync.disk.handles import DIRECTORY_FLAGS, open_root, shown
from filesync.errors import StoreError

_MAX_STACK: Final = 64
"""Directories inside each other that are open at once while a tree is removed."""
MAX_REFILLED: Final = 100
"""Bound on the times that a directory is emptied while somebody fills it."""


class MountPoint(OSError):
    """What is to be removed has something mounted on it, which is not ours."""

    def __init__(self, name: bytes) -> None:
        super().__init__(errno.EBUSY, os.strerror(errno.EBUSY))
        self.name = name


def remove_tree(dirfd: int, name: bytes) -> None:
    """Remove ``name`` in the directory ``dirfd`` with all below it; fine if it is not there.

    Or if somebody else removes it, or some of it, meanwhile. Follows no link, leaves alone what
    is mounted below it, needs neither recursion nor many descriptors however deep the tree is,
    and opens up read-only directories first.

    Raises:
        StoreError: something cannot be removed, or is a mount point; names it. What has been
            removed by then is gone.
    """
    try:
        _unlink_or_remove(dirfd, name)
    except MountPoint as exc:
        raise StoreError(f"{shown(exc.name)} is a mount point: unmount it first") from exc
    except OSError as exc:
        raise StoreError(f"{shown(name)} cannot be removed: {exc}") from exc


def remove_path(path: Path) -> None:
    """Remove what is at ``path``, as ``remove_tree`` does; a link at its end is not followed.

    Raises:
        StoreError: as ``remove_tree``; or the directory that it is in is not there.
    """
    parent = open_root(path.parent)
    try:
        remove_tree(parent, os.fsencode(path.name))
    finally:
        os.close(parent)


def open_up(place: int, name: bytes, *, mount: bytes) -> int:
    """Let its owner read and change the directory ``name`` from now on; return its mode before.

    It is opened as a mere ``place``: its mode can be changed so without following a link, whether
    it can be read or not.

    Raises:
        MountPoint: it is not in ``mount``. What is mounted there keeps its mode.
    """
    if mount_of(place) != mount:
        raise MountPoint(name)
    mode = stat.S_IMODE(os.fstat(place).st_mode)
    if mode & 0o700 != 0o700:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
    return mode


def mount_of(fd: int) -> bytes:
    """Return what names the mount that ``fd`` is in; a bind mount's device would not tell."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return line
    return b""


class _Level:
    """One directory that is being emptied."""

    def __init__(self, parent: int, name: bytes, mount: bytes) -> None:
        self.name = name
        self.fd = _open_to_remove(parent, name, mount)
        self.todo: list[bytes] = []
        self.refilled = 0

    def unlink_files(self) -> None:
        """Remove all but subdirectories, which are left in ``todo``."""
        self.todo = []
        with entries_of(self.fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    self.todo.append(name)
                else:
                    _unlink_if_there(self.fd, name)


def _unlink_or_remove(dirfd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=dirfd)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.EISDIR, errno.EPERM):
            raise
        try:
            _remove_directory(dirfd, name)
        except NotADirectoryError:
            raise exc from None


def _remove_directory(dirfd: int, name: bytes) -> None:
    mount = mount_of(dirfd)
    stack: list[_Level] = []
    try:
        _enter(stack, dirfd, name, mount)
        while stack:
            level = stack[-1]
            if not level.todo:
                parent = stack[-2].fd if len(stack) > 1 else dirfd
                if _rmdir(parent, level):
                    os.close(stack.pop().fd)
                continue
            _enter(stack, level.fd, level.todo.pop(), mount)
    finally:
        for level in stack:
            os.close(level.fd)


def _enter(stack: list[_Level], parent: int, name: bytes, mount: bytes) -> None:
    """Begin with the directory ``name`` in the deepest one, unless it is gone."""
    with suppress(FileNotFoundError):
        level = _Level(parent, name, mount)
        if len(stack) < _MAX_STACK:
            stack.append(level)
            level.unlink_files()
            return
        # What lies deeper is moved up beside the top and removed from there: descriptors stay
        # few, and no '..' is trusted.
        os.close(level.fd)
        up = b".removed-" + os.urandom(8).hex().encode()
        os.rename(name, up, src_dir_fd=parent, dst_dir_fd=stack[0].fd)
        stack[0].todo.append(up)


def _rmdir(parent: int, level: _Level) -> bool:
    """Remove an empty directory; False when there is something in it after all."""
    try:
        os.rmdir(level.name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as exc:
        level.refilled += 1
        if exc.errno != errno.ENOTEMPTY or level.refilled > MAX_REFILLED:
            raise
        level.unlink_files()
        return False
    return True


def _open_to_remove(parent: int, name: bytes, mount: bytes) -> int:
    place = os.open(name, DIRECTORY_FLAGS | os.O_PATH, dir_fd=parent)
    try:
        open_up(place, name, mount=mount)
        return os.open(b".", DIRECTORY_FLAGS, dir_fd=place)
    finally:
        os.close(place)


def _unlink_if_there(dirfd: int, name: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dirfd)
