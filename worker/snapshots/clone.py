"""Copying a tree on one disk, guided by its manifest."""

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from filesync.disk.content import copy_sparse
from filesync.disk.handles import NEW_FLAGS, DirectoryHandles, shown
from filesync.disk.scanning.statcache import Noted, StatCache
from filesync.disk.updating.metadata import Created, Metadata, open_existing
from filesync.errors import StoreError
from filesync.manifest import Directory, Entry, File, Manifest, Special, Subdirectory

_FICLONE: Final = 0x40049409
_BLOCK_BYTES: Final = 512
_NO_COPY: Final = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def clone_tree(manifest: Manifest, source: Path, target: Path, cache: StatCache) -> None:
    """Make the empty directory ``target`` hold the tree that ``source`` holds.

    Contents share their blocks where the file system can do that. ``cache`` is told each copy's
    stat and digest, so that a scan need not read what is not changed from now on; files of
    hard-link groups it is not told of. What an ordinary user cannot keep (owners, devices'
    owners) is not kept.

    Raises:
        StoreError: this disk; or ``source`` does not hold the tree.
    """
    metadata = Metadata()
    with DirectoryHandles(source) as old, DirectoryHandles(target) as new:
        cloning = _Cloning(old, new, metadata)
        cache.begin()
        directories: list[tuple[bytes, Directory]] = []
        for path, directory in _directories(manifest):
            try:
                noted = cloning.fill(path, directory)
            except OSError as exc:
                raise StoreError(f"{shown(path)} cannot be copied: {exc}") from exc
            cache.store(path, noted)
            directories.append((path, directory))
        # Filling a directory changes its times, and its mode may forbid filling it.
        for path, directory in reversed(directories):
            metadata.sync(new.open(path), directory)
        cache.end(complete=True)


def _directories(manifest: Manifest) -> Iterator[tuple[bytes, Directory]]:
    """Yield the directories of a tree in walk order, so that a group's first member comes first."""
    yield b"", manifest.root
    for path, entry in manifest.walk():
        if isinstance(entry, Subdirectory):
            yield path, manifest.directory(entry.tree)


class _Cloning:
    def __init__(
        self, old: DirectoryHandles, new: DirectoryHandles, metadata: Metadata
    ) -> None:
        self._old = old
        self._new = new
        self._metadata = metadata
        self._first: dict[bytes, tuple[bytes, bytes]] = {}
        self._can_clone = True

    def fill(self, path: bytes, directory: Directory) -> dict[bytes, Noted]:
        """Make what is in one directory, subdirectories empty; return its files' stats."""
        noted: dict[bytes, Noted] = {}
        created = Created()
        source, target = self._old.open(path), self._new.open(path)
        for entry in directory.entries:
            match entry:
                case File():
                    if entry.link and self._is_linked(path, entry):
                        target = self._new.open(path)
                    else:
                        status = self._copy(source, target, entry, created)
                        if not entry.link:
                            noted[entry.name] = _noted(status, entry)
                case Subdirectory():
                    os.mkdir(entry.name, 0o700, dir_fd=target)
                case _:
                    self._make_other(target, entry)
        return noted

    def _is_linked(self, path: bytes, entry: File) -> bool:
        """Make ``entry`` a link to its group's first member; False if it is that member."""
        first = self._first.setdefault(entry.link, (path, entry.name))
        if first == (path, entry.name):
            return False
        with self._new.pinned(path) as target:
            # Without follow_symlinks=False Python's link follows, as soon as it has a dir_fd.
            os.link(
                first[1],
                entry.name,
                src_dir_fd=self._new.open(first[0]),
                dst_dir_fd=target,
                follow_symlinks=False,
            )
        return True

    def _copy(self, source: int, target: int, entry: File, created: Created) -> os.stat_result:
        old = open_existing(source, entry.name)
        try:
            status = os.fstat(old)
            if status.st_size != entry.size:
                raise StoreError(f"{shown(entry.name)} is not what was committed")
            new = os.open(entry.name, NEW_FLAGS, entry.mode & 0o777, dir_fd=target)
            try:
                if entry.size:
                    self._copy_content(old, new, status)
                self._metadata.set_new(new, entry, created)
                return os.fstat(new)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def _copy_content(self, old: int, new: int, status: os.stat_result) -> None:
        if self._can_clone:
            try:
                fcntl.ioctl(new, _FICLONE, old)
            except OSError:
                # Both are below one state directory: what one file cannot, none can.
                self._can_clone = False
            else:
                return
        size = status.st_size
        if status.st_blocks * _BLOCK_BYTES < size or not _copy_range(old, new, size):
            os.ftruncate(new, size)
            copy_sparse(old, new, size)

    def _make_other(self, target: int, entry: Entry) -> None:
        if isinstance(entry, Special):
            device = os.makedev(entry.major, entry.minor)
            try:
                os.mknod(entry.name, entry.mode, device, dir_fd=target)
            except PermissionError as exc:
                raise StoreError(
                    f"{shown(entry.name)} is a device, which only root can make"
                ) from exc
            self._metadata.sync_unopened(target, entry.name, entry)
        elif not isinstance(entry, File | Subdirectory):
            os.symlink(entry.target, entry.name, dir_fd=target)
            self._metadata.sync_unopened(target, entry.name, entry)


def _copy_range(old: int, new: int, size: int) -> bool:
    """Copy inside the kernel; False, with nothing copied, where it cannot."""
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(old, new, size - done)
        except OSError as exc:
            if done or exc.errno not in _NO_COPY:
                raise
            return False
        if not count:
            raise StoreError("a file of a snapshot became shorter while it was copied")
        done += count
    return True


def _noted(status: os.stat_result, entry: File) -> Noted:
    return Noted(
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
        entry.digest,
        entry.xattrs,
    )
