"""Scanning: the manifest of a directory on disk.

A directory is read through its descriptor, one at a time, in walk order. A file costs one
``fstatat`` when the stat cache knows it, else an open, a read, and a second stat that shows that
nothing changed in between.
"""

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from filesync.digest import Digest
from filesync.disk.handles import DirectoryHandles, shown
from filesync.disk.readfile import (
    MAX_TRIES,
    READ_BYTES,
    Content,
    Gone,
    changing,
    read_file,
    read_xattrs,
    unreadable,
)
from filesync.disk.statcache import Noted, StatCache, is_racy
from filesync.disk.work import WORK_PREFIX
from filesync.errors import MalformedManifest, StoreError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    Expansion,
    File,
    Nodes,
    Special,
    Symlink,
    Xattrs,
    canonical_links,
    group_name,
    grow,
)
from filesync.manifest.store import batched

LARGE_BYTES: Final = READ_BYTES
"""Files from this size on are hashed by threads while the small ones are read."""
_THREADS: Final = 2
_MAX_TIME_NS: Final = (1 << 63) - 1


class Excludes(Protocol):
    """What a scan leaves out. Paths are relative to its root, bad bytes as surrogates."""

    def excludes(self, path: str) -> bool:
        """Say whether ``path`` is left out. Asked also below excluded directories."""

    def may_prune(self, directory: str) -> bool:
        """Say whether all below a directory that is left out is left out as well."""


class Scanned(NamedTuple):
    """What a scan found.

    Attributes:
        tree: tree digest of the root; its nodes are in the store that the scan was given.
        content: content digest of the root.
        skipped: what cannot be part of a tree, counted by kind (``socket``, ``changing``).
        bytes_read: content that was read; what a cache or hint knew was not.
        files_read: files that were read.
    """

    tree: Digest
    content: Digest
    skipped: Mapping[str, int]
    bytes_read: int
    files_read: int


def scan(
    root: Path,
    nodes: Nodes,
    *,
    cache: StatCache | None = None,
    excludes: Excludes | None = None,
    hints: Mapping[bytes, tuple[int, Digest]] | None = None,
) -> Scanned:
    """Put the manifest of the directory ``root`` into ``nodes``. Blocks.

    ``root`` may be a link to a directory. ``hints`` gives (size, digest) of files that the
    caller has just written and checked: a file of that size at that path is not read.

    Names that vanish meanwhile are left out; a file that changes while it is read is read
    again. Sockets are skipped.

    Raises:
        SourceChanged: a file changed at every try.
        StoreError: something cannot be read, or fits no manifest; names it.
    """
    with DirectoryHandles(root) as handles, ThreadPoolExecutor(_THREADS) as pool:
        scanning = _Scan(handles, pool, cache=cache, excludes=excludes, hints=hints or {})
        if cache is not None:
            cache.begin()
        complete = False
        try:
            with batched(nodes):
                tree = canonical_links(nodes, grow(nodes, _At(b""), scanning.expand))
            complete = True
        except MalformedManifest as exc:
            raise StoreError(f"{shown(os.fsencode(root))} fits no manifest: {exc}") from exc
        finally:
            if cache is not None:
                cache.end(complete=complete)
    content = nodes.summary(tree).content
    skipped = dict(scanning.skipped)
    return Scanned(tree, content, skipped, scanning.bytes_read, scanning.files_read)


class _At(NamedTuple):
    """A directory to be read.

    ``only_on_the_way``: it is left out itself, and kept for what is taken back in below it.
    """

    path: bytes
    only_on_the_way: bool = False


class _Listing:
    """One directory while it is read."""

    def __init__(self, at: _At, fd: int, noted: Mapping[bytes, Noted]) -> None:
        self.fd = fd
        self.prefix = at.path + b"/" if at.path else b""
        self.noted = noted
        self.fresh: dict[bytes, Noted] = {}
        self.entries: list[Entry] = []
        self.children: list[tuple[bytes, _At]] = []
        self.large: list[tuple[bytes, Future[Content]]] = []


