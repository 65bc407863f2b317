"""Reading what identifies a file: its content's digest and its extended attributes."""

import errno
import os
import stat
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from blake3 import blake3

from filesync.digest import EMPTY, Digest, digest_of
from filesync.disk.content import hash_file, read_buffer
from filesync.disk.handles import READ_FLAGS, shown
from filesync.disk.scanning.listing import CTIME, MTIME, SIZE, Stamp, stamp_of
from filesync.disk.scanning.watcher import Beside
from filesync.errors import SourceChanged, StoreError, Unreadable
from filesync.manifest import Xattrs
from filesync.process.descriptors import HOW, are_used_up
from filesync.process.wanted import check_wanted

READ_BYTES: Final = 1 << 20
_LARGE_BYTES: Final = 16 << 20
_AHEAD_BYTES: Final = 4 << 20
"""Of a file from _LARGE_BYTES on, read by a thread while what came before is hashed."""
MAX_TRIES: Final = 4
"""A file that changes while it is read is read again three times."""

_MAX_XATTR_BYTES: Final = 256 << 10


Keep = Callable[[Digest, bytes], None]
"""Takes a content and its digest; must not block."""


class Gone(Exception):
    """The name is not there any more, or is no regular file now."""


class Content(NamedTuple):
    """What one read of a file found. ``stat`` and ``digest`` belong to the same moment."""

    stat: os.stat_result
    digest: Digest
    xattrs: Xattrs
    bytes_read: int


def read_file(
    dirfd: int,
    name: bytes,
    path: bytes,
    beside: Callable[[int, int], Beside | None] | None = None,
) -> Content:
    """Read the regular file ``name`` in the directory ``dirfd``; ``path`` is for messages.

    ``beside`` is told its descriptor and size, and returns who is shown it, at each try.

    Raises:
        Gone: it vanished or became something else.
        SourceChanged: it changed at every try.
        Unreadable: it cannot be read.
        StoreError: it has more xattrs than a manifest can hold.
    """
    try:
        fd = os.open(name, READ_FLAGS, dir_fd=dirfd)
    except OSError as exc:
        # ELOOP: a link took its place; ENXIO: a socket did.
        if exc.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise Gone from exc
        raise unreadable(path, exc) from exc
    try:
        return _read_open(fd, path, beside)
    except OSError as exc:
        raise unreadable(path, exc) from exc
    finally:
        os.close(fd)


def read_small(
    dirfd: int,
    name: bytes,
    path: bytes,
    keep: Keep | None,
    known: Container[tuple[int, int]] = (),
) -> tuple[Stamp, Digest, Xattrs] | None:
    """Read a small regular file in as few calls as prove what was read.

    ``keep`` is given what was read. None where that is not what it is, where it changed meanwhile
    or cannot be read: then ``read_file`` reads it, or says why not. None, too, of a file with several
    names that is ``known``, by inode and device, from another one.

    Raises:
        StoreError: it has more xattrs than a manifest can hold.
    """
    try:
        fd = os.open(name, READ_FLAGS, dir_fd=dirfd)
    except OSError:
        return None
    try:
        before = os.fstat(fd)
        size = before.st_size
        if size >= READ_BYTES or not stat.S_ISREG(before.st_mode):
            return None
        names = before.st_nlink
        if not names or (names > 1 and (before.st_ino, before.st_dev) in known):
            return None
        data = os.read(fd, size + 1)
        xattrs = read_xattrs(fd, path)
        after = stamp_of(os.fstat(fd))
        if (
            len(data) != size
            or after[SIZE] != size
            or after[CTIME] != before.st_ctime_ns
            or after[MTIME] != before.st_mtime_ns
        ):
            return None
        digest = Digest(blake3(data).digest())
        if keep is not None:
            keep(digest, data)
        return after, digest, xattrs
    except OSError:
        return None
    finally:
        os.close(fd)


def read_xattrs(place: int | bytes, path: bytes) -> Xattrs:
    """Return the extended attributes that belong to a tree, in order.

    ``place`` is a descriptor, or a path that is not followed if it is a link.

    Raises:
        StoreError: there are more than a manifest can hold.
    """
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place) if follow else os.listxattr(place, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENOTSUP, errno.ENOENT):
            return ()
        raise
    if not names:
        return ()
    found: list[tuple[bytes, bytes]] = []
    for name in sorted(os.fsencode(name) for name in names):
        if is_kept(name):
            try:
                found.append((name, os.getxattr(place, name, follow_symlinks=follow)))
            except OSError as exc:
                if exc.errno != errno.ENODATA:
                    raise
    if sum(len(name) + len(value) for name, value in found) > _MAX_XATTR_BYTES:
        raise StoreError(f"{shown(path)} has more than {_MAX_XATTR_BYTES} bytes of xattrs")
    return tuple(found)


