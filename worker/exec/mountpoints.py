"""Mount-points that a run needs and the committed tree must not show.

An OCI runtime makes what a mount's target lacks, in the root itself, and leaves it there. So
they are made here before the run, and exactly those are removed after it.

The tree is hostile by then: the command may have put a link, or another directory, where a
mount-point or one of its parents was. Nothing is looked up by path again. The parent's
descriptor is kept from the time it was made, a mount-point is known by its inode, and a link
is never followed. What is no longer empty, or no longer ours, stays.
"""

import os
import stat
from collections.abc import Callable
from typing import Final

import msgspec

from filesync.disk.handles import DIRECTORY_FLAGS, NEW_FLAGS
from worker.exec.errors import BadExec
from worker.exec.rooted import Location, make_directory, open_below

MAX_MADE: Final = 1000
"""Bound on the names that are made for one run: a descriptor of each one's parent is kept meanwhile."""


class _Parent(msgspec.Struct):
    """A directory we made names in: its mtime before the first and after the last."""

    fd: int
    before_ns: int
    after_ns: int


class _Made(msgspec.Struct, frozen=True):
    parent: _Parent
    name: str
    status: os.stat_result


class MountPoints:
    """The mount-points made in one root, until ``remove``."""

    def __init__(self, root_fd: int) -> None:
        """Work below ``root_fd``, which stays the caller's and must stay open."""
        self._root_fd = root_fd
        self._made: list[_Made] = []
        self._parents: dict[tuple[int, int], _Parent] = {}

    def make(self, where: Location, *, directory: bool) -> None:
        """Make the missing part of ``where``; its last name is a file unless ``directory``.

        Raises:
            BadExec: that would be more than MAX_MADE names in all.
            NotADirectoryError, IsADirectoryError: what is there is of the other kind.
        """
        if not where.missing:
            self._check_kind(where, directory=directory)
            return
        if len(self._made) + len(where.missing) > MAX_MADE:
            raise BadExec(f"its mounts lack more than {MAX_MADE} directories to stand on")
        parent = self._parent(open_below(self._root_fd, where.names, DIRECTORY_FLAGS))
        for name in where.missing[:-1]:
            self._add(parent, name, directory=True)
            parent = self._parent(os.open(name, DIRECTORY_FLAGS, dir_fd=parent.fd))
        self._add(parent, where.missing[-1], directory=directory)

    def remove(self) -> None:
        """Remove what ``make`` made and is still empty, and give the parents their mtimes.

        A parent that the command changed keeps the mtime it got from that. Closes every
        descriptor; a second call does nothing.
        """
        made, self._made = self._made, []
        parents, self._parents = list(self._parents.values()), {}
        try:
            mtimes = [_mtime_to_keep(parent) for parent in parents]
            for item in reversed(made):
                _remove_if_unchanged(item)
            for parent, mtime_ns in zip(parents, mtimes, strict=True):
                os.utime(parent.fd, ns=(os.fstat(parent.fd).st_atime_ns, mtime_ns))
        finally:
            for parent in parents:
                os.close(parent.fd)

    def _check_kind(self, where: Location, *, directory: bool) -> None:
        fd = open_below(self._root_fd, where.names)
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)
        if directory and not is_directory:
            raise NotADirectoryError(f"{where.path} is no directory")
        if is_directory and not directory:
            raise IsADirectoryError(f"{where.path} is a directory")

    def _add(self, parent: _Parent, name: str, *, directory: bool) -> None:
        make: Callable[[int, str], None] = make_directory if directory else _make_file
        make(parent.fd, name)
        status = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        parent.after_ns = os.fstat(parent.fd).st_mtime_ns
        self._made.append(_Made(parent, name, status))

    def _parent(self, fd: int) -> _Parent:
        """Return the directory ``fd``, which becomes ours, as it was before we made names in it."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino)
        known = self._parents.get(key)
        if known is not None:
            os.close(fd)
            return known
        parent = _Parent(fd, before_ns=status.st_mtime_ns, after_ns=status.st_mtime_ns)
        self._parents[key] = parent
        return parent


def _make_file(parent_fd: int, name: str) -> None:
    os.close(os.open(name, NEW_FLAGS, 0o644, dir_fd=parent_fd))


def _mtime_to_keep(parent: _Parent) -> int:
    now_ns = os.fstat(parent.fd).st_mtime_ns
    return parent.before_ns if now_ns == parent.after_ns else now_ns


def _remove_if_unchanged(item: _Made) -> None:
    try:
        status = os.stat(item.name, dir_fd=item.parent.fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if _identity(status) != _identity(item.status):
        return
    try:
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(item.name, dir_fd=item.parent.fd)
        elif status.st_size == 0:
            os.unlink(item.name, dir_fd=item.parent.fd)
    except OSError:
        return  # not empty: the command put something there, and it is its to keep


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid)
