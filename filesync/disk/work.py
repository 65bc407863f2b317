"""Where an update works: the directories of its tree, and a private one for what is on its way."""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from filesync.disk.handles import DIRECTORY_FLAGS, DirectoryHandles, remove_tree, shown
from filesync.disk.metadata import Created
from filesync.errors import StoreError

WORK_PREFIX: Final = b".filesync-"
"""Names at a root that begin so are ours: never part of a tree."""


class Directories:
    """The directories below one root, for several threads at once."""

    def __init__(self, root: Path | int) -> None:
        self._handles = DirectoryHandles(root)
        self._lock = threading.Lock()

    @contextmanager
    def held(self, path: bytes) -> Iterator[int]:
        """Give a descriptor of the directory at ``path`` until the end of the block.

        Raises:
            StoreError: it is not there, or is not a directory reached through directories.
        """
        with self._lock:
            fd = os.dup(self._handles.open(path))
        try:
            yield fd
        finally:
            os.close(fd)

    def forget(self, path: bytes) -> None:
        """Drop what is held of ``path`` and below it; call it when it is moved."""
        with self._lock:
            self._handles.forget(path)

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        with self._lock:
            self._handles.close()


class WorkDirectory:
    """A private directory for temporary files and for what was moved aside.

    Attributes:
        fd: its descriptor, held until ``remove``.
        trash: the directories in it.
        created: what files made in it get.
    """

    def __init__(self, parent: int) -> None:
        """Make it in the directory ``parent``, a descriptor that is closed with it."""
        self._parent = parent
        self._name = WORK_PREFIX + secrets.token_hex(8).encode()
        self._numbers = count()
        self.created = Created()
        try:
            os.mkdir(self._name, 0o700, dir_fd=parent)
            self.fd = os.open(self._name, DIRECTORY_FLAGS, dir_fd=parent)
        except BaseException:
            os.close(self._parent)
            raise
        self.trash = Directories(self.fd)

    def free_name(self) -> bytes:
        """Return a name that was never used in it."""
        return b"%x" % next(self._numbers)

    def umask(self) -> int:
        """Return what creating a file takes away from its mode."""
        name = self.free_name()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777, dir_fd=self.fd)
        try:
            return 0o777 & ~os.fstat(fd).st_mode
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self.fd)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        self.trash.close()
        try:
            remove_tree(self._parent, self._name)
        finally:
            os.close(self.fd)
            os.close(self._parent)


class Place:
    """A directory that is being filled."""

    __slots__ = ("created", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.created = Created()


@contextmanager
def storing(path: bytes) -> Iterator[None]:
    """Turn what this disk answers into a ``StoreError`` that names ``path`` and below it."""
    try:
        yield
    except OSError as exc:
        name = exc.filename
        text = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
        if isinstance(text, bytes) and text != path:
            path = path + b"/" + text if path else text
        raise StoreError(f"{shown(path)}: {exc.strerror}") from exc