class _Scan:
    """One scan under way: ``expand`` turns a directory on disk into its entries."""

    def __init__(
        self,
        handles: DirectoryHandles,
        pool: ThreadPoolExecutor,
        *,
        cache: StatCache | None,
        excludes: Excludes | None,
        hints: Mapping[bytes, tuple[int, Digest]],
    ) -> None:
        self._handles = handles
        self._pool = pool
        self._cache = cache
        self._excludes = excludes
        self._hints = hints
        self._started_ns = time.time_ns()
        self._linked: dict[tuple[int, int], tuple[bytes, Noted]] = {}
        self.skipped: Counter[str] = Counter()
        self.bytes_read = 0
        self.files_read = 0

    def expand(self, at: _At) -> Expansion[_At]:
        """Read one directory; its subdirectories are left for later."""
        try:
            fd = self._handles.open(at.path)
        except StoreError as exc:
            if at.path and isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
                return Expansion(EMPTY_DIRECTORY, [], [], drop_if_empty=True)
            if isinstance(exc.__cause__, PermissionError):
                raise unreadable(at.path, exc.__cause__) from exc
            raise
        header = os.fstat(fd)
        noted = self._cache.load(at.path) if self._cache is not None else {}
        listing = _Listing(at, fd, noted)
        try:
            xattrs = read_xattrs(fd, at.path)
            self._read_entries(listing)
            self._collect(listing)
        except OSError as exc:
            raise unreadable(at.path, exc) from exc
        finally:
            for _, future in listing.large:
                future.cancel()
        if self._cache is not None and listing.fresh != noted:
            self._cache.store(at.path, listing.fresh)
        # Taken from the end, so that hard-link groups are met, and named, in walk order.
        listing.children.sort(reverse=True)
        return Expansion(
            _header(header, xattrs),
            listing.entries,
            listing.children,
            drop_if_empty=at.only_on_the_way,
        )

    def _read_entries(self, listing: _Listing) -> None:
        noted, fresh, entries = listing.noted, listing.fresh, listing.entries
        with os.scandir(listing.fd) as found:
            for item in found:
                name = os.fsencode(item.name)
                if name.startswith(WORK_PREFIX) and not listing.prefix:
                    continue  # what an update that was killed has left; no part of any tree
                try:
                    st = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                left_out = self._excludes is not None and self._is_excluded(listing, name)
                if left_out and not self._may_keep_under(listing, name, st):
                    continue
                old = noted.get(name)
                if old is not None and old[:5] == _stamp(st) and st.st_nlink == 1:
                    fresh[name] = old
                    entries.append(_file(name, st, old.digest, old.xattrs))
                else:
                    self._read_entry(listing, name, st, only_on_the_way=left_out)

    def _is_excluded(self, listing: _Listing, name: bytes) -> bool:
        assert self._excludes is not None
        return self._excludes.excludes(_text(listing.prefix + name))

    def _may_keep_under(self, listing: _Listing, name: bytes, st: os.stat_result) -> bool:
        assert self._excludes is not None
        path = _text(listing.prefix + name)
        return stat.S_ISDIR(st.st_mode) and not self._excludes.may_prune(path)

    def _read_entry(
        self, listing: _Listing, name: bytes, st: os.stat_result, *, only_on_the_way: bool
    ) -> None:
        for _ in range(MAX_TRIES):
            try:
                if stat.S_ISDIR(st.st_mode):
                    at = _At(listing.prefix + name, only_on_the_way)
                    listing.children.append((name, at))
                elif stat.S_ISREG(st.st_mode):
                    self._read_regular(listing, name, st)
                else:
                    self._read_other(listing, name, st)
                return
            except (Gone, FileNotFoundError):
                try:
                    st = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
                except FileNotFoundError:
                    return
        raise changing(listing.prefix + name)

    def _read_regular(self, listing: _Listing, name: bytes, st: os.stat_result) -> None:
        path = listing.prefix + name
        old = listing.noted.get(name)
        if old is None and st.st_nlink > 1:
            old = self._linked.get((st.st_dev, st.st_ino), (b"", None))[1]
        if old is None or old[:5] != _stamp(st):
            hint = self._hints.get(path)
            if hint is None or hint[0] != st.st_size:
                if st.st_size >= LARGE_BYTES:
                    future = self._pool.submit(read_file, listing.fd, name, path)
                    listing.large.append((name, future))
                else:
                    self._add_read(listing, name, read_file(listing.fd, name, path))
                return
            xattrs = read_xattrs(_place(listing.fd, name), path)
            old = Noted(*_stamp(st), hint[1], xattrs)
        self._add(listing, name, st, old)

    def _read_other(self, listing: _Listing, name: bytes, st: os.stat_result) -> None:
        path = listing.prefix + name
        mtime_ns = _time(st)
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFLNK:
            try:
                target = os.readlink(name, dir_fd=listing.fd)
            except OSError as exc:
                if exc.errno == errno.EINVAL:
                    raise Gone from exc
                raise
            xattrs = read_xattrs(_place(listing.fd, name), path)
            entry = Symlink(name, st.st_uid, st.st_gid, mtime_ns, target, xattrs)
            listing.entries.append(entry)
        elif kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
            xattrs = read_xattrs(_place(listing.fd, name), path)
            major, minor = os.major(st.st_rdev), os.minor(st.st_rdev)
            special = Special(
                name, st.st_mode, st.st_uid, st.st_gid, mtime_ns, major, minor, xattrs
            )
            listing.entries.append(special)
        else:
            self.skipped["socket" if kind == stat.S_IFSOCK else "other"] += 1

    def _collect(self, listing: _Listing) -> None:
        """Add the large files, whose threads have gone on meanwhile."""
        for name, future in listing.large:
            try:
                self._add_read(listing, name, future.result())
            except Gone:
                with suppress(FileNotFoundError):
                    st = os.stat(name, dir_fd=listing.fd, follow_symlinks=False)
                    self._read_entry(listing, name, st, only_on_the_way=False)

    def _add_read(self, listing: _Listing, name: bytes, content: Content) -> None:
        self.files_read += 1
        self.bytes_read += content.bytes_read
        st = content.stat
        self._add(listing, name, st, Noted(*_stamp(st), content.digest, content.xattrs))

    def _add(self, listing: _Listing, name: bytes, st: os.stat_result, now: Noted) -> None:
        """Add a regular file whose stat ``st`` and content ``now`` belong together."""
        link = b""
        if st.st_nlink > 1:
            group = group_name(listing.prefix + name)
            link = self._linked.setdefault((st.st_dev, st.st_ino), (group, now))[0]
        if not is_racy(st.st_mtime_ns, st.st_ctime_ns, started_ns=self._started_ns):
            listing.fresh[name] = now
        listing.entries.append(_file(name, st, now.digest, now.xattrs, link))


def _file(
    name: bytes, st: os.stat_result, digest: Digest, xattrs: Xattrs, link: bytes = b""
) -> File:
    mode = st.st_mode & 0o7777
    return File(name, mode, st.st_uid, st.st_gid, _time(st), st.st_size, digest, link, xattrs)


def _stamp(st: os.stat_result) -> tuple[int, int, int, int, int]:
    """Return what a ``Noted`` begins with: what shows that a file has changed."""
    return st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_ino, st.st_dev


def _time(st: os.stat_result) -> int:
    """Return the mtime; file systems go beyond what 64 bits of nanoseconds can say."""
    return min(max(st.st_mtime_ns, -_MAX_TIME_NS), _MAX_TIME_NS)


def _header(st: os.stat_result, xattrs: Xattrs) -> Directory:
    return Directory(st.st_mode & 0o7777, st.st_uid, st.st_gid, _time(st), xattrs, ())


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _place(dirfd: int, name: bytes) -> bytes:
    """Return a path to ``name`` for system calls that take no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (dirfd, name)
