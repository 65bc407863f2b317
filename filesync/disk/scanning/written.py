"""What an update wrote and proved, as it is noted in the stat cache: no scan has seen it yet."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from xxhash import xxh3_64_intdigest

from filesync.disk.scanning.listing import (
    CTIME,
    MODE,
    MTIME,
    NLINK,
    SIZE,
    UID,
    Stamp,
    is_sparse,
)
from filesync.disk.scanning.statcache import Seen, SeenFile, is_racy, pack_stamps
from filesync.disk.statedir import boot_id
from filesync.manifest import Directory, File, encode, with_entries

_BY_OTHERS: Final = 0o022
SIZED_FIRST_BYTES: Final = 64 << 10
"""Below this an update gives a file its size with its content, unless it has holes."""
_FLUSHED_NS: Final = 600_000_000_000
"""Linux begins to write what is 30 seconds old; a slow disk then takes a while."""


def written(
    seen: Seen | None,
    directory: Directory,
    files: Sequence[File],
    *,
    inode: int,
    between_ns: tuple[int, int],
    hidden_ns: int,
) -> Seen:
    """Return what is noted of a directory when ``files`` have been written in it.

    Args:
        seen: what was noted of it before.
        directory: what it is like.
        files: of one name each, ascending by name.
        inode: the directory's.
        between_ns: the ctimes between which they were written. What is done later has none before
            the second.
        hidden_ns: the ctime until which nobody but this user, and the superuser, could look into it.
    """
    since_ns, until_ns = between_ns
    place = place_of(inode)
    if seen is not None:
        return seen.with_files((file, until_ns, since_ns, place) for file in files)
    stamps = pack_stamps((until_ns, since_ns, place) * len(files))
    return Seen(encode(with_entries(directory, files)), stamps, hidden_ns=hidden_ns)


def owner_believed(directory: Directory) -> int | None:
    """Return whose files in a directory may be as they were written: this user's; None for nobody's.

    Files of one size and time that others gave each other's names while the update went on have
    ctimes of that time. So nobody else, but the superuser, can have renamed what is in it.
    """
    user = os.geteuid()
    return user if directory.uid == user and not directory.mode & _BY_OTHERS else None


def is_as_written(seen: SeenFile, stamp: Stamp, *, owner: int | None) -> bool:
    """Say whether what ``seen`` says was written in this directory is still what has the stamp.

    ``owner`` is whose file it must be (``owner_believed``).

    It has the time of its content, so that writing to it shows, unless that time is of the very
    tick of the clock in which it was written. Its owner could set the time back while the update
    went on, after which the ctime tells: who is not this user is not believed.
    """
    file, until_ns, since_ns, _ = seen
    is_like_it = (
        since_ns <= stamp[CTIME] < until_ns
        and (stamp[SIZE], stamp[MTIME]) == (file.size, file.mtime_ns)
        and stamp[NLINK] == 1
    )
    if until_ns - since_ns == 1:  # a scan has read it then (``as_scanned``)
        return is_like_it
    return (
        is_like_it
        and stamp[UID] == owner
        and not stamp[MODE] & _BY_OTHERS
        and not is_racy(file.mtime_ns, file.mtime_ns, started_ns=stamp[CTIME])
    )


def may_be_lost(stamps: Mapping[bytes, Stamp], *, started_ns: int) -> list[bytes]:
    """Return the names whose content may not be on the disk yet, for a scan that began then.

    Their own stamps would go on saying that it is there when the disk was pulled out, or the
    power was cut. A small file is written before it has its size, and so it is brought to the
    disk: it would be shorter. To look at 40,000 of them takes 0.25 s.
    """
    limit = started_ns - _FLUSHED_NS
    return [
        name
        for name, one in stamps.items()
        if one[SIZE] >= SIZED_FIRST_BYTES and one[CTIME] >= limit
    ]


def as_scanned(stamp: Stamp, *, inode: int) -> tuple[int, int, int]:
    """Return what is noted of a file that may be lost, of the directory ``inode``: as if written.

    That is (until_ns, since_ns, place), as in ``written``; the scan knows its very ctime.
    """
    return stamp[CTIME] + 1, stamp[CTIME], place_of(inode)


def has_holes(fd: int, status: os.stat_result) -> bool:
    """Say whether an open file is not on its disk whole, as if a part of its content never came.

    So it is when its disk was pulled out before its content was there, and was put in again:
    there are fewer blocks than its size takes, or, of a large one, some to which nothing was written.

    Raises:
        OSError: it cannot be told.
    """
    is_large = status.st_size >= SIZED_FIRST_BYTES
    return is_sparse(status) or (is_large and os.lseek(fd, 0, os.SEEK_HOLE) < status.st_size)


def place_of(inode: int) -> int:
    """Return what stands for the device of files that were written in a directory; all are negative.

    What was renamed since has another ctime, but not what is in a directory that was: its inode tells.
    It is another one after each boot: of what was just written a power cut leaves sizes and times,
    but not the contents, and what was noted by then is on the disk sooner than they.
    """
    return ~(xxh3_64_intdigest(b"%d %s" % (inode, _boot())) >> 1)


@cache
def _boot() -> bytes:
    return boot_id().encode()