def is_kept(xattr: bytes) -> bool:
    """Say whether an extended attribute is part of a tree, and not the machine's own."""
    space, _, rest = xattr.partition(b".")
    if space == b"trusted":
        return not rest.startswith(b"overlay.")
    if space == b"system":
        return rest.startswith(b"posix_acl_")
    return space == b"user" or xattr == b"security.capability"


def unreadable(path: bytes, exc: OSError) -> Unreadable:
    """Return the error for a file that this process may not read."""
    advice = HOW if are_used_up(exc) else "make it readable, or exclude it"
    return Unreadable(
        f"{shown(path)} cannot be read: {exc.strerror}; {advice}",
        path,
        exc.errno or errno.EIO,
    )


def changing(path: bytes) -> SourceChanged:
    """Return the error for a file that gives no rest."""
    return SourceChanged(
        f"{shown(path)} changed each time it was read; run again when it rests", path
    )


def same_file(a: os.stat_result, b: os.stat_result) -> bool:
    """Say whether nothing of a file that a stat tells has changed in between."""
    return (
        a.st_ino == b.st_ino
        and a.st_size == b.st_size
        and a.st_mtime_ns == b.st_mtime_ns
        and a.st_ctime_ns == b.st_ctime_ns
    )


def _read_open(
    fd: int, path: bytes, beside: Callable[[int, int], Beside | None] | None
) -> Content:
    before = os.fstat(fd)
    bytes_read = 0
    for number in range(MAX_TRIES):
        if not stat.S_ISREG(before.st_mode):
            raise Gone
        other = beside(fd, before.st_size) if beside is not None else None
        found: Digest | None = None
        try:
            digest, size = _digest(fd, before.st_size, other)
            bytes_read += size
            xattrs = read_xattrs(fd, path)
            after = os.fstat(fd)
            if size == after.st_size and same_file(before, after):
                found = digest
                return Content(after, digest, xattrs, bytes_read)
            if number and size < after.st_size and hash_file(fd, size) == digest:
                # It grows all the while, as logs do. What it was when it was begun is still there.
                found = digest
                return Content(before, digest, xattrs, bytes_read + size)
            before = after
        finally:
            if other is not None:
                other.end(found)
    raise changing(path)


def _digest(fd: int, size: int, other: Beside | None) -> tuple[Digest, int]:
    """Return the digest and length of the first ``size`` bytes of ``fd``, or of all that it has.

    ``other`` is shown each block.
    """
    if size < READ_BYTES:
        data = os.pread(fd, size, 0)
        if other is not None:
            other.begin(memoryview(data))
            other.finish()
        return (digest_of(data), len(data)) if data else (EMPTY, 0)
    hasher = blake3()
    done = 0
    for block in _read_ahead(fd, size) if size >= _LARGE_BYTES else _read_on(fd, size):
        if other is not None:
            other.begin(block)
        hasher.update(block)
        if other is not None:
            other.finish()
        done += len(block)
    return Digest(hasher.digest()), done


def _read_on(fd: int, size: int) -> Iterator[memoryview]:
    """Yield ``size`` bytes of ``fd``, or what it has, each block until the next one is asked for."""
    buffer = read_buffer(READ_BYTES)
    at = 0
    while at < size and (count := os.preadv(fd, [buffer[: size - at]], at)):
        yield buffer[:count]
        at += count


def _read_ahead(fd: int, size: int) -> Iterator[memoryview]:
    """As ``_read_on``, the next block read by a thread: reading costs as much as hashing."""
    this, other = read_buffer(_AHEAD_BYTES), read_buffer(_AHEAD_BYTES)
    with ThreadPoolExecutor(1) as thread:
        at, reading = 0, thread.submit(os.preadv, fd, [this[:size]], 0)
        while count := reading.result():
            check_wanted()
            at += count
            if at < size:
                reading = thread.submit(os.preadv, fd, [other[: size - at]], at)
            yield this[:count]
            if at >= size:
                return
            this, other = other, this
