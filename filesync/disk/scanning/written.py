"""What an update wrote and proved, as it is noted in the stat cache: no scan has seen it yet."""

import os
from collections.abc import Sequence
from typing import Final

from filesync.disk.scanning.listing import CTIME, MODE, MTIME, NLINK, SIZE, UID, Stamp
from filesync.disk.scanning.statcache import Seen, SeenFile, is_racy, pack_stamps
from filesync.manifest import Directory, File, encode, with_entries

_WRITTEN: Final = -1
"""Stands for a device; none has this number."""
_BY_OTHERS: Final = 0o022


def written(
    seen: Seen | None, directory: Directory, files: Sequence[File], between_ns: tuple[int, int]
) -> Seen:
    """Return what is noted of a directory when ``files`` have been written in it.

    Args:
        seen: what was noted of it before.
        directory: what it is like.
        files: of one name each, ascending by name.
        between_ns: the ctimes between which they were written.
    """
    since_ns, until_ns = between_ns
    if seen is not None:
        return seen.with_files((file, until_ns, since_ns, _WRITTEN) for file in files)
    stamps = (until_ns, since_ns, _WRITTEN) * len(files)
    return Seen(encode(with_entries(directory, files)), pack_stamps(stamps))


def is_as_written(seen: SeenFile, stamp: Stamp) -> bool:
    """Say whether ``seen`` was noted as written, and what has the stamp now is still that.

    It has the time of its content, so that writing to it shows, unless that time is of the very
    tick of the clock in which it was written. Its owner could set the time back while the update
    went on, after which the ctime tells: who is not this user is not believed.
    """
    file, until_ns, since_ns, device = seen
    return (
        device == _WRITTEN
        and since_ns <= stamp[CTIME] <= until_ns
        and (stamp[SIZE], stamp[MTIME]) == (file.size, file.mtime_ns)
        and not is_racy(file.mtime_ns, file.mtime_ns, started_ns=stamp[CTIME])
        and stamp[UID] == os.geteuid()
        and not stamp[MODE] & _BY_OTHERS
        and stamp[NLINK] == 1
    )
