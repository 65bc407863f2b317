"""What stands at a sync's destination though its scan does not show it."""

import os
import stat
from types import TracebackType
from typing import Self

from filesync.disk.handles import DirectoryHandles
from filesync.disk.updating.work import storing
from filesync.errors import StoreError
from filesync.sync.filter import Filter
from filesync.sync.places import Place


class Unseen:
    """Asks the disk about single names: a name that is left out is not in what was scanned.

    A scan that looked at all that rules exclude would cost what is spared by excluding it.

    Args:
        place: what was scanned.
        filter: what the scan left out.
    """

    def __init__(self, place: Place, filter: Filter) -> None:
        self._handles = DirectoryHandles(place.root)
        self._filter = filter
        self._has_names = place.names is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._handles.close()

    def is_in(self, path: bytes) -> bool:
        """Say whether anything whatever is in the directory ``path``, which the scan shows empty.

        Raises:
            StoreError: it cannot be read.
        """
        fd = self._handles.open(path)
        with storing(path), os.scandir(fd) as found:
            return next(found, None) is not None

    def is_directory(self, path: bytes) -> bool:
        """Say whether ``path``, which the scan does not show, is a directory that it left out."""
        # Of names none that is a directory was scanned.
        if not self._has_names and not self._filter.excludes(path, is_directory=True):
            return False
        parent, _, name = path.rpartition(b"/")
        try:
            status = os.stat(name, dir_fd=self._handles.open(parent), follow_symlinks=False)
        except (OSError, StoreError):
            return False  # what keeps it from being made will be found when it is made
        return stat.S_ISDIR(status.st_mode)
