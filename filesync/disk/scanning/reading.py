"""Reading: what a scan makes of the names that one directory lists."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from filesync.digest import DIGEST_BYTES, EMPTY, Digest
from filesync.disk.handles import READ_FLAGS
from filesync.disk.scanning.listing import (
    CTIME,
    DEVICE,
    INODE,
    MAX_TIME_NS,
    MODE,
    MTIME,
    NLINK,
    SIZE,
    Found,
    Stamp,
    fitting,
    header_of,
    is_sparse,
    mark,
    stamp_of,
)
from filesync.disk.scanning.readfile import (
    MAX_TRIES,
    READ_BYTES,
    Content,
    Gone,
    Keep,
    changing,
    read_file,
    read_small,
    read_xattrs,
)
from filesync.disk.scanning.statcache import Noted, SeenFile, noted
from filesync.disk.scanning.watcher import Beside, Told
from filesync.disk.scanning.written import (
    SIZED_FIRST_BYTES,
    has_holes,
    is_as_written,
    owner_believed,
    place_of,
)
from filesync.errors import StoreError, Unreadable
from filesync.manifest import Entry, File, Special, Symlink, Xattrs, group_name
from filesync.process.descriptors import OUT_OF_ROOM

LARGE_BYTES: Final = READ_BYTES
"""Files from this size on are hashed by threads while the small ones are read.

