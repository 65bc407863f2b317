"""The directories of an input that a Copy names."""

import os

from filesync.errors import PathMissing
from filesync.manifest import Directory, LayeredNodes, Manifest, MemoryNodes, Subdirectory
from filesync.trees.select import Pick, Selector, select
from worker.files.tree import text_of
from worker.wire.ops import Copy


def directory_at(manifest: Manifest, path: bytes) -> Directory | None:
    """Return the directory at the real path ``path``; None if something else is there."""
    if not path:
        return manifest.root
    entry = manifest.find(path)
    return manifest.directory(entry.tree) if isinstance(entry, Subdirectory) else None


def has_own_time(path: bytes, directory: Directory) -> bool:
    """Say whether the directory at ``path`` has a time: a root of which no layer says one has none."""
    return bool(path or directory.mtime_ns)


def reduced(
    op: Copy, manifest: Manifest, path: bytes, directory: Directory, *, written: bytes = b""
) -> tuple[Manifest, Directory]:
    """Return the manifest, and the directory at ``path`` in it, without what ``op`` excludes.

    Excludes are relative to ``path``, or to the pivot of how that was ``written``.

    Raises:
        PathMissing: the directory itself is excluded.
    """
    if not op.exclude:
        return manifest, directory
    pick = Pick(os.fsdecode(written or path), exclude=op.exclude, parents=bool(written))
    nodes = LayeredNodes(MemoryNodes(), manifest.nodes)
    left = select(manifest, Selector((pick,)), nodes)
    found = directory_at(left, path)
    if found is None:
        raise PathMissing(text_of(path))
    return left, found
