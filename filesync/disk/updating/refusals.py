"""Which answers of a disk are about one name alone, and what of an update was refused."""

import errno
import os
import threading
from collections.abc import Set
from typing import Final

_NONE: Final[Set[bytes]] = frozenset()
MAX_NAMED: Final = 1000
"""Refused names that are remembered with why; of others it is known how many there are."""

_SINGLE: Final = frozenset(
    {
        errno.EPERM,  # another's in a sticky directory, immutable, append-only
        errno.EACCES,
        errno.EROFS,
        errno.EBUSY,  # something is mounted there
        errno.ETXTBSY,
        errno.ENOTEMPTY,  # something in it was refused
        errno.EMLINK,
        errno.ENAMETOOLONG,  # what file systems of other kinds say to names
        errno.EILSEQ,
        errno.EINVAL,
        errno.EFBIG,  # a file too large for the file system, or for this process
    }
)


def is_single(why: int | None, *, is_new: bool = False) -> bool:
    """Say whether the errno ``why`` is about one name, and the next may fare better.

    All others (a full disk, a broken one, no descriptors left) concern the whole update. Where
    the name ``is_new``, ENOENT is about it, too: so exFAT says that it takes no such name.
    """
    return why in _SINGLE or (is_new and why == errno.ENOENT)


def is_gone(directory: int, error: OSError) -> bool:
    """Say whether ``error`` comes of it that an open directory was removed: it takes no name."""
    return error.errno == errno.ENOENT and not os.fstat(directory).st_nlink


class Refusals:
    """What of an update was refused, if it goes on past that. For several threads at once.

    Attributes:
        named: the first of the names, and why (errno).
        count: how many there are; what is below a directory that was refused is not counted.
        uncreated: names that are not there though they are new; all below them count as well.
        undeleted: names that are there though they are gone, likewise.
        directories: paths of new directories that are not there.
    """

    def __init__(self, *, goes_on: bool) -> None:
        self.goes_on = goes_on
        self.named: dict[bytes, int] = {}
        self.count = 0
        self.uncreated = 0
        self.undeleted = 0
        self.directories = set[bytes]()
        self._blocked: dict[bytes, set[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def unnamed(self) -> int:
        """How many names more were refused than are remembered."""
        return self.count - len(self.named)

    def note(self, path: bytes, error: OSError, *, uncreated: int = 0) -> None:
        """Take note that ``path`` stays as it is.

        Raises:
            OSError: ``error``, where it is not about one name, or the update does not go on.
        """
        is_refusal = self.goes_on and is_single(error.errno, is_new=uncreated > 0)
        if error.errno is None or not is_refusal:
            raise error
        with self._lock:
            self.count += 1
            self.uncreated += uncreated
            if len(self.named) < MAX_NAMED:
                self.named[path] = error.errno

    def block(self, path: bytes, name: bytes) -> None:
        """Have nothing put in the place of ``name`` in the directory ``path``: it stays."""
        self._blocked.setdefault(path, set()).add(name)

    def blocked(self, path: bytes) -> Set[bytes]:
        """Return the names in a directory in whose place nothing can be put."""
        return self._blocked.get(path, _NONE)
