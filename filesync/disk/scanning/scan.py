"""Scanning: the manifest of a directory on disk.

A directory is read through its descriptor, one at a time, in walk order. A file that the stat
cache knows costs one ``fstatat``; where all files of a directory are known its node is taken from
the cache as it is. Else a file costs an open, a read between two ``fstat`` that show that nothing
changed meanwhile, and a ``flistxattr``. Where it matters what is mounted, a directory costs a stat.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.handles import DirectoryHandles, shown
from filesync.disk.scanning.listing import (
    CTIME,
    Stamp,
    header_of,
    look,
    racy,
)
from filesync.disk.scanning.mounts import Mounts
from filesync.disk.scanning.readfile import read_xattrs, unreadable
from filesync.disk.scanning.reading import Listing, Reader
from filesync.disk.scanning.statcache import (
    NOT_NOTED,
    Seen,
    StatCache,
    pack_stamps,
)
from filesync.disk.scanning.together import TOGETHER, Together, Turns
from filesync.disk.scanning.wanted import Excludes, IsWay, LeaveOut, Wanted
from filesync.disk.scanning.watcher import Watcher
from filesync.disk.scanning.written import as_scanned, may_be_lost
from filesync.errors import MalformedManifest, StoreError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Expansion,
    File,
    Known,
    Nodes,
    canonical_links,
    grow,
)
from filesync.manifest.node import MAX_DEPTH
from filesync.manifest.store import batched

MAX_PATHS_BYTES: Final = 128 << 20
"""Bound on the paths of directories inside each other, together: all of them are held at once."""
_THREADS: Final = 2
MAX_SPARED: Final = 1024
"""Directories whose rows in the cache stay as they were; of more, none does."""
MAX_SPARED_NODES_BYTES: Final = 16 << 20
"""Of the nodes of those, which are kept until it is known whether they stay."""
MAX_SPARED_BYTES: Final = 32 << 20
"""Content that a scan has read, for them to stay: it is read again, which takes 33 ms."""


class Scanned(NamedTuple):
    """What a scan found.

    Attributes:
        tree: tree digest of the root; its nodes are in the store that the scan was given.
        content: content digest of the root.
        skipped: what cannot be part of a tree, counted by kind (``socket``, ``extreme mtime``).
        unreadable: what was left out as it could not be read, and why (errno).
        mounts: directories on which another file system is mounted, unless they are as any others or left out.
        bytes_read: content that was read; what a cache or hint knew was not.
        files_read: files that were read.
    """

    tree: Digest
    content: Digest
    skipped: Mapping[str, int]
    unreadable: Mapping[bytes, int]
    mounts: Sequence[bytes]
    bytes_read: int
    files_read: int


def scan(
    root: Path,
    nodes: Nodes,
    *,
    cache: StatCache | None = None,
    names: Set[bytes] | None = None,
    stays_out: bool = False,
    mounts: Mounts = Mounts.ENTERED,
    excludes: Excludes | None = None,
    leave_out: LeaveOut | None = None,
    ways: IsWay | None = None,
    hints: Mapping[bytes, tuple[int, Digest]] | None = None,
    watcher: Watcher | None = None,
    skip_unreadable: bool = False,
    keep_unreadable: bool = False,
    spare_changed: bool = False,
) -> Scanned:
    """Put the manifest of the directory ``root`` into ``nodes``. Blocks.

    ``root`` may be a link to a directory, of which only ``names`` are looked at if they are given;
    none of them need be there. A scan that ``stays_out`` sees directories in it, and nothing that is
    in those. ``mounts`` says what becomes of those on which another file system is mounted; each of ``names``
    begins on its own. What ``leave_out`` says is as if it were not there, with all below it,
    and so is a directory that ``ways`` says is there for what is in it alone, where nothing is. ``hints`` gives
    (size, digest) of files that the caller has just written and checked: a file of that size at that
    path is not read.
    ``watcher`` is told of directories as they are done; if there are hard links across them the
    tree that is returned may name their groups otherwise.

    Names that vanish meanwhile are left out; a file that changes while it is read is read
    again. Sockets are skipped, and with ``skip_unreadable`` files and directories that cannot
    be read, though not the root. With ``keep_unreadable`` such files are in the tree, with a
    digest that no content has: what is to be written there can replace them. With
    ``spare_changed`` the cache keeps what it knows of directories that have changed, if that is
    little to read again: the next scan finds them changed, too.

    Raises:
        SourceChanged: a file changed at every try.
        Unreadable: something cannot be read.
        StoreError: something fits no manifest; names it.
    """
    with (
        DirectoryHandles(root) as handles,
        ThreadPoolExecutor(_THREADS) as pool,
        (Together() if cache is None else TOGETHER).scan() as turns,
    ):
        reader = Reader(
            pool,
            hints or {},
            keep=watcher.content_read if watcher else None,
            beside=watcher.beside if watcher else None,
            begun=watcher.file_begun if watcher else None,
            skip_unreadable=skip_unreadable,
            keep_unreadable=keep_unreadable,
        )
        scanning = _Scan(
            handles,
            reader,
            turns,
            wanted=Wanted(names=names, leave_out=leave_out, ways=ways, excludes=excludes),
            cache=cache,
            stays_out=stays_out,
            mounts=mounts,
            changed=watcher.directory_changed if watcher else None,
            must_look=bool(hints),
            spare_changed=spare_changed,
        )
        if cache is not None:
            cache.begin()
        complete = False
        try:
            with batched(nodes):
                tree = grow(nodes, _At(b""), scanning.expand, done=_telling(watcher))
                tree = canonical_links(nodes, tree)
            scanning.end()
            complete = True
        except MalformedManifest as exc:
            raise StoreError(f"{shown(os.fsencode(root))} fits no manifest: {exc}") from exc
        finally:
            pool.shutdown(cancel_futures=True)
            if cache is not None:
                is_there = partial(_is_there, root) if scanning.is_part else None
                cache.end(complete=complete, is_there=is_there)
    content = nodes.summary(tree).content
    return Scanned(
        tree,
        content,
        dict(reader.skipped),
        reader.unreadable,
        scanning.met,
        reader.bytes_read,
        reader.files_read,
    )


class _At(NamedTuple):
    """A directory to be read.

    ``only_on_the_way``: it is not wanted itself, and kept for what is below it.
    ``device``: that of the directory that it is in; None where it does not matter what is mounted.
    """

    path: bytes
    only_on_the_way: bool = False
    device: int | None = None


class _Scan:
    """One scan under way: ``expand`` turns a directory on disk into its entries.

    Attributes:
        met: directories on which another file system is mounted, if they are to be told of.
    """

    def __init__(
        self,
        handles: DirectoryHandles,
        reader: Reader,
        turns: Turns,
        *,
        wanted: Wanted,
        cache: StatCache | None,
        stays_out: bool,
        mounts: Mounts,
        changed: Callable[[bytes, bytes | None, Digest], None] | None,
        must_look: bool,
        spare_changed: bool,
    ) -> None:
        """``must_look``: stat each file before it is opened; it may need no reading."""
        self._handles = handles
        self._reader = reader
        self._turns = turns
        self._wanted = wanted
        self._cache = cache
        self._stays_out = stays_out
        self._mounts = mounts
        self.met: list[bytes] = []
        self._was_shut = False
        self._changed = changed
        self._must_look = must_look
        self._started_ns = time.time_ns()
        self._spares_changed = spare_changed
        self._spared: list[tuple[bytes, Seen, int]] = []
        self._spared_nodes_bytes = 0

    @property
    def is_part(self) -> bool:
        """Something was not looked at that is there, or may be."""
        return self._was_shut or self._wanted.is_part_of_all

    def end(self) -> None:
        """Decide about what was to be spared, now that it is known what it costs."""
        if self._reader.bytes_read > MAX_SPARED_BYTES:
            self._spare_none()

    def expand(self, at: _At) -> Expansion[_At]:
        """Read one directory; its subdirectories are left for later."""
        _check_depth(at.path)
        try:
            if (found := self._mounted(at)) is not None:
                return found
            fd = self._handles.open(at.path)
        except OSError as exc:
            return self._skip(at, exc)
        except StoreError as exc:
            if at.path and isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
                return Expansion(EMPTY_DIRECTORY, [], [], drop_if_empty=True)
            if isinstance(exc.__cause__, PermissionError):
                return self._skip(at, exc.__cause__)
            raise
        try:
            return self._read(at, self._reader.begin(at.path, fd))
        except OSError as exc:
            return self._skip(at, exc)

    def _mounted(self, at: _At) -> Expansion[_At] | None:
        """Return what there is of a directory that is not entered for what is mounted on it; None of others.

        It is not opened: it may be shut, and what is mounted on demand is not asked for.

        Raises:
            OSError, StoreError: it, or the directory that it is in, cannot be looked at.
        """
        if at.device is None:
            return None
        above, _, name = at.path.rpartition(b"/")
        parent = self._handles.open(above)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if status.st_dev == at.device or not stat.S_ISDIR(status.st_mode):
            return None
        self._was_shut |= self._mounts is not Mounts.NOTED
        if self._mounts is Mounts.LEFT_OUT:
            return Expansion(EMPTY_DIRECTORY, [], [], drop_if_empty=True)
        self.met.append(at.path)
        if self._mounts is Mounts.NOTED:
            return None
        xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (parent, name), at.path)
        return Expansion(header_of(status, xattrs), [], [])

    def _skip(self, at: _At, exc: OSError) -> Expansion[_At]:
        """Leave out a directory that cannot be read, or raise."""
        self._was_shut = True
        self._reader.note_unreadable(unreadable(at.path, exc))
        return Expansion(EMPTY_DIRECTORY, [], [], drop_if_empty=True)

    def _read(self, at: _At, listing: Listing) -> Expansion[_At]:
        if at.path and self._stays_out:
            self._was_shut = True
            return Expansion(listing.header, [], [])
        found = self._wanted.in_directory(listing.fd, listing.prefix)
        seen = self._cache.load(at.path, listing.inode) if self._cache is not None else None
        known: Known | None = None
        made: Callable[[Known], None] | None = None
        if seen is None and not self._must_look:
            self._turns.read_new(self._reader, listing, found, started_ns=self._started_ns)
        else:
            # What was written and not scanned is looked at more closely (``is_as_written``).
            sparse = listing.sparse if seen is not None and seen.hidden_ns else None
            listing.directories, listing.stamps = look(found, sparse=sparse)
            if seen is not None and seen.mark and seen.mark == listing.mark():
                known = seen.known()
                made = self._keeps(listing, seen.stamps, seen.mark, seen)
            else:
                if seen is not None:
                    if self._wanted.is_part or seen.others:
                        met = {*listing.stamps, *listing.directories}
                        seen = seen.apart(partial(_is_other, listing.fd, met))
                    listing.seen, listing.hidden_ns = seen.files(), seen.hidden_ns
                self._reader.read_changed(listing)
                self._reader.finish(listing)
        if known is None:
            made = self._notes(listing, seen) if self._cache is not None else None
        # Taken from the end, so that hard-link groups are met, and named, in walk order.
        device = self._device_in(listing)
        children = [
            (name, _At(listing.prefix + name, name in self._wanted.on_the_way, device))
            for name in sorted(listing.directories, reverse=True)
        ]
        return Expansion(
            listing.header,
            listing.entries,
            children,
            drop_if_empty=at.only_on_the_way and not self._wanted.has_listed,
            known=known,
            made=made,
        )

    def _device_in(self, listing: Listing) -> int | None:
        """Return the device that directories in a directory are to be on; None where that is any."""
        if self._mounts is Mounts.ENTERED:
            return None
        is_of_names = self._wanted.of_names and not listing.prefix
        if is_of_names and self._mounts is not Mounts.NOTED:
            return None  # each was asked for by itself
        return listing.device

    def _notes(self, listing: Listing, seen: Seen | None) -> Callable[[Known], None]:
        """Return what notes ``listing`` for the next scan, when its directory is made."""
        kept = listing.kept
        fresh = {name: one for name, one in listing.stamps.items() if name not in kept}
        unsure = racy(fresh, started_ns=self._started_ns) | listing.unknown
        lost = self._notes_if_lost(listing, fresh, unsure)
        numbers: list[int] = []
        listing.entries.sort(key=attrgetter("name"))
        for name in [entry.name for entry in listing.entries if isinstance(entry, File)]:
            if name in kept:
                numbers += kept[name][1:]
            elif name in lost:
                numbers += lost[name]
            else:
                numbers += NOT_NOTED if name in unsure else fresh[name][CTIME : CTIME + 3]
        mark = b"" if unsure or lost else listing.mark()
        return self._keeps(listing, pack_stamps(numbers), mark, seen)

    def _notes_if_lost(
        self, listing: Listing, fresh: Mapping[bytes, Stamp], unsure: Set[bytes]
    ) -> dict[bytes, tuple[int, int, int]]:
        """Return what is noted, by name, of ``fresh`` files that may not be on the disk yet."""
        noted: dict[bytes, tuple[int, int, int]] = {}
        for name in may_be_lost(fresh, started_ns=self._started_ns):
            if (old := listing.written.get(name)) is not None:
                noted[name] = old[1:]
            elif name not in unsure and name not in listing.sparse:
                # Of what has holes nothing would tell that it has lost some more.
                noted[name] = as_scanned(fresh[name], inode=listing.inode)
        return noted

    def _keeps(
        self, listing: Listing, stamps: bytes, mark: bytes, old: Seen | None
    ) -> Callable[[Known], None]:
        """Return what keeps a directory in the cache, unless ``old`` is there and says the same.

        It outlives the reading of all that is below the directory: it holds little.
        """
        path, inode, changed = listing.path, listing.inode, self._changed
        others = (old.others, old.others_stamps) if old is not None else (b"", b"")

        def keep(known: Known) -> None:
            seen = Seen(known.data, stamps, mark, known.summary, known.below, 0, *others)
            is_changed = old is not None and old.node != seen.node
            if self._spares_changed and is_changed:
                self._spare(path, seen, inode)
            elif self._cache is not None and seen != old:
                self._cache.keep(path, seen, inode)
            if changed is not None and (old is None or is_changed):
                changed(path, None if old is None else old.node, known.tree)

        return keep

    def _spare(self, path: bytes, seen: Seen, inode: int) -> None:
        self._spared.append((path, seen, inode))
        self._spared_nodes_bytes += len(seen.node)
        if len(self._spared) > MAX_SPARED or self._spared_nodes_bytes > MAX_SPARED_NODES_BYTES:
            self._spare_none()

    def _spare_none(self) -> None:
        for path, seen, inode in self._spared:
            if self._cache is not None:
                self._cache.keep(path, seen, inode)
        self._spared.clear()
        self._spares_changed = False


def _check_depth(path: bytes) -> None:
    """Refuse a directory that is too deep, before those below it are entered, too.

    Raises:
        MalformedManifest: it is.
    """
    depth = path.count(b"/") + bool(path)
    if depth >= MAX_DEPTH or depth * len(path) > 2 * MAX_PATHS_BYTES:
        raise MalformedManifest(
            f"more than {MAX_DEPTH} directories inside each other, or fewer with long names"
        )


def _telling(watcher: Watcher | None) -> Callable[[_At, Digest], None] | None:
    if watcher is None:
        return None
    tell = watcher.directory_done
    return lambda at, tree: tell(at.path, tree)


def _is_other(directory: int, met: Set[bytes], name: bytes) -> bool:
    """Say whether ``name`` is in ``directory`` though it was not ``met``."""
    if name in met:
        return False
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _is_there(root: Path, path: bytes) -> bool:
    return os.path.lexists(os.path.join(os.fsencode(root), path))
