"""Scans of what a sync reads or writes, and the stat caches for them."""

import enum
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from filesync.disk.handles import shown
from filesync.disk.reserved import WORK_PREFIX, is_reserved
from filesync.disk.scanning.mounts import Mounts
from filesync.disk.scanning.scan import Scanned, scan
from filesync.disk.scanning.statcache import StatCache
from filesync.disk.scanning.statcaches import cache_bytes, open_cache
from filesync.disk.scanning.wanted import LeaveOut
from filesync.disk.scanning.watcher import Watcher
from filesync.disk.scanning.written import written
from filesync.errors import SourceChanged, Unreadable
from filesync.manifest import Manifest, Nodes
from filesync.manifest.owner import Writer, as_written_by
from filesync.sync.filter import Filter
from filesync.sync.places import Place
from filesync.trees.united import below, depth_of, nowhere_else, unite

if TYPE_CHECKING:
    from filesync.disk.updating.files import Proved, WrittenNs

CACHED_NAMES: Final = 500
CACHED_NAMES_BYTES: Final = 1 << 20
"""Fewer names, that hold less than this together, are read sooner than a cache is opened."""
LITTLE_CACHE_BYTES: Final = 128 << 10
"""Of the stat cache of about a thousand files, which are scanned in 5 ms."""
NOTED_BYTES: Final = 64 << 10
"""What was written in a directory and is less than this is read sooner than noted,"""
NOTED_FILES: Final = 4
"""unless it is so many in a new one: to read one takes 12 us, and to note the directory 13."""


class Named(enum.Enum):
    """What is seen of names of which one is a directory."""

    FILES = enum.auto()
    """None that is: a name that has become a directory is none of those that were asked for."""
    DIRECTORIES = enum.auto()
    """That it is one, and what it is like, but nothing that is in it."""
    TREES = enum.auto()
    """All that is in it."""


class Found(NamedTuple):
    """What a place holds.

    Attributes:
        manifest: the tree.
        skipped: how many names of which kind cannot be part of it.
        unreadable: what was left out as it could not be read, and why (errno).
        mounts: directories on which another file system is mounted, if they were to be told of (see ``scan``).
        files: the tree that stands at the place, and has all contents; None if that is the manifest.
    """

    manifest: Manifest
    skipped: Mapping[str, int]
    unreadable: Mapping[bytes, int]
    mounts: Sequence[bytes] = ()
    files: Manifest | None = None

    def written_by(self, writer: Writer | None, nodes: Nodes) -> "Found":
        """Return the same as ``writer`` is to make it, if there is one; see ``as_written_by``."""
        if writer is None:
            return self
        return self._replace(manifest=as_written_by(writer, self.manifest, nodes))


def scan_place(
    place: Place,
    nodes: Nodes,
    *,
    filter: Filter | None = None,
    caches: Path | None,
    watcher: Watcher | None = None,
    named: Named = Named.FILES,
    mounts: Mounts = Mounts.ENTERED,
    skip_unreadable: bool = False,
    keep_unreadable: bool = False,
    spare_changed: bool = False,
) -> Found:
    """Return what ``place`` names; its nodes go to ``nodes``. Blocks.

    Args:
        place: what is read; of names that have ``trees``, all that is in those. What is ``united``
            is found as the tree that it comes to; a watcher is told of it as it stands.
        nodes: gets the directory nodes.
        filter: what is left out.
        caches: where the stat caches are; None reads every file.
        watcher: is told what has been done (see ``scan``).
        named: what is seen of a place that is other names.
        mounts: what becomes of directories on which another file system is mounted.
        skip_unreadable: leave out what cannot be read.
        keep_unreadable: not files, though (see ``scan``).
        spare_changed: let the next scan find changed what this one does (see ``scan``).

    Raises:
        Unreadable: something cannot be read.
        StoreError: something fits no manifest.
        SourceChanged: a file changed at every try.
    """
    if not place.is_of_files:
        named = Named.TREES
    leave_out: LeaveOut | None = filter.excludes if filter else None
    if named is Named.FILES:
        leave_out = _directories_and(leave_out)
    ways = filter.is_way if filter and filter.has_ways else None
    if place.united:
        leave_out, ways = _only_in(place.united, leave_out), None
    with _cache(place, caches) or nullcontext() as cache:
        try:
            found = scan(
                place.root,
                nodes,
                cache=cache,
                names=place.names,
                stays_out=named is Named.DIRECTORIES,
                mounts=mounts,
                leave_out=leave_out,
                ways=ways,
                watcher=watcher,
                skip_unreadable=skip_unreadable,
                keep_unreadable=keep_unreadable,
                spare_changed=spare_changed,
            )
        except Unreadable as exc:
            if exc.path:
                raise
            why = os.strerror(exc.errno)
            sentence = f"{shown(place.label)} cannot be read: {why}"
            raise Unreadable(sentence, exc.path, exc.errno) from exc
        except SourceChanged as exc:
            if not place.united:
                raise
            path = below(exc.path, place.depth)
            raise SourceChanged(str(exc), path) from exc
    manifest = Manifest(found.tree, nodes)
    if place.united:
        return _as_one(place, manifest, found, nodes)
    return Found(manifest, found.skipped, found.unreadable, found.mounts)


