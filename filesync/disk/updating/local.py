"""Contents that other trees on this machine have."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.handles import READ_FLAGS
from filesync.disk.updating.visits import below
from filesync.disk.updating.work import CurrentDirectory, Directories, Place, storing
from filesync.errors import StoreError
from filesync.manifest import Entry, File, Manifest, Subdirectory

_BATCH: Final = 65_536
"""Contents that are looked for in one walk over the local trees; bounds memory to 40 MB."""


class LocalTree(NamedTuple):
    """Another tree on this machine whose contents may be copied."""

    manifest: Manifest
    root: Path


class Missing(NamedTuple):
    """A file of the target that has no content yet.

    Attributes:
        place: its directory.
        ticket: its number within the update.
        old: the file that it replaces.
        entry: what it shall be.
    """

    place: Place
    ticket: int
    old: File | None
    entry: File


Copy = Callable[[Missing, int, int], bool]
"""Given a missing file, an open file to copy, and the directory: False if it has rotted."""


def copy_contents(
    trees: Sequence[LocalTree], missing: Iterator[Missing], *, root: Directories, copy: Copy
) -> None:
    """Copy what the trees have of what is missing.

    A tree that is not there any more is passed over.

    Raises:
        StoreError: this disk.
    """
    while batch := list(islice(missing, _BATCH)):
        wanted: dict[Digest, list[Missing]] = {}
        for file in batch:
            wanted.setdefault(file.entry.digest, []).append(file)
        seen = set[Digest]()
        for manifest, path in trees:
            try:
                directories = Directories(path)
            except StoreError:
                continue
            try:
                _copy_from(manifest, directories, wanted, seen, root=root, copy=copy)
            finally:
                directories.close()


def _copy_from(
    manifest: Manifest,
    directories: Directories,
    wanted: dict[Digest, list[Missing]],
    seen: set[Digest],
    *,
    root: Directories,
    copy: Copy,
) -> None:
    source, target = CurrentDirectory(directories), CurrentDirectory(root)
    try:
        for path, file in _files_below(manifest, seen):
            if file.digest not in wanted or (fd := _open(source, path, file.name)) is None:
                continue
            left: list[Missing] = []
            try:
                for one in wanted.pop(file.digest):
                    # Entered for each file, so that an error names the right directory.
                    with storing(one.place.path, one.entry.name):
                        is_copied = copy(one, fd, target.open(one.place.path))
                    if not is_copied:
                        left.append(one)
            finally:
                os.close(fd)
            if left:
                wanted[file.digest] = left
    finally:
        source.close()
        target.close()


def _open(source: CurrentDirectory, path: bytes, name: bytes) -> int | None:
    try:
        return os.open(name, READ_FLAGS, dir_fd=source.open(path))
    except (StoreError, OSError):
        return None


def _files_below(manifest: Manifest, seen: set[Digest]) -> Iterator[tuple[bytes, File]]:
    """Yield (directory's path, file) of a tree, leaving out directories seen before.

    ``seen`` holds content digests of directories, and what is entered is added to it.
    """
    stack: list[tuple[bytes, tuple[Entry, ...]]] = [(b"", manifest.root.entries)]
    while stack:
        path, entries = stack.pop()
        for entry in entries:
            if isinstance(entry, File):
                yield path, entry
            elif isinstance(entry, Subdirectory) and entry.content not in seen:
                seen.add(entry.content)
                stack.append((below(path, entry.name), manifest.directory(entry.tree).entries))
