"""Reading an overlay's upper directory: what a snapshot changed of its parent."""

import os
import stat
from collections.abc import Mapping
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.disk.entries import names_of
from filesync.disk.handles import DirectoryHandles, shown
from filesync.disk.reserved import is_reserved
from filesync.disk.scanning.listing import MAX_TIME_NS, fitting
from filesync.disk.scanning.readfile import Gone, read_file, read_xattrs, unreadable
from filesync.errors import StoreError
from filesync.manifest import Directory, File, Special, Symlink, Xattrs
from filesync.manifest.patch import Change
from filesync.process.wanted import check_wanted

Hints = Mapping[bytes, tuple[int, Digest]]
"""By path: size and content digest of files whose bytes the caller has just written."""

_OPAQUE: Final = "trusted.overlay.opaque"
_WHITEOUT: Final = "trusted.overlay.whiteout"
_BLOCK_BYTES: Final = 512


class Upper(msgspec.Struct):
    """What an upper directory holds.

    Attributes:
        change: against the tree below it.
        bytes: what it takes on disk.
    """

    change: Change
    bytes: int


class _Found(msgspec.Struct):
    """One directory while it is read."""

    path: bytes
    fd: int
    xattr_whiteouts: bool
    entries: list[File | Symlink | Special] = msgspec.field(default_factory=list)
    removed: set[bytes] = msgspec.field(default_factory=set)
    below: list[bytes] = msgspec.field(default_factory=list)

    def at(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name

    def place(self, name: bytes) -> bytes:
        # /proc leads to the held directory; the one name after it is not followed.
        return b"/proc/self/fd/%d/%b" % (self.fd, name)


def read_upper(handles: DirectoryHandles, hints: Hints) -> Upper:
    """Return what the upper directory under ``handles`` changes. It must be at rest.

    Sockets are left out, as a scan does. Hard-link groups are named by inode.

    Raises:
        StoreError: something cannot be read; names it.
        NotWanted: so `check_wanted` says.
    """
    reading = _Reading(hints)
    top: dict[bytes, Change] = {}
    todo: list[tuple[dict[bytes, Change], bytes, bytes]] = [(top, b"", b"")]
    while todo:
        check_wanted()
        siblings, name, path = todo.pop()
        fd = handles.open(path)
        try:
            change, below = reading.directory(path, fd)
        except OSError as exc:
            raise unreadable(path, exc) from exc
        siblings[name] = change
        todo.extend((below, child, path + b"/" + child if path else child) for child in below)
    return Upper(top[b""], reading.bytes)


class _Reading:
    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._linked: dict[int, tuple[Digest, Xattrs]] = {}
        self.bytes = 0

    def directory(self, path: bytes, fd: int) -> tuple[Change, dict[bytes, Change]]:
        """Return the change of one directory, and its children for the caller to fill in.

        Each child stands there as an empty change until then.
        """
        status = os.fstat(fd)
        if status.st_mtime_ns != (mtime_ns := fitting(status.st_mtime_ns)):
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            status = os.fstat(fd)
        opaque = _xattr(fd, _OPAQUE)
        found = _Found(path, fd, xattr_whiteouts=opaque == b"x")
        for name in names_of(fd):
            if path or not is_reserved(name):  # no part of a tree, as in a scan
                self._name(found, name)
        header = Directory(
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            read_xattrs(fd, path),
            (),
        )
        self.bytes += status.st_blocks * _BLOCK_BYTES
        children = {name: Change() for name in found.below}
        change = Change(header, opaque == b"y", found.entries, found.removed, children)
        return change, children

    def _name(self, found: _Found, name: bytes) -> None:
        status = os.stat(name, dir_fd=found.fd, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        # Compared here: a call for each name takes three times as long.
        if kind != stat.S_IFDIR and not -MAX_TIME_NS <= status.st_mtime_ns <= MAX_TIME_NS:
            status = _at_a_fitting_time(found.fd, name, status.st_mtime_ns)
        if kind == stat.S_IFDIR:
            found.below.append(name)
            return
        self.bytes += status.st_blocks * _BLOCK_BYTES
        if kind == stat.S_IFSOCK or _is_whiteout(found, name, status):
            found.removed.add(name)
        elif kind == stat.S_IFREG:
            found.entries.append(self._file(found, name, status))
        elif kind == stat.S_IFLNK:
            found.entries.append(_symlink(found, name, status))
        else:
            found.entries.append(_special(found, name, status))

    def _file(self, found: _Found, name: bytes, status: os.stat_result) -> File:
        link = b""
        if status.st_nlink > 1:
            link = status.st_ino.to_bytes(8, "big")
            if (known := self._linked.get(status.st_ino)) is not None:
                return _file(name, status, known, link)
        path = found.at(name)
        size, digest = self._hints.get(path, (-1, None))
        if digest is not None and size == status.st_size:
            content = digest, read_xattrs(found.place(name), path)
        else:
            try:
                read = read_file(found.fd, name, path)
            except Gone as exc:
                raise StoreError(f"{shown(path)} changed while it was committed") from exc
            status, content = read.stat, (read.digest, read.xattrs)
        if link:
            self._linked[status.st_ino] = content
        return _file(name, status, content, link)


def _at_a_fitting_time(fd: int, name: bytes, mtime_ns: int) -> os.stat_result:
    """Give ``name`` the nearest time that a tree can say, as it has elsewhere; return what it is then."""
    mtime_ns = fitting(mtime_ns)
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)
    return os.stat(name, dir_fd=fd, follow_symlinks=False)


def _file(
    name: bytes, status: os.stat_result, content: tuple[Digest, Xattrs], link: bytes
) -> File:
    return File(
        name,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size,
        content[0],
        link,
        content[1],
    )


def _symlink(found: _Found, name: bytes, status: os.stat_result) -> Symlink:
    target = os.readlink(name, dir_fd=found.fd)
    xattrs = read_xattrs(found.place(name), found.at(name))
    return Symlink(name, status.st_uid, status.st_gid, status.st_mtime_ns, target, xattrs)


def _special(found: _Found, name: bytes, status: os.stat_result) -> Special:
    return Special(
        name,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
        read_xattrs(found.place(name), found.at(name)),
    )


def _is_whiteout(found: _Found, name: bytes, status: os.stat_result) -> bool:
    """Say whether a name stands for one that is gone: device 0:0, or an xattr on no bytes."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if not found.xattr_whiteouts or not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    return _xattr(found.place(name), _WHITEOUT) is not None


def _xattr(place: int | bytes, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=isinstance(place, int))
    except OSError:
        return None  # no such attribute, or a file system that has none
