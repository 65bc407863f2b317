"""Sets owner, mode, xattrs and times, exactly or not at all.

The order is data, owner, mode, xattrs, times: a change of owner or content drops
``security.capability`` and the setuid bit, and everything but the last step changes a time.
Unlike a sync, which counts what a target cannot keep, an op that cannot keep something fails:
its result would not be the one that its cache key promises.
"""

import os
import stat

import msgspec

from filesync.disk.updating.metadata import chmod_unopened
from filesync.errors import StoreError
from filesync.manifest import Directory, File, Special, Xattrs
from worker.files.mode import ChangeMode
from worker.files.tree import Owner


class Attributes(msgspec.Struct, frozen=True):
    """All that a name has beside its content; ``mode`` are permission bits."""

    uid: int
    gid: int
    mode: int
    mtime_ns: int | None
    xattrs: Xattrs = ()


def attributes_of(
    entry: File | Special | Directory, owner: Owner | None, change_mode: ChangeMode | None
) -> Attributes:
    """Return what a copy of ``entry`` has, for ``owner`` and with its mode changed, if given."""
    uid, gid = owner or (entry.uid, entry.gid)
    mode = stat.S_IMODE(entry.mode)
    if change_mode is not None:
        mode = change_mode(mode, isinstance(entry, Directory))
    return Attributes(uid, gid, mode, entry.mtime_ns, entry.xattrs)


def set_open(fd: int, wanted: Attributes) -> None:
    """Set them on an open file or directory; without ``mtime_ns`` its times are left.

    Raises:
        StoreError: this user cannot give files away.
    """
    try:
        os.fchown(fd, wanted.uid, wanted.gid)
    except PermissionError as exc:
        raise _not_ours_to_give(wanted) from exc
    os.fchmod(fd, wanted.mode)
    for name, value in wanted.xattrs:
        os.setxattr(fd, name, value)
    if wanted.mtime_ns is not None:
        os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))


def set_unopened(dirfd: int, name: bytes, wanted: Attributes) -> None:
    """Set them on a link, which has no mode, or on a special file; neither is opened.

    Raises:
        StoreError: this user cannot give files away.
    """
    try:
        os.chown(name, wanted.uid, wanted.gid, dir_fd=dirfd, follow_symlinks=False)
    except PermissionError as exc:
        raise _not_ours_to_give(wanted) from exc
    kind = stat.S_IFMT(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)
    if kind != stat.S_IFLNK:
        chmod_unopened(dirfd, name, wanted.mode, kind)
    # No call sets xattrs by dir_fd. /proc leads to the held directory, and the one name after
    # it is not followed.
    for xattr, value in wanted.xattrs:
        path = b"/proc/self/fd/%d/%b" % (dirfd, name)
        os.setxattr(path, xattr, value, follow_symlinks=False)
    if wanted.mtime_ns is not None:
        times = (wanted.mtime_ns, wanted.mtime_ns)
        os.utime(name, ns=times, dir_fd=dirfd, follow_symlinks=False)


def _not_ours_to_give(wanted: Attributes) -> StoreError:
    owner, user = f"{wanted.uid}:{wanted.gid}", f"{os.geteuid()}:{os.getegid()}"
    return StoreError(
        f"only root can make files of {owner}: start the worker as root, or use --chown={user}"
    )
