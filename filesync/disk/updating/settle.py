"""The names of an update: each gets its content from nearby, or is left to be fetched."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Final, Literal

import msgspec

from filesync.digest import EMPTY, Digest
from filesync.disk.handles import shown
from filesync.disk.updating.metadata import Metadata, open_existing
from filesync.disk.updating.refusals import Refusals
from filesync.disk.updating.reuse import MAX_SOURCES, Sources, Where
from filesync.disk.updating.tally import Tally
from filesync.disk.updating.visits import below, is_below
from filesync.disk.updating.work import Directories, Place, WorkDirectory
from filesync.disk.updating.write import Data, Maker
from filesync.errors import MalformedManifest, StoreError
from filesync.manifest import (
    Entry,
    File,
    Manifest,
    Special,
    Symlink,
    group_name,
    link_groups,
)

WANTED: Final = 0
SETTLED: Final = 1
COPY: Final = 2
LINK: Final = 3
State = Literal[0, 1, 2, 3]
"""Of one file: its content must come; all is done; it is a copy, or a link, of another file
of the target and is made at the end."""

COPIED_BYTES: Final = 16 << 10
"""Files above this size are fetched once however often the target has them."""
Make = Callable[[Place, int, File], bool]
"""Makes a file in a directory; False if it has no content for it any more."""
_NOT_LINKED: Final = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS)
_NOT_MADE: Final = (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has no devices, or no symbolic links."""
_DISK_IS_ILL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Settler:
    """Puts in place what needs no fetching. Its caller holds the directories.

    Attributes:
        target: the whole tree; looked at when hard links are made, at the end.
    """

    def __init__(
        self,
        root: Directories,
        work: WorkDirectory,
        *,
        basis: Manifest | None,
        target: Manifest,
        sources: Sources,
        metadata: Metadata,
        maker: Maker,
        tally: Tally,
        twins: Set[bytes],
        refusals: Refusals,
    ) -> None:
        self._root = root
        self._work = work
        self._basis = basis
        self.target = target
        self._sources = sources
        self._metadata = metadata
        self._maker = maker
        self._tally = tally
        self._twins = twins
        self._refusals = refusals
        self._lock = threading.Lock()
        # Contents above COPIED_BYTES: the file that each comes for, and which have copies of it.
        self._awaited: dict[Digest, tuple[bytes, bytes]] = {}
        self._copied: set[Digest] = set()
        # Refused files: what is in the work directory for those that need them, and names of
        # hard-link groups for which nothing is.
        self._stand_ins: dict[bytes, bytes] = {}
        self._lost: set[bytes] = set()
        self._group_sizes: dict[bytes, int] | None = None
        # By group: the name that the others are linked to.
        self._firsts: dict[bytes, bytes] | None = None

    # --- before anything is fetched -------------------------------------------------------

    def settle(self, place: Place, dirfd: int, old: Entry | None, entry: File) -> State:
        """Put one file in place if that can be done from what is here; say what is left.

        Raises:
            MalformedManifest: an empty file has a digest that no empty file has.
            StoreError, OSError: this disk.
        """
        if entry.link and group_name(below(place.path, entry.name)) != entry.link:
            return LINK
        was = old if isinstance(old, File) else None
        if was is not None and (was.digest, was.size) == (entry.digest, entry.size):
            if self._change_metadata(place, dirfd, was, entry):
                return SETTLED
        elif entry.size and self._reuse(place, dirfd, was, entry):
            return SETTLED
        if not entry.size:
            self._make_empty(place, dirfd, was, entry)
            return SETTLED
        if entry.size > COPIED_BYTES:
            with self._lock:
                if entry.digest in self._awaited:
                    self._copied.add(entry.digest)
                    return COPY
                if len(self._awaited) < MAX_SOURCES:
                    self._awaited[entry.digest] = (place.path, entry.name)
        return WANTED

    def settle_other(
        self, place: Place, dirfd: int, old: Entry | None, entry: Symlink | Special
    ) -> None:
        """Put a symbolic link or special file in place.

        Raises:
            StoreError, OSError: this disk.
        """
        is_there = type(old) is type(entry)
        if is_there and _is_same_but_metadata(old, entry):
            status = os.stat(entry.name, dir_fd=dirfd, follow_symlinks=False)
            if status.st_nlink == 1:
                self._metadata.sync_unopened(dirfd, entry.name, entry)
                self._tally.add(metadata_changed=1)
                return
        is_direct = not is_there and place.is_direct
        fd, name = (dirfd, entry.name) if is_direct else (self._work.fd, self._work.free_name())
        if self._create_other(fd, name, entry):
            self._metadata.sync_unopened(fd, name, entry)
            if not is_direct:
                self._maker.move(name, place, dirfd, entry.name)
        elif is_there:
            os.unlink(entry.name, dir_fd=dirfd)

    def _create_other(self, fd: int, name: bytes, entry: Symlink | Special) -> bool:
        try:
            if isinstance(entry, Symlink):
                os.symlink(entry.target, name, dir_fd=fd)
            else:
                device = os.makedev(entry.major, entry.minor)
                os.mknod(name, entry.mode & ~0o7077, device, dir_fd=fd)
        except OSError as exc:
            if exc.errno not in _NOT_MADE:
                raise
            self._metadata.lose("symbolic link" if isinstance(entry, Symlink) else "device")
            return False
        return True

    def _make_empty(self, place: Place, dirfd: int, was: File | None, entry: File) -> None:
        if entry.digest != EMPTY:
            raise MalformedManifest(f"{shown(entry.name)} is empty, and its digest is not")
        if was is not None:
            self._keep(place, dirfd, was)
        self._maker.put(place, dirfd, ((entry, b"", was is not None),))
        self._tally.add(files_written=1)

    def _change_metadata(self, place: Place, dirfd: int, was: File, entry: File) -> bool:
        """Give a file other metadata; a copy of it, where other names share its inode."""
        with _passing_over() as passed:
            fd = open_existing(dirfd, entry.name)
            try:
                if os.fstat(fd).st_nlink <= self._names_of(was, entry):
                    self._metadata.sync(fd, entry)
                    self._tally.add(metadata_changed=1)
                elif not self._replace_by_copy(place, dirfd, entry, fd):
                    return False
            finally:
                os.close(fd)
        return not passed

    def _replace_by_copy(self, place: Place, dirfd: int, entry: File, fd: int) -> bool:
        """Give a name an inode of its own; False if its content is not ``entry``'s."""
        try:
            if not self._maker.copy(place, dirfd, entry, fd, replaces=True):
                return False
        except OSError as exc:
            # It has its content: nobody else need have it, and other names can be linked to it.
            self._refusals.note(below(place.path, entry.name), exc)
        else:
            self._tally.add(files_copied=1, bytes_copied=entry.size)
        return True

    def _names_of(self, was: File, entry: File) -> int:
        """Return how many names the inode of ``was`` has if all of them shall change alike."""
        if not was.link:
            return 1
        if was.link != entry.link or self._basis is None:
            return 0
        if self._group_sizes is None:
            groups = link_groups(self._basis)
            self._group_sizes = {group: len(paths) for group, paths in groups.items()}
        return self._group_sizes.get(was.link, 0)

    # --- from elsewhere in the old tree ---------------------------------------------------

    def _reuse(self, place: Place, dirfd: int, was: File | None, entry: File) -> bool:
        where = self._sources.file(entry.digest)
        if where is None:
            return False
        holder = self._work.trash if where.in_trash else self._root
        with _passing_over() as passed, holder.held(where.path) as source_dir:
            fd = open_existing(source_dir, where.name)
            try:
                if was is not None:
                    self._keep(place, dirfd, was)
                if where.is_free and self._is_movable(fd, entry):
                    self._take(where, source_dir, fd, dirfd, entry)
                    at = Where(False, place.path, entry.name, is_free=False)
                    self._sources.files[entry.digest] = at
                    self._tally.add(files_moved=1)
                elif self._maker.copy(place, dirfd, entry, fd, replaces=was is not None):
                    self._tally.add(files_copied=1, bytes_copied=entry.size)
                else:
                    return False
            finally:
                os.close(fd)
        return not passed

    def _take(self, where: Where, source_dir: int, fd: int, dirfd: int, entry: File) -> None:
        """Move an old file to its new name, with its new metadata."""
        name, home = where.name, source_dir
        # What cannot be taken out of its directory may come back with that, as it was.
        if where.path and not _has_metadata(fd, entry):
            name, home = self._work.free_name(), self._work.fd
            os.rename(where.name, name, src_dir_fd=source_dir, dst_dir_fd=home)
        self._metadata.sync(fd, entry)
        os.rename(name, entry.name, src_dir_fd=home, dst_dir_fd=dirfd)

    @staticmethod
    def _is_movable(fd: int, entry: File) -> bool:
        status = os.fstat(fd)
        return status.st_nlink == 1 and status.st_size == entry.size

    def _keep(self, place: Place, dirfd: int, was: File) -> None:
        """Keep the content of a file that is about to be replaced, if it may be needed."""
        here = Where(False, place.path, was.name, is_free=False)
        if self._sources.files.get(was.digest) != here:
            return
        name = self._work.free_name()
        try:
            os.link(
                was.name,
                name,
                src_dir_fd=dirfd,
                dst_dir_fd=self._work.fd,
                follow_symlinks=False,
            )
        except OSError:
            del self._sources.files[was.digest]
        else:
            self._sources.files[was.digest] = Where(True, b"", name, not was.link)

    # --- what is refused ------------------------------------------------------------------

    def refuse(self, place: Place, entry: Entry, error: OSError, *, replaces: bool) -> None:
        """Take note that a name cannot be put in place.

        Raises:
            OSError: ``error``, if it is no refusal.
        """
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
        if not self._is_missing(first):
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

    # --- after everything is fetched ------------------------------------------------------

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
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
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
        self._tally.add(links_made=1)

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
        found = self.target.find(first)
        is_one = isinstance(found, File) and found == msgspec.structs.replace(
            entry, name=found.name
        )
        if not is_one or first == below(place.path, entry.name):
            raise MalformedManifest(
                f"{shown(below(place.path, entry.name))} is not one file with {shown(first)}"
            )
        return first


def _is_same_but_metadata(old: Entry | None, entry: Symlink | Special) -> bool:
    match old, entry:
        case Symlink(), Symlink():
            return old.target == entry.target
        case Special(), Special():
            return (stat.S_IFMT(old.mode), old.major, old.minor) == (
                stat.S_IFMT(entry.mode),
                entry.major,
                entry.minor,
            )
        case _:
            return False


def _has_metadata(fd: int, entry: File) -> bool:
    status = os.fstat(fd)
    return (
        stat.S_IMODE(status.st_mode) == entry.mode
        and status.st_mtime_ns == entry.mtime_ns
        and (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        and len(os.listxattr(fd)) == len(entry.xattrs) == 0
    )


def _inode(dirfd: int, name: bytes) -> tuple[int, int]:
    status = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    return status.st_dev, status.st_ino


@contextmanager
def _passing_over() -> Iterator[list[Exception]]:
    """Collect what keeps a source from being used; only what ails the disk is raised."""
    passed: list[Exception] = []
    try:
        yield passed
    except StoreError as exc:
        passed.append(exc)
    except OSError as exc:
        if exc.errno in _DISK_IS_ILL:
            raise
        passed.append(exc)