def _as_one(place: Place, manifest: Manifest, found: Scanned, nodes: Nodes) -> Found:
    """Return what the directories that are one at ``place`` come to, of which all is ``found``.

    Raises:
        Unreadable: none of them can be read.
        SourceChanged: see ``unite``.
    """
    from filesync.disk.updating.visits import is_below  # few scans are of such a place

    depth, unreadable = place.depth, found.unreadable
    shut = {path for path in unreadable if not below(path, depth)}
    read = [path for path in place.united if not is_below(path, shut)]
    if not read:
        path = min(shut)
        why = unreadable[path]
        raise Unreadable(f"{shown(path)} cannot be read: {os.strerror(why)}", b"", why)
    met = nowhere_else(manifest, read, found.mounts)
    whole = unite(manifest, read, nodes)
    # One of them, or what leads to it, has no path in what they come to: it is told by its own.
    told = {below(path, depth) or path: why for path, why in unreadable.items()}
    return Found(whole, found.skipped, told, met, files=manifest)


def note_proved(
    place: Place,
    caches: Path | None,
    proved: Iterable["Proved"],
    written_ns: "WrittenNs",
) -> None:
    """Have the next scan of ``place`` not read again what an update has proved and written there.

    Blocks. ``proved`` and ``written_ns`` are those of a ``TreeUpdate`` that is finished.
    """
    since_ns, shown_ns, until_ns = written_ns
    with ExitStack() as stack:
        cache: StatCache | None = None
        for path, directory, named, is_new in proved:
            files = [file for file in named if not file.link]
            is_many = is_new and len(files) >= NOTED_FILES
            if not is_many and sum(file.size for file in files) < NOTED_BYTES:
                continue
            if cache is None:
                if (cache := _cache(place, caches)) is None:
                    return
                stack.enter_context(cache)
            if inode := _inode(place, path):
                old = cache.load(path)
                seen = written(
                    old,
                    directory,
                    files,
                    inode=inode,
                    between_ns=(since_ns, until_ns),
                    hidden_ns=shown_ns if is_new else 0,
                )
                cache.keep(path, seen, inode)
        if cache is not None:
            cache.end(complete=False)


def _inode(place: Place, path: bytes) -> int:
    """Return the number of a directory of ``place``; 0 if it is on another file system, or gone."""
    root = os.path.join(os.fsencode(place.root), b"")
    try:
        status = os.lstat(os.path.join(root, path, b"."))
        # Another one's ctimes may be of another clock.
        return status.st_ino if status.st_dev == os.lstat(root).st_dev else 0
    except OSError:
        return 0


def _directories_and(leave_out: LeaveOut | None) -> LeaveOut:
    """Return what leaves out directories, too."""
    if leave_out is None:
        return lambda _, is_directory: is_directory
    return lambda path, is_directory: is_directory or leave_out(path, False)


def _only_in(paths: Sequence[bytes], leave_out: LeaveOut | None) -> LeaveOut:
    """Return what leaves out all that is not in the directories ``paths``.

    In each of them that does, too, what ``leave_out`` would if it were the root.
    """
    depth = depth_of(paths)
    entered = set(paths)
    for path in paths:
        above = path.rpartition(b"/")[0]
        while above and above not in entered:
            entered.add(above)
            above = above.rpartition(b"/")[0]

    def leaves_out(path: bytes, is_directory: bool) -> bool:
        # Asked about each name: what is left of it is only looked at where that may matter.
        down = path.count(b"/")
        if down < depth:
            return path not in entered
        if down == depth and WORK_PREFIX in path and is_reserved(below(path, depth)):
            return True
        return leave_out is not None and leave_out(below(path, depth), is_directory)

    return leaves_out


def is_little(place: Place, caches: Path | None) -> bool:
    """Say whether a scan of ``place`` takes less than to start a process, as far as can be told."""
    if place.is_of_files:
        return True
    size = None if caches is None else cache_bytes(caches, _key(place))
    return size is not None and size < LITTLE_CACHE_BYTES


def _key(place: Place) -> bytes:
    return os.fsencode(os.path.realpath(place.root))


def _cache(place: Place, caches: Path | None) -> StatCache | None:
    """Open the stat cache for ``place``, if it pays to have one."""
    if caches is None:
        return None
    if place.names is not None and not place.trees:
        is_little = len(place.names) < CACHED_NAMES
        if is_little and _size(place, place.names) < CACHED_NAMES_BYTES:
            return None
    return open_cache(caches, _key(place))


def _size(place: Place, names: frozenset[bytes]) -> int:
    size = 0
    for name in names:
        try:
            size += os.lstat(os.path.join(os.fsencode(place.root), name)).st_size
        except OSError:
            continue
    return size
