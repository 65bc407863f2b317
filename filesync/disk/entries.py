"""What is in an open directory, now."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager


def entries_of(fd: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    """Return what yields the entries of the directory ``fd``, from the first on; close it at the end.

    Who has a duplicate of ``fd`` must not list it meanwhile: there is one place where both are.

    Raises:
        OSError: it cannot be listed.
    """
    _begin(fd)
    return os.scandir(fd)


def names_of(fd: int) -> list[bytes]:
    """Return the names in the directory ``fd``, in its order; see ``entries_of``."""
    _begin(fd)
    return list(map(os.fsencode, os.listdir(fd)))


def _begin(fd: int) -> None:
    """Go to the beginning: btrfs lists what was there when that was done, or the directory opened."""
    os.lseek(fd, 0, os.SEEK_SET)
