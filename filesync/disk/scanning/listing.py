"""Listing a directory: its names, and the stats that show whether anything has changed."""

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import attrgetter, itemgetter
from stat import S_ISDIR, S_ISREG
from typing import Final, NamedTuple, Protocol, cast

import msgspec

from filesync.digest import digest_of
from filesync.disk.entries import entries_of
from filesync.disk.scanning.statcache import COARSE_SLACK_NS, is_racy
from filesync.manifest import Directory, Xattrs
from filesync.manifest.node import folded, is_name

Stamp = tuple[int, int, int, int, int, int, int, int, int]
"""(size, mtime_ns, ctime_ns, inode, device, mode, uid, gid, nlink); it begins as a ``Noted``."""

SIZE, MTIME, CTIME, INODE, DEVICE, MODE, UID, NLINK = 0, 1, 2, 3, 4, 5, 6, 8
"""Places in a stamp."""

stamp_of: Final = cast(
    Callable[[os.stat_result], Stamp],
    attrgetter(
        "st_size",
        "st_mtime_ns",
        "st_ctime_ns",
        "st_ino",
        "st_dev",
        "st_mode",
        "st_uid",
        "st_gid",
        "st_nlink",
    ),
)
"""Return the stamp in a stat: in C, in a third of the time of nine attributes in Python."""

MAX_TIME_NS: Final = (1 << 63) - 1
_BATCH_NAMES: Final = 1024
_BLOCK_BYTES: Final = 512
_ENCODING: Final = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
_encoder: Final = msgspec.msgpack.Encoder()
_NO_SUCH_NAME: Final = (errno.ENOENT, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""What file systems say of a name that is not there, or that they cannot have."""


class Item(Protocol):
    """What a directory has under a name, as ``os.DirEntry``; no link is followed."""

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        """Say whether it is a directory."""
        ...

    def is_file(self, *, follow_symlinks: bool) -> bool:
        """Say whether it is a regular file."""
        ...

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        """Return its stat."""
        ...


Found = Iterable[tuple[bytes, Item]]


def names_in(fd: int) -> Iterator[tuple[bytes, Item]]:
    """Yield the names in the directory ``fd`` as bytes, in the order of the directory.

    The entries stat through ``fd``: it must be open while they are asked. Keep none of them: an
    entry that was asked holds half a kilobyte.
    """
    with entries_of(fd) as found:
        while items := list(islice(found, _BATCH_NAMES)):
            # Many names at once: os.fsencode of each takes as long as the listing itself.
            names = "/".join([item.name for item in items]).encode(*_ENCODING).split(b"/")
            yield from zip(names, items, strict=True)


def these_in(fd: int, names: Iterable[bytes]) -> Iterator[tuple[bytes, Item]]:
    """Yield those of ``names`` that are in the directory ``fd``, as ``names_in`` does.

    What else is in it costs nothing. Of names that differ in case alone, where they are one, the
    first is there: a listing would have no more.
    """
    met: set[tuple[str, int]] = set()
    for name in filter(is_name, names):
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_SUCH_NAME:
                raise
            continue
        alike = folded(name), status.st_ino
        if alike not in met or (status.st_nlink > 1 and not S_ISDIR(status.st_mode)):
            met.add(alike)
            yield name, _Looked(status)


class _Looked(NamedTuple):
    """An ``Item`` that was asked already."""

    status: os.stat_result

    def is_dir(self, *, follow_symlinks: bool) -> bool:
        return S_ISDIR(self.status.st_mode)

    def is_file(self, *, follow_symlinks: bool) -> bool:
        return S_ISREG(self.status.st_mode)

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        return self.status


def look(
    found: Found, *, sparse: set[bytes] | None = None
) -> tuple[list[bytes], dict[bytes, Stamp]]:
    """Return the directories among ``found`` and the stamps of all else, in order.

    What vanished meanwhile is in neither. ``sparse`` gets the names of what ``is_sparse``.
    """
    directories: list[bytes] = []
    stamps: dict[bytes, Stamp] = {}
    for name, item in found:
        if item.is_dir(follow_symlinks=False):
            directories.append(name)
        else:
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            stamps[name] = stamp_of(status)
            if sparse is not None and is_sparse(status):
                sparse.add(name)
    return directories, stamps


def is_sparse(status: os.stat_result) -> bool:
    """Say whether a file has fewer blocks than its size takes."""
    return status.st_blocks * _BLOCK_BYTES < status.st_size


def header_of(st: os.stat_result, xattrs: Xattrs) -> Directory:
    """Return what a directory's own stat says."""
    mtime_ns = fitting(st.st_mtime_ns)
    return Directory(st.st_mode & 0o7777, st.st_uid, st.st_gid, mtime_ns, xattrs, ())


def fitting(mtime_ns: int) -> int:
    """Return the mtime; file systems go beyond what 64 bits of nanoseconds can say."""
    return min(max(mtime_ns, -MAX_TIME_NS), MAX_TIME_NS)


def mark(
    header: Directory, directories: Iterable[bytes], stamps: Mapping[bytes, Stamp]
) -> bytes:
    """Return what a listing comes to; b"" if it cannot be told, or says too little.

    Two listings of one mark say the same of the directory itself, of each name in it and of
    the stats of all that are not directories: those are looked at when their turn comes. Names
    of one file that are in several directories are found by looking at each. It is a
    cryptographic digest because who makes files has most of these numbers in hand.
    """
    values = stamps.values()
    if max(map(itemgetter(NLINK), values), default=1) > 1:
        return b""
    own = (header.mode, header.uid, header.gid, header.mtime_ns, header.xattrs)
    names = b"/".join(directories), b"/".join(stamps)
    try:
        packed = _encoder.encode((own, names, list(values)))
    except OverflowError:  # times beyond 64 bits of nanoseconds
        return b""
    return digest_of(packed)


def racy(stamps: Mapping[bytes, Stamp], *, started_ns: int) -> set[bytes]:
    """Return the names of what ``is_racy`` for a scan that began at ``started_ns``."""
    limit = started_ns - COARSE_SLACK_NS  # what is older need not be asked about
    return {
        name
        for name, one in stamps.items()
        if (one[MTIME] >= limit or one[CTIME] >= limit)
        and is_racy(one[MTIME], one[CTIME], started_ns=started_ns)
    }
