"""Making files: under a name that is free, or beside and renamed over.

Everything happens in directories that are held open, by names of one component; nothing
that stands under a name is ever written through.
"""

import errno
import fcntl
import os
import resource
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from blake3 import blake3

from filesync.disk.content import (
    HOLE_BYTES,
    PIECE_BYTES,
    copy_sparse,
    hash_file,
    read_piece,
    write_all,
    write_new,
)
from filesync.disk.handles import NEW_FLAGS
from filesync.disk.updating.crossing import rename
from filesync.disk.updating.metadata import Metadata
from filesync.disk.updating.partial import Partials, partial_name
from filesync.disk.updating.work import Place, WorkDirectory
from filesync.manifest import File

Data = bytes | bytearray | memoryview

_FICLONE: Final = 0x40049409
_FITS_BYTES: Final = (2 << 30) - 1
"""So large a file can be on every file system."""


class Maker:
    """Makes files in directories that the caller holds. For several threads at once.

    A file is written beside and renamed to its name where somebody could see it half written:
    where there was a file of that name, and in an atomic update wherever others can look. In
    a directory that this update has made, which is 0700 until its end, files are written under
    their names: of 16.5 us a small file that saves 5 (create, write, utime; tmpfs). O_TMPFILE
    and a link afterwards take 18.
    """

    def __init__(
        self,
        work: WorkDirectory,
        partials: Partials,
        metadata: Metadata,
        *,
        on_copied: Callable[[int], None] | None = None,
    ) -> None:
        """``on_copied`` is told of what ``copy`` makes, where that is not given another."""
        self._on_copied = on_copied
        self._work = work
        self._partials = partials
        self._metadata = metadata
        self._can_clone = True
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit

    def fits(self, size: int) -> bool:
        """Say whether a content can be written that is so large.

        Not where that is too much for the file system (4 GiB, for FAT) or for this process.
        """
        return size <= self._limit and (size <= _FITS_BYTES or self._work.takes(size))

    def put(self, place: Place, dirfd: int, files: Iterable[tuple[File, Data, bool]]) -> None:
        """Make files of ``place``, which ``dirfd`` is, one after another.

        Each is (entry, content, whether it replaces a file); the content was verified. The next
        one is asked for when one is in place.
        """
        work, metadata = self._work, self._metadata
        create, write, utime, close = os.open, os.write, os.utime, os.close
        for entry, data, replaces in files:
            beside = replaces or not place.is_direct
            if beside:
                home, name, created = work.fd, work.free_name(), work.created
            else:
                home, name, created = dirfd, entry.name, place.created
            fd = -1
            try:
                fd = create(name, NEW_FLAGS, entry.mode & 0o777, dir_fd=home)
                if len(data) >= HOLE_BYTES:
                    write_new(fd, data)
                elif data and write(fd, data) != len(data):
                    write_all(fd, data, 0)
                if (
                    entry.mode & metadata.special_bits
                    or entry.xattrs
                    or (entry.uid, entry.gid) != created.owner
                ):
                    metadata.set_new(fd, entry, created, home=dirfd if beside else None)
                else:
                    mtime_ns = entry.mtime_ns
                    utime(fd, ns=(mtime_ns, mtime_ns))
            except BaseException as exc:
                if fd >= 0:
                    close(fd)
                    os.unlink(name, dir_fd=home)
                _name(exc, entry.name)
                raise
            close(fd)
            if beside:
                self.move(name, place, dirfd, entry.name)

    def move(self, name: bytes, place: Place, dirfd: int, to: bytes) -> bool:
        """Rename what the work directory has over what has the name; see ``crossing.rename``.

        What cannot be is removed.
        """
        try:
            return self._rename(name, self._work.fd, place, dirfd, to)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._work.fd)
            raise

    def _rename(self, name: bytes, home: int, place: Place, dirfd: int, to: bytes) -> bool:
        try:
            return rename(
                name,
                to,
                src_dir_fd=home,
                dst_dir_fd=dirfd,
                path=place.path,
                noted=self._work.noted,
                losing=self._metadata.losing,
            )
        except OSError as exc:
            _name(exc, to)
            raise

    def copy(
        self,
        place: Place,
        dirfd: int,
        entry: File,
        source: int,
        *,
        replaces: bool,
        on_copied: Callable[[int], None] | None = None,
    ) -> bool:
        """Make ``entry`` of the content of the open file ``source``, if that is still right.

        ``on_copied`` is told the bytes of each piece that is written, and zero at the end; it may wait.

        Returns:
            False, with nothing made, when its content is not ``entry``'s.
        """
        told = on_copied or self._on_copied
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode) or status.st_size < entry.size:
            return False  # of what has only grown, what it was is there
        if entry.size <= PIECE_BYTES:
            data = read_piece(source, 0, entry.size)
            if len(data) != entry.size or blake3(data).digest() != entry.digest:
                return False
            self.put(place, dirfd, ((entry, data, replaces),))
            if told is not None:
                told(entry.size)
                told(0)
            return True
        new = self._open_beside(entry)
        try:
            if self._clone(source, new.fd):
                os.ftruncate(new.fd, entry.size)  # it is as long as the source is by now
            else:
                copy_sparse(source, new.fd, entry.size, on_copied=told)
            # What was written is read again: the source may change while it is copied.
            if hash_file(new.fd, entry.size) != entry.digest:
                self.discard(new, keep=False)
                return False
            self.place(new, place, dirfd)
        except BaseException:
            self.discard(new, keep=False)
            raise
        if told is not None:
            told(0)
        return True

    # --- files that come in pieces ----------------------------------------------------------

    def open(self, entry: File) -> "NewFile":
        """Open a file that ``place`` makes ``entry`` of; what is left of an earlier one, if any.

        Until then nobody but its owner can read it.
        """
        partial = self._partials.take(entry)
        if partial is None:
            return self._open_beside(entry)
        fd, name, extents = partial
        return NewFile(fd, name, entry, extents, is_partial=True)

    def has_come(self, entry: File) -> bool:
        """Say whether a partial file is ``entry`` that came whole before its digest was known."""
        ready = self._partials.ready.get(entry.digest)
        # A tree that lies about the size is found out as if nothing had come.
        return ready is not None and os.fstat(ready.fd).st_size == entry.size

    def take(self, place: Place, dirfd: int, entry: File) -> None:
        """Put one that ``has_come`` under its name."""
        fd = self._partials.pop_ready(entry.digest)
        new = NewFile(fd, partial_name(entry.digest), entry, [], is_partial=True)
        try:
            self.place(new, place, dirfd)
        except BaseException:
            self.discard(new, keep=True)
            raise

    def place(self, new: "NewFile", place: Place, dirfd: int) -> None:
        """Complete a file whose content was verified, and put it under its name."""
        home = self._partials.fd if new.is_partial else self._work.fd
        self._metadata.adopt(new.fd, new.entry, dirfd, made_in=home)
        self._metadata.sync(new.fd, new.entry)
        self._rename(new.name, home, place, dirfd, new.entry.name)
        os.close(new.fd)
        new.fd = -1

    def discard(self, new: "NewFile", *, keep: bool) -> None:
        """Close a file that is not placed. Idempotent.

        ``keep`` says that what is in it may be right; the next update can go on from there.
        """
        if new.fd < 0:
            return
        fd, new.fd = new.fd, -1
        if new.is_partial:
            self._partials.release(fd, new.entry.digest, keep=keep)
            return
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(new.name, dir_fd=self._work.fd)

    def _open_beside(self, entry: File) -> "NewFile":
        name = self._work.free_name()
        fd = os.open(name, NEW_FLAGS, 0o600, dir_fd=self._work.fd)
        try:
            os.ftruncate(fd, entry.size)
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=self._work.fd)
            raise
        return NewFile(fd, name, entry, [], is_partial=False)

    def _clone(self, source: int, target: int) -> bool:
        if not self._can_clone:
            return False
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as exc:
            # Another file system may hold the next source, so that alone is not remembered.
            self._can_clone = exc.errno == errno.EXDEV
            return False
        return True


class NewFile:
    """A file on its way to its name.

    Attributes:
        fd: for reading and writing; -1 once it is placed or discarded.
        name: its name in the work directory, or in that of the partial files.
        entry: what it shall be.
        extents: (start, end) of what an earlier update has left in it.
        is_partial: it is among the partial files, and may stay there.
    """

    __slots__ = ("entry", "extents", "fd", "is_partial", "name")

    def __init__(
        self,
        fd: int,
        name: bytes,
        entry: File,
        extents: list[tuple[int, int]],
        *,
        is_partial: bool,
    ) -> None:
        self.fd = fd
        self.name = name
        self.entry = entry
        self.extents = extents
        self.is_partial = is_partial


def _name(exc: BaseException, file: bytes) -> None:
    """Have ``exc`` name ``file``: what is written beside it has a name that says nothing."""
    if isinstance(exc, OSError):
        exc.filename = file
