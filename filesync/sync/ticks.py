"""Times as file systems keep them that have coarser ones than nanoseconds.

What was given to one has other times there than it was given with, and would be given them at each sync.
"""

import os
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from filesync.manifest import Directory, Manifest, Nodes
from filesync.manifest.leaving import Leaf, One, leaving

FINE_NS: Final = 1
_SECOND_NS: Final = 1_000_000_000
_MOUNTS: Final = Path("/proc/self/mountinfo")
_TICKS_NS: Final = {
    b"vfat": 2_000_000_000,
    b"msdos": 2_000_000_000,
    b"ext2": _SECOND_NS,
    b"ext3": _SECOND_NS,
    b"ext4": _SECOND_NS,
    b"hfsplus": _SECOND_NS,
    b"fuse.sshfs": _SECOND_NS,
    b"exfat": 10_000_000,
    b"cifs": 100,
    b"fuse": 100,
    b"fuseblk": 100,  # as ntfs-3g is called, of a file or of a disk
    b"ntfs": 100,
    b"ntfs3": 100,
    b"smb3": 100,
}
"""What the times of files are multiples of, by the kernel's name of the file system; the rest is dropped."""
_BY_INODE: Final = frozenset((b"ext2", b"ext3", b"ext4"))
"""Where inodes are larger than 128 bytes, as they mostly are, times are fine all the same. The kernel says
when each has changed, as finely as it is kept, and nobody can set that."""


def tick_of(fd: int) -> int:
    """Return what the times of files where the directory ``fd`` is are multiples of, in nanoseconds."""
    try:
        status = os.fstat(fd)
        return tick_in(_MOUNTS.read_bytes(), status.st_dev, changed_ns=status.st_ctime_ns)
    except OSError:  # no /proc
        return FINE_NS


def tick_in(mountinfo: bytes, device: int, *, changed_ns: int) -> int:
    """Return the same by the text of ``mountinfo`` (proc(5)); FINE_NS for what is not in it.

    The directory's own inode changed at ``changed_ns``.
    """
    number = b"%d:%d" % (os.major(device), os.minor(device))
    for line in BytesIO(mountinfo):  # a mount point may have a carriage return in its name
        words = line.split(b" ")
        if words[2] == number:
            name = words[words.index(b"-", 6) + 1]
            tick_ns = _TICKS_NS.get(name, FINE_NS)
            return FINE_NS if name in _BY_INODE and changed_ns % tick_ns else tick_ns
    return FINE_NS


def as_kept(
    basis: Manifest, top: Manifest, nodes: Nodes, tick_ns: int, *, rename: bytes | None = None
) -> Manifest:
    """Return ``basis`` with those times of ``top`` that it has as well as it can; see ``leaving``."""
    if tick_ns == FINE_NS:
        return basis
    return leaving(basis, top, nodes, partial(_kept, tick_ns), rename=rename)


def _kept(tick_ns: int, has: One, wanted: Leaf | Directory) -> One:
    wanted_ns = wanted.mtime_ns
    if has.mtime_ns == wanted_ns or has.mtime_ns != wanted_ns - wanted_ns % tick_ns:
        return has
    return replace(has, mtime_ns=wanted_ns)
