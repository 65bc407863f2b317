"""Contents that other trees on this machine have."""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.handles import READ_FLAGS
from filesync.disk.updating.visits import below
from filesync.disk.updating.work import CurrentDirectory, Directories, Place, storing
from filesync.errors import StoreError
from filesync.manifest import File, Manifest, Subdirectory

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
        lacking = sorted({file.place.path + b"/" for file in batch})
        seen = set[Digest]()
        for manifest, path in trees:
            if not wanted:
                break
            try:
                directories = Directories(path)
            except StoreError:
                continue
            try:
                files = _files_below(manifest, lacking, seen)
                _copy_from(files, directories, wanted, root=root, copy=copy)
            finally:
                directories.close()


def _copy_from(
    files: Iterator[tuple[bytes, File]],
    directories: Directories,
    wanted: dict[Digest, list[Missing]],
    *,
    root: Directories,
    copy: Copy,
) -> None:
    source, target = CurrentDirectory(directories), CurrentDirectory(root)
    try:
        for path, file in files:
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
            elif not wanted:
                break
    finally:
        source.close()
        target.close()


def _open(source: CurrentDirectory, path: bytes, name: bytes) -> int | None:
    try:
        return os.open(name, READ_FLAGS, dir_fd=source.open(path))
    except (StoreError, OSError):
        return None


def _files_below(
    manifest: Manifest, lacking: Sequence[bytes], seen: set[Digest]
) -> Iterator[tuple[bytes, File]]:
    """Yield (directory's path, file) of a tree, leaving out directories seen before.

    Those that have the paths ``lacking``, which end in slashes and ascend, come first, with what
    leads there: most often a directory has what is missing in the one of its path.
    ``seen`` holds content digests of directories, and what is entered is added to it.
    """
    likely, others = [(b"", manifest.tree)], list[tuple[bytes, Digest]]()
    while stack := likely or others:
        path, tree = stack.pop()
        for entry in manifest.directory(tree).entries:
            if isinstance(entry, File):
                yield path, entry
            elif isinstance(entry, Subdirectory) and entry.content not in seen:
                seen.add(entry.content)
                inner = below(path, entry.name)
                is_likely = _leads(inner + b"/", lacking)
                (likely if is_likely else others).append((inner, entry.tree))


def _leads(path: bytes, to: Sequence[bytes]) -> bool:
    """Say whether one of the paths ``to``, which ascend, begins with ``path``."""
    at = bisect_left(to, path)
    return at < len(to) and to[at].startswith(path)
