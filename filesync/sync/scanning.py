"""Scans of what a sync reads or writes, and the stat caches for them."""

import enum
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from filesync.disk.handles import shown
from filesync.disk.scanning.scan import LeaveOut, Watcher, scan
from filesync.disk.scanning.statcache import SeenFile, StatCache, is_racy
from filesync.disk.scanning.statcaches import open_cache
from filesync.disk.updating.tally import PlacedFile
from filesync.errors import Unreadable
from filesync.manifest import Manifest, Nodes
from filesync.manifest.owner import owned_by
from filesync.sync.filter import Filter
from filesync.sync.places import Place

Owner = tuple[int, int]
"""A user and a group, by number."""
CACHED_NAMES_BYTES: Final = 1 << 20
"""Names that hold less than this together are read sooner than a cache is opened."""


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
    """

    manifest: Manifest
    skipped: Mapping[str, int]
    unreadable: Mapping[bytes, int]

    def owned(self, owner: Owner | None, nodes: Nodes) -> "Found":
        """Return the same as if all of it belonged to ``owner``, if there is one."""
        if owner is None:
            return self
        return self._replace(manifest=owned_by(self.manifest, nodes, *owner))


def scan_place(
    place: Place,
    nodes: Nodes,
    *,
    filter: Filter | None = None,
    caches: Path | None,
    watcher: Watcher | None = None,
    named: Named = Named.FILES,
    skip_unreadable: bool = False,
    keep_unreadable: bool = False,
) -> Found:
    """Return what ``place`` names; its nodes go to ``nodes``. Blocks.

    Args:
        place: what is read.
        nodes: gets the directory nodes.
        filter: what is left out.
        caches: where the stat caches are; None reads every file.
        watcher: is told what has been done (see ``scan``).
        named: what is seen of a place that is names.
        skip_unreadable: leave out what cannot be read.
        keep_unreadable: not files, though (see ``scan``).

    Raises:
        Unreadable: something cannot be read.
        StoreError: something fits no manifest.
        SourceChanged: a file changed at every try.
    """
    leave_out: LeaveOut | None = filter.excludes if filter else None
    if place.names is not None:
        leave_out = _others(place.names, filter, named)
    with _cache(place, caches) or nullcontext() as cache:
        try:
            found = scan(
                place.root,
                nodes,
                cache=cache,
                leave_out=leave_out,
                watcher=watcher,
                skip_unreadable=skip_unreadable,
                keep_unreadable=keep_unreadable,
            )
        except Unreadable as exc:
            if exc.path:
                raise
            why = os.strerror(exc.errno)
            sentence = f"{shown(place.label)} cannot be read: {why}"
            raise Unreadable(sentence, exc.path, exc.errno) from exc
    return Found(Manifest(found.tree, nodes), found.skipped, found.unreadable)


def note_placed(place: Place, caches: Path | None, placed: Sequence[PlacedFile]) -> None:
    """Have the next scan of ``place`` not read again what was just proved and written there.

    Blocks. Directories that no scan has noted are left alone.
    """
    settled = [one for one in placed if _is_settled(one)]
    if not settled or (cache := _cache(place, caches)) is None:
        return
    with cache:
        for path, files in groupby(sorted(settled, key=_directory), key=_directory):
            seen = cache.load(path)
            inode = _inode(place, path)
            if seen is not None and inode:
                cache.keep(path, seen.with_files(map(_seen_file, files)), inode)
        cache.end(complete=False)


def _is_settled(placed: PlacedFile) -> bool:
    """Say whether any change from now on shows by what a stat tells.

    It has the time of its content, so writing to it shows, unless that time is of this very tick
    of the clock. Another user could set that back within the tick: who may do so is not trusted.
    """
    _, entry, status = placed
    return (
        status.st_uid == os.geteuid()
        and not status.st_mode & 0o022
        and status.st_nlink == 1
        and status.st_size == entry.size
        and status.st_mtime_ns == entry.mtime_ns
        and not (entry.xattrs or entry.link)
        and not is_racy(entry.mtime_ns, entry.mtime_ns, started_ns=status.st_ctime_ns)
    )


def _seen_file(placed: PlacedFile) -> SeenFile:
    _, entry, status = placed
    file = msgspec.structs.replace(
        entry, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid
    )
    return file, status.st_ctime_ns, status.st_ino, status.st_dev


def _directory(placed: PlacedFile) -> bytes:
    return placed.path


def _inode(place: Place, path: bytes) -> int:
    try:
        return os.lstat(os.path.join(os.fsencode(place.root), path, b".")).st_ino
    except OSError:
        return 0


def _others(names: frozenset[bytes], filter: Filter | None, named: Named) -> LeaveOut:
    """Return what leaves out all but ``names``, and of those what the filter does."""

    def leave_out(path: bytes, is_directory: bool) -> bool:
        name, slash, _ = path.partition(b"/")
        is_other = name not in names or (slash and named is not Named.TREES)
        if is_other or (is_directory and named is Named.FILES):
            return True
        return filter is not None and filter.excludes(path, is_directory)

    return leave_out


def _cache(place: Place, caches: Path | None) -> StatCache | None:
    """Open the stat cache for ``place``, if it pays to have one."""
    if caches is None:
        return None
    key = os.fsencode(os.path.realpath(place.root))
    if place.names is not None:
        if _size(place, place.names) < CACHED_NAMES_BYTES:
            return None
        key += b"\0" + b"\0".join(sorted(place.names))
    return open_cache(caches, key)


def _size(place: Place, names: frozenset[bytes]) -> int:
    size = 0
    for name in names:
        try:
            size += os.lstat(os.path.join(os.fsencode(place.root), name)).st_size
        except OSError:
            continue
    return size
