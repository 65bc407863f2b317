"""Renames onto another file system: something else may be mounted below a root."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from filesync.disk.content import copy_sparse
from filesync.disk.handles import NEW_FLAGS, READ_FLAGS, is_append_only
from filesync.disk.reserved import WORK_PREFIX
from filesync.disk.updating.visits import below
from filesync.process.entropy import random_name

Noted = Callable[[bytes], AbstractContextManager[None]]
"""Has a path removed by the next update if this one is killed."""
Losing = Callable[[str], AbstractContextManager[None]]
"""Counts what cannot be kept there (``Metadata.losing``)."""


def rename(
    name: bytes,
    to: bytes,
    *,
    src_dir_fd: int,
    dst_dir_fd: int,
    path: bytes,
    noted: Noted,
    losing: Losing,
) -> bool:
    """Do as ``os.rename`` with what is no directory, onto another file system too.

    There it is a copy, made beside ``to`` and then renamed, so that nobody sees half of it. As
    long as it has a name of its own, in the directory ``path``, that is ``noted``. A link or
    device that cannot be there is not made.

    Returns:
        Whether it is a copy: another inode than before.

    Raises:
        OSError: this disk.
    """
    try:
        os.rename(name, to, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        if is_append_only(dst_dir_fd):  # what is made there first could not get its name
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), to) from exc
        beside = WORK_PREFIX + random_name().encode()
        with noted(below(path, beside)):
            _copy(name, to, src_dir_fd, dst_dir_fd, beside, losing)
        os.unlink(name, dir_fd=src_dir_fd)
        return True
    return False


def _copy(
    name: bytes, to: bytes, source: int, target: int, beside: bytes, losing: Losing
) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    try:
        if stat.S_ISREG(status.st_mode):
            _copy_file(name, beside, source, target, status, losing)
        elif not _copy_other(name, beside, source, target, status, losing):
            return
        os.rename(beside, to, src_dir_fd=target, dst_dir_fd=target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=target)
        raise


def _copy_file(
    name: bytes,
    to: bytes,
    source: int,
    target: int,
    status: os.stat_result,
    losing: Losing,
) -> None:
    old = os.open(name, READ_FLAGS, dir_fd=source)
    try:
        new = os.open(to, NEW_FLAGS, 0o600, dir_fd=target)
        try:
            os.ftruncate(new, status.st_size)
            copy_sparse(old, new, status.st_size)
            with losing("owner"):
                os.fchown(new, status.st_uid, status.st_gid)
            for attribute in os.listxattr(old):
                with losing("xattr"):
                    os.setxattr(new, attribute, os.getxattr(old, attribute))
            with losing("mode"):
                os.fchmod(new, stat.S_IMODE(status.st_mode))
            with losing("mtime"):
                os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_other(
    name: bytes,
    to: bytes,
    source: int,
    target: int,
    status: os.stat_result,
    losing: Losing,
) -> bool:
    is_link = stat.S_ISLNK(status.st_mode)
    is_made = False
    with losing("symbolic link" if is_link else "device"):
        if is_link:
            os.symlink(os.readlink(name, dir_fd=source), to, dir_fd=target)
        else:
            os.mknod(to, status.st_mode, status.st_rdev, dir_fd=target)
        is_made = True
    if not is_made:
        return False
    with losing("owner"):
        os.chown(to, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not is_link:
        with losing("mode"):
            os.chmod(to, stat.S_IMODE(status.st_mode), dir_fd=target)  # a name of our own
    with losing("mtime"):
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(to, ns=times, dir_fd=target, follow_symlinks=False)
    return True
