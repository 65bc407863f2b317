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
    """Return this user, if his files in the directory may be believed to be as they were written.

    None if others, but for the superuser, may write to the directory: while the update went on they
    could have exchanged the names of two files of one size and time, and no ctime would show it.
    """
    user = os.geteuid()
    return user if directory.uid == user and not directory.mode & _BY_OTHERS else None


def is_as_written(seen: SeenFile, stamp: Stamp, *, owner: int | None) -> bool:
    """Say whether what ``seen`` says was written in this directory is still what has the stamp.

    ``owner`` is whose file it must be (``owner_believed``).

    Its mtime is not when it was written here, so that writing to it again shows, unless both are in
    the same tick of the clock. Who owns it could set the mtime back while the update went on (later,
    the ctime would tell): nobody but this user is believed.
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

    If the disk is pulled out now, or the power is cut, their stamps will still say that it is there.
    Those of small files will not: these get their size with their content, and would be shorter. To
    look at 40,000 of them would take 0.25 s.
    """
    limit = started_ns - _FLUSHED_NS
    return [
        name
        for name, one in stamps.items()
        if one[SIZE] >= SIZED_FIRST_BYTES and one[CTIME] >= limit
    ]


def as_scanned(stamp: Stamp, *, inode: int) -> tuple[int, int, int]:
    """Return what a scan notes of a file that may be lost, in the directory ``inode``: as if written.

    That is (until_ns, since_ns, place), as in ``written``, with nothing but its ctime in between.
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
    """Return what is noted as the device of files that were written in a directory; it is negative.

    It depends on the directory's inode: a file that is renamed gets another ctime, but the files in a
    directory that is renamed do not. And on the boot: a power cut may leave the sizes and times of
    what was just written without the contents, and what was noted of them is on the disk sooner.
    """
    return ~(xxh3_64_intdigest(b"%d %s" % (inode, _boot())) >> 1)


@cache
def _boot() -> bytes:
    return boot_id().encode()
