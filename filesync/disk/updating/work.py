"""Where an update works: the directories of its tree, and a private one for what is on its way."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from filesync.disk.handles import DIRECTORY_FLAGS, DirectoryHandles, shown
from filesync.disk.removing import remove_tree
from filesync.disk.reserved import WORK_PREFIX
from filesync.disk.updating.metadata import Created, gives_group
from filesync.errors import StoreError
from filesync.process.descriptors import HOW, are_used_up
from filesync.process.entropy import random_name

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What says that there is no room left, be it for this user alone."""


class Directories:
    """The directories below one root, for several threads at once."""

    def __init__(self, root: Path | int) -> None:
        self._handles = DirectoryHandles(root)
        self._lock = threading.Lock()

    def open(self, path: bytes) -> int:
        """Return a descriptor of the directory at ``path``, which the caller closes.

        Raises:
            StoreError: it is not there, or is not a directory reached through directories; or no
                more files may be opened.
        """
        with self._lock:
            return self._handles.dup(path)

    @contextmanager
    def held(self, path: bytes) -> Iterator[int]:
        """Give a descriptor of the directory at ``path`` until the end of the block.

        Raises:
            StoreError: as ``open``.
        """
        fd = self.open(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        with self._lock:
            self._handles.close()


class CurrentDirectory:
    """A descriptor of one directory after another, kept as long as the same one is asked for."""

    def __init__(self, root: Directories) -> None:
        self._root = root
        self._path: bytes | None = None
        self._fd = -1

    def open(self, path: bytes) -> int:
        """Return a descriptor of the directory at ``path``, valid until the next call.

        Raises:
            StoreError: as ``Directories.open``.
        """
        if path != self._path:
            self.close()
            self._fd = self._root.open(path)
            self._path = path
        return self._fd

    def close(self) -> None:
        """Close what is open. Idempotent."""
        if self._path is not None:
            self._path = None
            os.close(self._fd)


NOTE_PREFIX: Final = b"note-"
"""In a work directory: a link with the path of a file of ours elsewhere below the root."""


class WorkDirectory:
    """A private directory for temporary files and for what was moved aside.

    Attributes:
        parent: a descriptor of the directory that it is in, held until ``remove``.
        fd: its own, held as long.
        trash: the directories in it.
        created: what files made in it get.
    """

    def __init__(self, parent: int) -> None:
        """Make it in the directory ``parent``, a descriptor that is closed with it."""
        self.parent = parent
        self._name = WORK_PREFIX + random_name().encode()
        self._numbers = count()
        self.created = Created()
        with ExitStack() as undo:
            undo.callback(os.close, parent)
            undo.callback(self._unmake)  # before it is there: a signal may come in between
            os.mkdir(self._name, 0o700, dir_fd=parent)
            self.fd = os.open(self._name, DIRECTORY_FLAGS, dir_fd=parent)
            undo.callback(os.close, self.fd)
            self.trash = Directories(self.fd)
            undo.pop_all()

    def _unmake(self) -> None:
        with suppress(OSError):  # it was never made; or why it could not be is on its way
            os.rmdir(self._name, dir_fd=self.parent)

    def free_name(self) -> bytes:
        """Return a name that was never used in it."""
        return b"%x" % next(self._numbers)

    @contextmanager
    def noted(self, path: bytes) -> Iterator[None]:
        """For the block, have whoever clears this directory away remove the file ``path``, too.

        That is the next update, should this process be killed meanwhile (see ``layout.sweep``).
        """
        note = NOTE_PREFIX + self.free_name()
        try:
            os.symlink(path, note, dir_fd=self.fd)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise
            yield
            return
        try:
            yield
        finally:
            os.unlink(note, dir_fd=self.fd)

    def folds_case(self) -> bool:
        """Say whether names that differ in case alone are one here."""
        try:
            os.stat(self._name.upper(), dir_fd=self.parent, follow_symlinks=False)
        except OSError:
            return False
        return True

    def is_shared(self) -> bool:
        """Say whether what is made here gets the group of the directory that this one is in.

        That may be a group that the user is not in, and could not give to anything.
        """
        return gives_group(self.fd)

    def umask(self) -> int:
        """Return what creating a file takes away from its mode."""
        with self._probe() as fd:
            return 0o777 & ~os.fstat(fd).st_mode

    def takes(self, size: int) -> bool:
        """Say whether a file here can have so many bytes, as far as the kernel knows."""
        with self._probe() as fd:
            try:
                os.lseek(fd, size, os.SEEK_SET)
            except OSError:
                return False
            return True

    @contextmanager
    def _probe(self) -> Iterator[int]:
        """Give a file that is created with all of a mode, and removed after the block."""
        name = self.free_name()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777, dir_fd=self.fd)
        try:
            yield fd
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self.fd)

    def remove(self) -> None:
        """Remove it with all that is in it. Idempotent: what could not be removed stays.

        Raises:
            StoreError: something cannot be removed; names it.
        """
        if self.fd < 0:
            return
        self.trash.close()
        try:
            remove_tree(self.parent, self._name)
        finally:
            os.close(self.fd)
            os.close(self.parent)
            self.fd = self.parent = -1


class Place:
    """A directory that is being filled.

    Attributes:
        is_direct: new files may be written under their names: nobody minds who sees them half
            written, or nobody can, since this update has made it and it is 0700 until its end.
        created: what files made in it get.
    """

    __slots__ = ("created", "is_direct", "path")

    def __init__(self, path: bytes, *, is_direct: bool) -> None:
        self.path = path
        self.is_direct = is_direct
        self.created = Created()


@contextmanager
def storing(path: bytes, file: bytes | None = None) -> Iterator[None]:
    """Turn what this disk answers into a ``StoreError`` that names ``path``, and what is in it.

    That is ``file``, if it is given: what is written beside it has a name that says nothing.
    """
    try:
        yield
    except OSError as exc:
        name = exc.filename if file is None else file
        text = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
        if isinstance(text, bytes) and text != path:
            path = path + b"/" + text if path else text
        raise StoreError(f"{shown(path)}: {exc.strerror}{_advice(exc)}") from exc


def _advice(exc: OSError) -> str:
    if exc.errno in FULL:
        return "; make room and run again: files that came whole stay"
    if are_used_up(exc):
        return f"; {HOW}"
    if exc.errno == errno.EEXIST:
        return "; somebody made it just now, or another name is the same to this file system"
    if exc.errno == errno.EBUSY:
        return "; something is mounted there: unmount it, or leave it out"
    if exc.errno == errno.ENOENT:
        return "; somebody removed it, or what it is in, just now"
    return ""
