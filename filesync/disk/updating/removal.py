"""Removing a tree as far as it can be removed: what is refused stays, with the directories around it."""

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple, Self

from filesync.disk.entries import entries_of
from filesync.disk.handles import DIRECTORY_FLAGS, DirectoryHandles
from filesync.disk.removing import MAX_REFILLED, mount_of, open_up
from filesync.disk.updating.visits import below
from filesync.errors import StoreError

OnRefused = Callable[[bytes, OSError], None]
"""Told a path, from the top of the tree on, and why; raises what ends it all."""


class _Level(NamedTuple):
    """A directory that is being emptied: its path, its mode before, what is to be done in it."""

    path: bytes
    mode: int
    todo: list[bytes]


class Remover:
    """Removes names in one directory with all below them, but for what is refused.

    As ``remove_tree`` it follows no link and leaves alone what is mounted. That one moves what is
    deep out of its way; here what may have to stay is left where it is, and a directory that does
    stay keeps its mode.
    """

    def __init__(self, dirfd: int) -> None:
        """Begin in the directory ``dirfd``, a descriptor that stays the caller's."""
        self._handles = DirectoryHandles(dirfd)
        self._mount = mount_of(dirfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def remove(self, name: bytes, refused: OnRefused) -> int:
        """Remove one name.

        Returns:
            How many names are still there; what is mounted counts as one.

        Raises:
            OSError, StoreError: what ``refused`` raises; what has been removed by then is gone.
        """
        self._refused = refused
        self._left = 0
        self._stays = [False]
        self._refilled = 0
        stack: list[_Level] = []
        self._take(b"", name, stack)
        while stack:
            level = stack[-1]
            if level.todo:
                self._take_directory(level.path, level.todo.pop(), stack)
                continue
            if self._close(level):
                stack.pop()
        return self._left

    def _take(self, path: bytes, name: bytes, stack: list[_Level]) -> None:
        """Unlink a name, or begin with a directory."""
        try:
            os.unlink(name, dir_fd=self._handles.open(path))
        except FileNotFoundError:
            pass
        except OSError as exc:
            if exc.errno not in (errno.EISDIR, errno.EPERM) or not self._is_directory(
                path, name
            ):
                self._stay(below(path, name), exc)
            else:
                self._take_directory(path, name, stack)

    def _is_directory(self, path: bytes, name: bytes) -> bool:
        status = os.stat(name, dir_fd=self._handles.open(path), follow_symlinks=False)
        return stat.S_ISDIR(status.st_mode)

    def _take_directory(self, path: bytes, name: bytes, stack: list[_Level]) -> None:
        directory = below(path, name)
        try:
            mode = self._opened_up(self._handles.open(path), name)
        except FileNotFoundError:
            return
        except OSError as exc:
            if not self._is_removed_empty(path, name, exc):
                self._stay(directory, exc)
            return
        self._stays.append(False)
        stack.append(_Level(directory, mode, []))
        self._unlink_files(stack[-1])

    def _is_removed_empty(self, path: bytes, name: bytes, why: OSError) -> bool:
        """Remove a directory that this user may not change, being another's, but may remove if it is empty."""
        if not isinstance(why, PermissionError):
            return False
        try:
            os.rmdir(name, dir_fd=self._handles.open(path))
        except OSError:
            return False
        return True

    def _opened_up(self, parent: int, name: bytes) -> int:
        place = os.open(name, DIRECTORY_FLAGS | os.O_PATH, dir_fd=parent)
        try:
            return open_up(place, name, mount=self._mount)
        finally:
            os.close(place)

    def _unlink_files(self, level: _Level) -> None:
        try:
            fd = self._handles.open(level.path)
        except StoreError as exc:
            if not isinstance(exc.__cause__, OSError):
                raise
            if not isinstance(exc.__cause__, FileNotFoundError):  # somebody has removed it
                self._refused(level.path, exc.__cause__)
                self._stays[-1] = True
            return
        with entries_of(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    level.todo.append(name)
                    continue
                try:
                    os.unlink(name, dir_fd=fd)
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    self._stay(below(level.path, name), exc)

    def _stay(self, path: bytes, error: OSError) -> None:
        self._refused(path, error)
        self._left += 1
        self._stays[-1] = True

    def _close(self, level: _Level) -> bool:
        """End with a directory whose contents are dealt with; False if there is more in it."""
        parent, _, name = level.path.rpartition(b"/")
        if not self._stays[-1]:
            self._handles.forget(level.path)
            try:
                os.rmdir(name, dir_fd=self._handles.open(parent))
            except FileNotFoundError:
                pass
            except OSError as exc:
                if exc.errno == errno.ENOTEMPTY and self._refilled < MAX_REFILLED:
                    self._refilled += 1
                    self._unlink_files(level)
                    return False
                self._refused(level.path, exc)
                self._stays[-1] = True
        if self._stays.pop():
            self._left += 1
            self._stays[-1] = True
            if level.mode & 0o700 != 0o700:
                os.chmod(f"/proc/self/fd/{self._handles.open(level.path)}", level.mode)
        return True
