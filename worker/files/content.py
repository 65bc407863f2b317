"""Copies the bytes of one file: in the kernel, shared where the file system can, holes kept."""

import errno
import os
import stat
from typing import Final

from filesync.disk.content import copy_sparse, write_all
from filesync.disk.handles import READ_FLAGS
from filesync.errors import StoreError
from worker.files.tree import text_of

SMALL_BYTES: Final = 256 << 10
"""Up to here one read and one write are faster than asking for anything cleverer."""
_CANNOT: Final = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)


def copy_content(dirfd: int, name: bytes, target: int, *, size: int) -> None:
    """Write the ``size`` bytes of ``name`` to the empty file ``target``.

    Raises:
        StoreError: ``name`` is not a regular file of that size.
    """
    source = os.open(name, READ_FLAGS, dir_fd=dirfd)
    try:
        if size <= SMALL_BYTES:
            data = os.read(source, size + 1)
            if len(data) != size:
                raise _not_as_listed(name)
            if os.write(target, data) != size:
                write_all(target, data, 0)
        else:
            _copy_large(source, target, name, size=size)
    finally:
        os.close(source)


def _copy_large(source: int, target: int, name: bytes, *, size: int) -> None:
    status = os.fstat(source)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise _not_as_listed(name)
    has_holes = status.st_blocks * 512 < size
    if has_holes or not _copied_in_kernel(source, target, size):
        os.ftruncate(target, size)
        copy_sparse(source, target, size)


def _copied_in_kernel(source: int, target: int, size: int) -> bool:
    at = 0
    while at < size:
        try:
            count = os.copy_file_range(source, target, size - at, at, at)
        except OSError as exc:
            if exc.errno not in _CANNOT:
                raise
            return False
        # Some file systems answer 0 where they mean that they cannot.
        if not count:
            return False
        at += count
    return True


def _not_as_listed(name: bytes) -> StoreError:
    return StoreError(f"{text_of(name)}: the input on this disk is not what its manifest says")
