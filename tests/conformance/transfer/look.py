"""What stands on a disk, seen with nothing but system calls: the suite's own eyes."""

import hashlib
import os
import stat
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}
_AT_ONCE = 4000
"""Bytes of a path that one system call takes for sure; the kernel's limit is 4,096."""
Extents = tuple[tuple[int, int], ...]


class Seen(NamedTuple):
    """One name.

    Attributes:
        what: a file's SHA-256, a link's target, a device's numbers.
        group: all names of a file that has several, in the tree.
    """

    kind: str
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    what: bytes
    group: tuple[bytes, ...] = ()


def open_below(root: Path | int, path: bytes) -> int:
    """Open a directory, however long its path is."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    fd = os.open(root, flags) if isinstance(root, Path) else os.dup(root)
    while path:
        end = len(path) if len(path) <= _AT_ONCE else path.rindex(b"/", 0, _AT_ONCE)
        inner = os.open(path[:end], flags, dir_fd=fd)
        os.close(fd)
        fd, path = inner, path[end + 1 :]
    return fd


def look(root: Path) -> dict[bytes, Seen]:
    """Return all that is in the tree ``root``, by path; b"" is ``root`` itself."""
    seen: dict[bytes, Seen] = {}
    inodes: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    top = open_below(root, b"")
    todo = [b""]
    while todo:
        path = todo.pop()
        fd = open_below(top, path)
        if not path:
            seen[b""] = _seen(fd, b".", os.fstat(fd))
        for text in os.listdir(fd):
            name = os.fsencode(text)
            at = path + b"/" + name if path else name
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            seen[at] = _seen(fd, name, status)
            if stat.S_ISDIR(status.st_mode):
                todo.append(at)
            elif status.st_nlink > 1:
                inodes[status.st_dev, status.st_ino].append(at)
        os.close(fd)
    os.close(top)
    for names in inodes.values():
        if len(names) > 1:
            for name in names:
                seen[name] = seen[name]._replace(group=tuple(sorted(names)))
    return seen


def differences(one: Path, other: Path) -> list[str]:
    """Return a line for all in which the tree ``other`` is not what ``one`` is."""
    wanted, found = look(one), look(other)
    lines = [f"{path!r} is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"{path!r} is too much" for path in sorted(found.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & found.keys()):
        for field, want, has in zip(Seen._fields, wanted[path], found[path], strict=True):
            if want != has:
                lines.append(f"{path!r}: {field} is {has!r}, not {want!r}")
    return lines


def data_extents(path: Path) -> Extents:
    """Return (start, end) of what is no hole in a file."""
    found: list[tuple[int, int]] = []
    with path.open("rb") as file:
        fd, end, size = file.fileno(), 0, os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, end))
    return tuple(found)


def bytes_below(root: Path) -> int:
    """Return the bytes that the disk holds of all files in a tree that may be changing."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _seen(dirfd: int, name: bytes, status: os.stat_result) -> Seen:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    mode = stat.S_IMODE(status.st_mode)
    owner = (status.st_uid, status.st_gid)
    place = b"/proc/self/fd/%d/%s" % (dirfd, name)
    xattrs = tuple(
        (key, os.getxattr(place, key, follow_symlinks=False))
        for key in sorted(os.listxattr(place, follow_symlinks=False))
    )
    return Seen(kind, mode, owner, status.st_mtime_ns, xattrs, _what(dirfd, name, status, kind))


def _what(dirfd: int, name: bytes, status: os.stat_result, kind: str) -> bytes:
    if kind == "link":
        return os.readlink(name, dir_fd=dirfd)
    if kind.endswith("device"):
        return b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind != "file":
        return b""
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dirfd), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return b"%d bytes, %s" % (status.st_size, digest[:16].encode())
