"""What stands at a sync's destination though its scan does not show it."""

import os
import stat
from typing import Protocol, Self

from filesync.disk.entries import entries_of
from filesync.disk.handles import DirectoryHandles
from filesync.disk.updating.work import storing
from filesync.errors import StoreError
from filesync.sync.filter import Filter
from filesync.sync.places import Place


class Unseen(Protocol):
    """Knows of single names: a name that is left out is not in what was scanned.

    A scan that looked at all that rules exclude would cost what is spared by excluding it.
    """

    def is_in(self, path: bytes) -> bool:
        """Say whether anything whatever is in the directory ``path``, which the scan shows empty."""

    def is_directory(self, path: bytes) -> bool:
        """Say whether ``path``, which the scan does not show, is a directory that it left out."""


class UnseenOnDisk:
    """Asks the disk.

    Args:
        place: what was scanned.
        filter: what the scan left out.
    """

    def __init__(self, place: Place, filter: Filter) -> None:
        self._handles = DirectoryHandles(place.root)
        self._filter = filter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def is_in(self, path: bytes) -> bool:
        """Say whether anything is in the directory ``path``; nothing is in what is not there.

        A dry run may ask for one that it has only planned.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            fd = self._handles.open(path)
        except StoreError as exc:
            if isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
                return False
            raise
        with storing(path), entries_of(fd) as found:
            return next(found, None) is not None

    def is_directory(self, path: bytes) -> bool:
        """Say whether ``path`` is a directory that the scan left out."""
        if not self._filter.excludes(path, is_directory=True):
            return False
        parent, _, name = path.rpartition(b"/")
        try:
            status = os.stat(name, dir_fd=self._handles.open(parent), follow_symlinks=False)
        except (OSError, StoreError):
            return False  # what keeps it from being made will be found when it is made
        return stat.S_ISDIR(status.st_mode)