For small ones threads do not pay: two of them, handing the interpreter to and fro, read 40,000
files in 1.2 times the time of one and 1.6 times its CPU time.
"""


_UNKNOWN: Final = Digest(os.urandom(DIGEST_BYTES))
"""Stands for a content that cannot be read: no content has it, and no two runs share it."""


class Listing:
    """One directory while it is read.

    Attributes:
        inode, device: the directory's own.
        mtime_ns: its own, as it is; in the header it is one that fits.
        directories: names of subdirectories.
        stamps: of all else, in the order of the directory.
        seen: what is known of files in it.
        kept: of those, what is as it was.
        hidden_ns: see ``Seen``.
        written: what is seen of those that are as they were written.
        sparse: names of files that had holes when they were read, or looked at for them.
        entries: of all but subdirectories, as far as it is read.
        unknown: names among them whose contents could not be read.
        is_whole: nothing was skipped.
    """

    def __init__(self, path: bytes, fd: int) -> None:
        """Begin with ``path``; ``fd`` must be open until it is read.

        Raises:
            OSError: it cannot be read.
        """
        self.path = path
        self.fd = fd
        self.prefix = path + b"/" if path else b""
        status = os.fstat(fd)
        self.inode = status.st_ino
        self.device = status.st_dev
        self.mtime_ns = status.st_mtime_ns
        self.header = header_of(status, read_xattrs(fd, path))
        self.directories: list[bytes] = []
        self.stamps: dict[bytes, Stamp] = {}
        self.seen: Mapping[bytes, SeenFile] = {}
        self.kept: Mapping[bytes, SeenFile] = {}
        self.hidden_ns = 0
        self.written: dict[bytes, SeenFile] = {}
        self.sparse: set[bytes] = set()
        self.entries: list[Entry] = []
        self.unknown: set[bytes] = set()
        self.large: list[tuple[bytes, Future[Content]]] = []
        self.is_whole = True
        self._mark = b""
        self._marked: Mapping[bytes, Stamp] | None = None

    def mark(self) -> bytes:
        """Return what it comes to now (``listing.mark``); b"" if something was skipped."""
        if not self.is_whole:
            return b""  # what was skipped is to be counted anew
        if self._marked != self.stamps:
            self._mark = mark(self.header, self.directories, self.stamps)
            self._marked = dict(self.stamps)
        return self._mark


class _Linked(msgspec.Struct):
    """A file with several names, some of them met: as the first is, and how many were met."""

    file: File
    noted: Noted
    met: int = 1


class Reader:
    """Reads the directories of one scan, in walk order.

    Attributes:
        skipped: what cannot be part of a tree, by kind.
        unreadable: what was left out as it could not be read, and why (errno).
        bytes_read: content that was read.
        files_read: files that were read.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        hints: Mapping[bytes, tuple[int, Digest]],
        *,
        keep: Keep | None,
        beside: Callable[[bytes, Digest, int, int], Beside | None] | None,
        begun: Callable[[bytes, int, int], Told | None] | None,
        skip_unreadable: bool,
        keep_unreadable: bool,
    ) -> None:
        """Read large files on ``pool``, and those in ``hints`` (size, digest) not at all.

        ``keep`` is given what small files hold; ``beside`` is asked, by path, what was noted of
        it, its descriptor and its size, who is shown a file that has changed; ``begun`` is told path, size
        and mtime of each large file of which nothing was noted, before it is read; what it returns is told
        what that holds. What cannot be read is left out, or an error; with ``keep_unreadable`` files are
        there all the same.
        """
        self._pool = pool
        self._keep = keep
        self._beside = beside
        self._begun = begun
        self._hints = hints
        self._linked: dict[tuple[int, int], _Linked] = {}
        self._skip_unreadable = skip_unreadable
        self._keep_unreadable = keep_unreadable
        self.skipped: Counter[str] = Counter()
        self.unreadable: dict[bytes, int] = {}
        self.bytes_read = 0
        self.files_read = 0

    def begin(self, path: bytes, fd: int) -> Listing:
        """Begin with the directory ``path``; the arguments are those of ``Listing``."""
        listing = Listing(path, fd)
        self._fitting(listing, listing.mtime_ns)
        return listing

    def read_new(self, listing: Listing, found: Found) -> None:
        """Read a directory of which nothing is known: no file needs a stat before it is opened."""
        fd, prefix = listing.fd, listing.prefix
        stamps, entries, keep = listing.stamps, listing.entries, self._keep
        for name, item in found:
            if item.is_file(follow_symlinks=False):
                small = read_small(fd, name, prefix + name, keep, self._linked)
                if small is not None:
                    stamp, digest, xattrs = small
                    stamps[name] = stamp
                    entry = self._file(listing, name, stamp, digest, xattrs)
                    if stamp[NLINK] > 1:
                        now = Noted(*stamp[:5], digest, xattrs)
                        entry = self._linked_as(entry, prefix + name, stamp, now)
                    entries.append(entry)
                    self.files_read += 1
                    self.bytes_read += stamp[SIZE]
                    continue
            elif item.is_dir(follow_symlinks=False):
                listing.directories.append(name)
                continue
            with suppress(FileNotFoundError):
                stamps[name] = stamp_of(item.stat(follow_symlinks=False))
                self._read_entry(listing, name)

    def read_changed(self, listing: Listing) -> None:
        """Read what is not as it was noted."""
        seen, entries = listing.seen, listing.entries
        # Most are the entries that they were: they are compared, and taken, all at once.
        regular, get = stat.S_IFREG, listing.stamps.get
        kept = listing.kept = {
            name: old
            for name, old in seen.items()
            for e, ctime_ns, inode, device in (old,)
            if get(name)
            == (e.size, e.mtime_ns, ctime_ns, inode, device, e.mode | regular, e.uid, e.gid, 1)
            and not e.link
        }
        entries += [old[0] for old in kept.values()]
        owner = owner_believed(listing.header)
        place = place_of(listing.inode)
        for name, stamp in [one for one in listing.stamps.items() if one[0] not in kept]:
            old = seen.get(name)
            if (
                old is not None
                and old[3] == place
                and is_as_written(old, stamp, owner=owner)
                and (xattrs := _as_written(listing, old[0], stamp)) is not None
            ):
                listing.written[name] = old
                entries.append(self._file(listing, name, stamp, old[0].digest, xattrs))
            else:
                self._read_entry(listing, name)

    def _read_entry(self, listing: Listing, name: bytes) -> None:
        """Read what had the stamp ``listing.stamps[name]`` a moment ago."""
        for _ in range(MAX_TRIES):
            try:
                stamp = listing.stamps[name]
                if stat.S_ISREG(stamp[MODE]):
                    self._read_regular(listing, name, stamp)
                elif stat.S_ISDIR(stamp[MODE]):
                    del listing.stamps[name]
                    listing.directories.append(name)
                else:
                    self._read_other(listing, name, stamp)
                return
            except (Gone, FileNotFoundError):
                if not self._look_again(listing, name):
                    return
            except Unreadable as exc:
                self._skip(listing, name, exc)
                return
        raise changing(listing.prefix + name)

    def _look_again(self, listing: Listing, name: bytes) -> bool:
        """Renew the stamp of ``name``; False if it is gone."""
        del listing.stamps[name]
        with suppress(FileNotFoundError):
            st = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
            listing.stamps[name] = stamp_of(st)
        return name in listing.stamps

    def _read_regular(self, listing: Listing, name: bytes, stamp: Stamp) -> None:
        path = listing.prefix + name
        seen = listing.seen.get(name)
        old = noted(*seen) if seen is not None else None
        if old is None and stamp[NLINK] > 1:
            first = self._linked.get(_inode(stamp))
            old = first.noted if first is not None else None
        if old is None or old[:5] != stamp[:5]:
            hint = self._hints.get(path)
            if hint is None or hint[0] != stamp[SIZE]:
                beside = None
                if self._beside is not None:
                    beside = partial(self._beside, path, seen[0].digest if seen else EMPTY)
                if stamp[SIZE] >= LARGE_BYTES:
                    told = None
                    if seen is None and stamp[NLINK] == 1 and self._begun is not None:
                        told = self._begun(path, stamp[SIZE], fitting(stamp[MTIME]))
                    read = partial(read_file, listing.fd, name, path, beside)
                    future = self._pool.submit(copy_context().run, read)
                    if told is not None:
                        future.add_done_callback(partial(_tell, told))
                    listing.large.append((name, future))
                else:
                    self._add_read(listing, name, read_file(listing.fd, name, path, beside))
                return
            xattrs = read_xattrs(_place(listing.fd, name), path)
            old = Noted(*stamp[:5], hint[1], xattrs)
        self._add(listing, name, stamp, old)

    def _read_other(self, listing: Listing, name: bytes, stamp: Stamp) -> None:
        path = listing.prefix + name
        _, mtime_ns, _, _, _, mode, uid, gid, _ = stamp
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=listing.fd)
            except OSError as exc:
                if exc.errno == errno.EINVAL:
                    raise Gone from exc
                raise
            xattrs = read_xattrs(_place(listing.fd, name), path)
            entry = Symlink(name, uid, gid, self._fitting(listing, mtime_ns), target, xattrs)
            listing.entries.append(entry)
        elif kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
            xattrs = read_xattrs(_place(listing.fd, name), path)
            st = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
            if stamp_of(st) != stamp:
                raise Gone
            major, minor = os.major(st.st_rdev), os.minor(st.st_rdev)
            fits_ns = self._fitting(listing, mtime_ns)
            special = Special(name, mode, uid, gid, fits_ns, major, minor, xattrs)
            listing.entries.append(special)
        else:
            self._note_skipped(listing, "socket" if kind == stat.S_IFSOCK else "other")
            return
        if stamp[NLINK] > 1:
            # Each name becomes one of its own.
            kinds = {stat.S_IFLNK: "symlink", stat.S_IFIFO: "FIFO"}
            self._note_skipped(listing, f"{kinds.get(kind, 'device')} hard link")

    def _note_skipped(self, listing: Listing, kind: str) -> None:
        listing.is_whole = False
        self.skipped[kind] += 1

    def finish(self, listing: Listing) -> None:
        """Add the large files, whose threads have gone on meanwhile."""
        for name, future in listing.large:
            try:
                self._add_read(listing, name, future.result())
            except Gone:
                if self._look_again(listing, name):
                    self._read_entry(listing, name)
            except Unreadable as exc:
                self._skip(listing, name, exc)

    def _skip(self, listing: Listing, name: bytes, error: Unreadable) -> None:
        listing.is_whole = False
        if self._keep_unreadable and error.errno not in OUT_OF_ROOM:
            stamp = listing.stamps[name]
            digest = _UNKNOWN if stamp[SIZE] else EMPTY
            # Of no hard-link group: what is done to its other names does not concern it.
            listing.entries.append(self._file(listing, name, stamp, digest, ()))
            listing.unknown.add(name)
            return
        self.note_unreadable(error)
        del listing.stamps[name]

    def note_unreadable(self, error: Unreadable) -> None:
        """Take note of what is to be left out.

        Raises:
            Unreadable: ``error``, if nothing may be left out, and never the root; or if it says
                nothing of what was to be read.
        """
        if not self._skip_unreadable or not error.path or error.errno in OUT_OF_ROOM:
            raise error
        self.unreadable[error.path] = error.errno

    def _add_read(self, listing: Listing, name: bytes, content: Content) -> None:
        self.files_read += 1
        self.bytes_read += content.bytes_read
        stamp = listing.stamps[name] = stamp_of(content.stat)
        if is_sparse(content.stat):
            listing.sparse.add(name)
        now = Noted(*stamp[:5], content.digest, content.xattrs)
        self._add(listing, name, stamp, now)

    def _add(self, listing: Listing, name: bytes, stamp: Stamp, now: Noted) -> None:
        """Add a regular file whose ``stamp`` and content ``now`` belong together.

        Raises:
            SourceChanged: another name of it was met when it was not as it is now. As one file
                they would contradict each other, and what is made of them be none.
        """
        entry = self._file(listing, name, stamp, now.digest, now.xattrs)
        if stamp[NLINK] > 1:
            entry = self._linked_as(entry, listing.prefix + name, stamp, now)
        listing.entries.append(entry)

    def _linked_as(self, entry: File, path: bytes, stamp: Stamp, now: Noted) -> File:
        inode = _inode(stamp)
        first = self._linked.get(inode)
        if first is None:
            entry = replace(entry, link=group_name(path))
            self._linked[inode] = _Linked(entry, now)
            return entry
        entry = replace(entry, link=first.file.link)
        if replace(entry, name=first.file.name) != first.file:
            raise changing(path)
        first.met += 1
        if first.met >= stamp[NLINK]:  # all its names are met: nobody will ask again
            del self._linked[inode]
        return entry

    def _file(
        self,
        listing: Listing,
        name: bytes,
        stamp: Stamp,
        digest: Digest,
        xattrs: Xattrs,
    ) -> File:
        size, mtime_ns, _, _, _, mode, uid, gid, _ = stamp
        if not -MAX_TIME_NS <= mtime_ns <= MAX_TIME_NS:
            mtime_ns = self._fitting(listing, mtime_ns)
        return File(name, mode & 0o7777, uid, gid, mtime_ns, size, digest, b"", xattrs)

    def _fitting(self, listing: Listing, mtime_ns: int) -> int:
        """Return the time that is nearest to an mtime in a tree, and count it if it is another."""
        nearest = fitting(mtime_ns)
        if nearest != mtime_ns:
            self._note_skipped(listing, "extreme mtime")
        return nearest


def _as_written(listing: Listing, file: File, stamp: Stamp) -> Xattrs | None:
    """Return the attributes of what seems to be ``file`` as written; None if it is to be read."""
    try:
        if stamp[CTIME] < listing.hidden_ns and stamp[SIZE] < SIZED_FIRST_BYTES:
            return None if file.name in listing.sparse else file.xattrs
        # Opened, what it holds besides is told in half the time that it takes by a path.
        fd = os.open(file.name, READ_FLAGS, dir_fd=listing.fd)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if stamp_of(status) != stamp or has_holes(fd, status):
            return None
        return read_xattrs(fd, listing.prefix + file.name)
    except (OSError, StoreError):
        return None
    finally:
        os.close(fd)


def _tell(told: Told, read: "Future[Content]") -> None:
    if not read.cancelled() and read.exception() is None:
        told(read.result().digest)


def _inode(stamp: Stamp) -> tuple[int, int]:
    return stamp[INODE], stamp[DEVICE]


def _place(dirfd: int, name: bytes) -> bytes:
    """Return a path to ``name`` for system calls that take no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (dirfd, name)
