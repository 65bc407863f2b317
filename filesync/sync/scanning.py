"""Scans of what a sync reads or writes, and the stat caches for them."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final, NamedTuple

from filesync.digest import digest_of
from filesync.disk.scanning.scan import LeaveOut, Watcher, scan
from filesync.disk.scanning.statcache import StatCache
from filesync.errors import StoreError
from filesync.manifest import Manifest, Nodes
from filesync.manifest.owner import owned_by
from filesync.sync.filter import Filter
from filesync.sync.places import Place

Owner = tuple[int, int]
"""A user and a group, by number."""
CACHED_NAMES_BYTES: Final = 1 << 20
"""Names that hold less than this together are read sooner than a cache is opened."""


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
    skip_unreadable: bool = False,
) -> Found:
    """Return what ``place`` names; its nodes go to ``nodes``. Blocks.

    Args:
        place: what is read.
        nodes: gets the directory nodes.
        filter: what is left out.
        caches: where the stat caches are; None reads every file.
        watcher: is told what has been done (see ``scan``).
        skip_unreadable: leave out what cannot be read.

    Raises:
        Unreadable: something cannot be read.
        StoreError: something fits no manifest.
        SourceChanged: a file changed at every try.
    """
    leave_out: LeaveOut | None = filter.excludes if filter else None
    if place.names is not None:
        leave_out = _others(place.names, filter)
    with _cache(place, caches) or nullcontext() as cache:
        found = scan(
            place.root,
            nodes,
            cache=cache,
            leave_out=leave_out,
            watcher=watcher,
            skip_unreadable=skip_unreadable,
        )
    return Found(Manifest(found.tree, nodes), found.skipped, found.unreadable)


def _others(names: frozenset[bytes], filter: Filter | None) -> LeaveOut:
    """Return what leaves out all but ``names``, and of those what the filter does."""

    def leave_out(path: bytes, is_directory: bool) -> bool:
        # A name that has become a directory meanwhile is none of those that were asked for.
        if path not in names or is_directory:
            return True
        return filter is not None and filter.excludes(path, is_directory)

    return leave_out


def _cache(place: Place, caches: Path | None) -> StatCache | None:
    """Open the stat cache for ``place``; a sync without one is slower, not wrong."""
    if caches is None:
        return None
    key = os.fsencode(os.path.realpath(place.root))
    if place.names is not None:
        if _size(place, place.names) < CACHED_NAMES_BYTES:
            return None
        key += b"\0" + b"\0".join(sorted(place.names))
    try:
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        return StatCache(caches / f"{digest_of(key).hex()[:32]}.db")
    except (OSError, StoreError):
        return None


def _size(place: Place, names: frozenset[bytes]) -> int:
    size = 0
    for name in names:
        try:
            size += os.lstat(os.path.join(os.fsencode(place.root), name)).st_size
        except OSError:
            continue
    return size
