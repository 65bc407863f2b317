"""Files of an update whose content another of its files has: copies, and names of one file."""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.disk.updating.metadata import Metadata, open_existing
from filesync.disk.updating.refusals import Refusals, is_gone
from filesync.disk.updating.reuse import MAX_REUSABLE
from filesync.disk.updating.tally import Tally
from filesync.disk.updating.visits import below, is_below
from filesync.disk.updating.work import Directories, Place, WorkDirectory
from filesync.disk.updating.write import Data, Maker
from filesync.errors import MalformedManifest, StoreError
from filesync.manifest import Entry, File, Manifest, group_name, link_groups

Make = Callable[[Place, int, File], bool]
"""Makes a file in a directory; False if it has no content for it any more."""
_NEAR: Final = 16
"""Directories whose entries are at hand: of names that are one file, most are near each other."""
_NOT_LINKED: Final = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS)


class Repeated:
    """Makes them at the end, and keeps content for them whose own name was refused.

    Attributes:
        target: the whole tree; looked at by ``find`` alone, and when hard links are made.
        passed_over: paths that are left as they are, as their contents are not to be had.
    """

    def __init__(
        self,
        root: Directories,
        work: WorkDirectory,
        *,
        target: Manifest,
        metadata: Metadata,
        maker: Maker,
        tally: Tally,
        twins: Set[bytes],
        refusals: Refusals,
    ) -> None:
        self._root = root
        self._work = work
        self.target = target
        self._metadata = metadata
        self._maker = maker
        self._tally = tally
        self._twins = twins
        self._refusals = refusals
        self._lock = threading.Lock()
        # The file that each content comes for, and which have copies of it.
        self._awaited: dict[Digest, tuple[bytes, bytes]] = {}
        self._copied: set[Digest] = set()
        # Refused files: what is in the work directory for those that need them, and names of
        # hard-link groups for which nothing is.
        self._stand_ins: dict[bytes, bytes] = {}
        self._lost: set[bytes] = set()
        # Contents that are not to be had, and the names that are left as they are for that.
        self._gone: set[Digest] = set()
        self.passed_over: list[bytes] = []
        # By group: the name that the others are linked to.
        self._firsts: dict[bytes, bytes] | None = None
        self._near = lru_cache(_NEAR)(lambda path: self.target.find_directory(path))

    def comes_for_another(self, place: Place, entry: File) -> bool:
        """Say whether a content comes already, so that this file is to be a copy.

        Else it comes for this file, if no more than MAX_REUSABLE are remembered.
        """
        with self._lock:
            if entry.digest in self._awaited:
                self._copied.add(entry.digest)
                return True
            if len(self._awaited) < MAX_REUSABLE:
                self._awaited[entry.digest] = (place.path, entry.name)
            return False

    def find(self, path: bytes) -> Entry | None:
        """Return the target's entry at ``path``; soon where the last ones were near."""
        above, _, name = path.rpartition(b"/")
        directory = self._near(above)
        return None if directory is None else directory.find(name)

    # --- what does not come ---------------------------------------------------------------

    def pass_over(self, place: Place, entry: File, *, replaces: bool) -> None:
        """Take note that a name stays as it is, as its content is not to be had."""
        self.passed_over.append(below(place.path, entry.name))
        self._tally.add(created=-(not replaces))
        with self._lock:
            self._gone.add(entry.digest)
            self._awaited.pop(entry.digest, None)

    def is_gone(self, entry: File) -> bool:
        """Say whether the content of a file to be copied, or linked to, is not to be had."""
        return entry.digest in self._gone

    # --- what is refused ------------------------------------------------------------------

    def refuse(self, place: Place, entry: Entry, error: OSError, *, replaces: bool) -> None:
        """Take note that a name cannot be put in place.

        Raises:
            OSError: ``error``, if it is no refusal.
            StoreError: the directory is not there any more.
        """
        if error.errno == errno.ENOENT:
            with self._root.held(place.path) as dirfd:
                if is_gone(dirfd, error):
                    raise error
        path = below(place.path, entry.name)
        self._refusals.note(path, error, uncreated=not replaces)
        if isinstance(entry, File) and entry.link:
            self._lost.add(path)

    def stand_in(self, place: Place, entry: File, make: Make) -> bool:
        """Have ``make`` make what was refused, for those that are to be copies of it or links to it.

        Not if there are none. False if ``make`` says so.

        Raises:
            OSError: this disk.
        """
        if not self._is_awaited(place, entry):
            return True
        name = self._work.free_name()
        to = Place(b"", is_direct=True)
        if not make(to, self._work.fd, msgspec.structs.replace(entry, name=name)):
            return False
        path = below(place.path, entry.name)
        self._stand_ins[path] = name
        self._lost.discard(path)
        return True

    def stand_in_of(self, place: Place, entry: File, data: Data) -> None:
        """Do so of the content ``data``."""

        def make(to: Place, dirfd: int, one: File) -> bool:
            self._maker.put(to, dirfd, ((one, data, False),))
            return True

        self.stand_in(place, entry, make)

    @property
    def may_miss(self) -> bool:
        """Say whether there may be hard-link groups whose first name is missing."""
        return bool(self._refusals.count or self._twins)

    def adopts(self, place: Place, entry: File) -> bool:
        """Make a name the first of its hard-link group, if what was cannot be made."""
        first = self._first(place, entry)
        if not self._is_missing(first) or not self._maker.fits(entry.size):
            return False
        if not entry.size:  # nothing has to come
            path, _, name = first.rpartition(b"/")
            gone = Place(path, is_direct=False)
            self.stand_in_of(gone, msgspec.structs.replace(entry, name=name), b"")
            return False
        if self._firsts is not None:
            self._firsts[entry.link] = below(place.path, entry.name)
        return True

    def _is_missing(self, first: bytes) -> bool:
        """Say whether there is neither this first name of a group nor what stands in for it."""
        if first in self._stand_ins:
            return False
        path, _, name = first.rpartition(b"/")
        return (
            first in self._lost
            or name in self._refusals.blocked(path)
            or is_below(path, self._refusals.directories)
            or is_below(first, self._twins)  # it leads to another file
        )

    def _is_awaited(self, place: Place, entry: File) -> bool:
        if entry.link:
            return True
        with self._lock:
            if entry.digest in self._copied:
                return True
            if self._awaited.get(entry.digest) == (place.path, entry.name):
                del self._awaited[entry.digest]
            return False

    @contextmanager
    def _held(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the directory of a file of the target, and its name there, or of its stand-in."""
        if (stand_in := self._stand_ins.get(path)) is not None:
            yield self._work.fd, stand_in
            return
        directory, _, name = path.rpartition(b"/")
        with self._root.held(directory) as dirfd:
            yield dirfd, name

    # --- when all else is there -----------------------------------------------------------

    def copy(self, place: Place, dirfd: int, old: Entry | None, entry: File) -> None:
        """Make a file whose content another file of the target has by now.

        Raises:
            StoreError, OSError: this disk.
        """
        path = below(*self._awaited[entry.digest])

        def make(to: Place, fd: int, one: File) -> bool:
            self._copy_from(path, to, fd, None, one)
            return True

        try:
            self._copy_from(path, place, dirfd, old, entry)
        except OSError as exc:
            self.refuse(place, entry, exc, replaces=old is not None)
            if entry.link:  # what else is to be a copy has its content from where this had it
                self.stand_in(place, entry, make)

    def link(self, place: Place, dirfd: int, old: Entry | None, entry: File) -> None:
        """Link a name to the first one of its hard-link group, or copy where that cannot be.

        Raises:
            MalformedManifest: the group's names are not one file.
            StoreError, OSError: this disk.
        """
        path = self._first(place, entry)
        if self._is_missing(path):
            why = errno.EPERM if self._maker.fits(entry.size) else errno.EFBIG
            raise OSError(why, os.strerror(why))
        is_there = isinstance(old, File)
        with self._held(path) as (first, name):
            if is_there and _inode(first, name) == _inode(dirfd, entry.name):
                return
            is_direct = not is_there and place.is_direct
            to, free = (
                (dirfd, entry.name) if is_direct else (self._work.fd, self._work.free_name())
            )
            try:
                os.link(name, free, src_dir_fd=first, dst_dir_fd=to, follow_symlinks=False)
            except OSError as exc:
                if exc.errno not in _NOT_LINKED:
                    raise
                self._metadata.lose("hard link")
                self._copy_from(path, place, dirfd, old, entry)
                return
        if not is_direct and self._maker.move(free, place, dirfd, entry.name):
            self._metadata.lose("hard link")

    def _copy_from(
        self, path: bytes, place: Place, dirfd: int, old: Entry | None, entry: File
    ) -> None:
        with self._held(path) as (source_dir, name):
            fd = open_existing(source_dir, name)
            try:
                is_there = isinstance(old, File)
                if not self._maker.copy(place, dirfd, entry, fd, replaces=is_there):
                    raise StoreError(f"{shown(path)} changed during the update")
            finally:
                os.close(fd)
        self._tally.add(files_copied=1, bytes_copied=entry.size)

    def _first(self, place: Place, entry: File) -> bytes:
        if self._firsts is None:
            # Of a tree that arrived the first name is not always the first in walk order.
            self._firsts = {
                group: next((path for path in paths if group_name(path) == group), paths[0])
                for group, paths in link_groups(self.target).items()
            }
        first = self._firsts[entry.link]
        found = self.find(first)
        is_one = isinstance(found, File) and found == msgspec.structs.replace(
            entry, name=found.name
        )
        if not is_one or first == below(place.path, entry.name):
            raise MalformedManifest(
                f"{shown(below(place.path, entry.name))} is not one file with {shown(first)}"
            )
        return first


def _inode(dirfd: int, name: bytes) -> tuple[int, int]:
    status = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    return status.st_dev, status.st_ino
