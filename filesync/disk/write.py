"""Making files: under a name that is free, or beside and renamed over.

Everything happens in directories that are held open, by names of one component; nothing
that stands under a name is ever written through.
"""

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import Final

from blake3 import blake3

from filesync.disk.content import PIECE_BYTES, copy_sparse, hash_file, read_piece, write_all
from filesync.disk.metadata import Created, Metadata
from filesync.disk.work import Place, WorkDirectory
from filesync.manifest import File

_FICLONE: Final = 0x40049409
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Maker:
    """Makes files in directories that the caller holds. For several threads at once."""

    def __init__(self, work: WorkDirectory, metadata: Metadata, *, is_atomic: bool) -> None:
        self._work = work
        self._metadata = metadata
        self._is_atomic = is_atomic
        self._can_clone = True

    def put(
        self,
        place: Place,
        dirfd: int,
        entry: File,
        data: bytes | bytearray | memoryview,
        *,
        replaces: bool,
    ) -> None:
        """Make ``entry`` in ``place``, which ``dirfd`` is. ``data`` was verified."""
        if replaces or self._is_atomic:
            name = self._work.free_name()
            self._fill(self._work.fd, name, entry, data, self._work.created)
            self.move(name, dirfd, entry.name)
        else:
            self._fill(dirfd, entry.name, entry, data, place.created)

    def open(self, place: Place, dirfd: int, entry: File, *, replaces: bool) -> "NewFile":
        """Open a file that ``NewFile.place`` makes ``entry`` of ``place``."""
        if replaces or self._is_atomic:
            fd, name, created = self._work.fd, self._work.free_name(), self._work.created
        else:
            fd, name, created = dirfd, entry.name, place.created
        file = os.open(name, os.O_RDWR | _CREATE, entry.mode & 0o777, dir_fd=fd)
        try:
            os.ftruncate(file, entry.size)
        except BaseException:
            os.close(file)
            os.unlink(name, dir_fd=fd)
            raise
        return NewFile(file, name, entry, created, is_direct=fd == dirfd)

    def place(self, new: "NewFile", dirfd: int) -> None:
        """Complete a file and put it under its name."""
        self._metadata.set_new(new.fd, new.entry, new.created)
        os.close(new.fd)
        new.fd = -1
        if not new.is_direct:
            self.move(new.name, dirfd, new.entry.name)

    def discard(self, new: "NewFile", dirfd: int) -> None:
        """Remove a file that is not placed."""
        if new.fd >= 0:
            os.close(new.fd)
            new.fd = -1
        with suppress(FileNotFoundError):
            os.unlink(new.name, dir_fd=dirfd if new.is_direct else self._work.fd)

    def move(self, name: bytes, dirfd: int, to: bytes) -> None:
        """Rename what the work directory has over what has the name."""
        os.rename(name, to, src_dir_fd=self._work.fd, dst_dir_fd=dirfd)

    def copy(
        self, place: Place, dirfd: int, entry: File, source: int, *, replaces: bool
    ) -> bool:
        """Make ``entry`` of the content of the open file ``source``, if that is still right.

        Returns:
            False, with nothing made, when its content is not ``entry``'s.
        """
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        if entry.size <= PIECE_BYTES:
            data = read_piece(source, 0, entry.size)
            if len(data) != entry.size or blake3(data).digest() != entry.digest:
                return False
            self.put(place, dirfd, entry, data, replaces=replaces)
            return True
        new = self.open(place, dirfd, entry, replaces=replaces)
        try:
            if not self._clone(source, new.fd):
                copy_sparse(source, new.fd, entry.size)
            # What was written is read again: the source may change while it is copied.
            if hash_file(new.fd, entry.size) != entry.digest:
                self.discard(new, dirfd)
                return False
            self.place(new, dirfd)
        except BaseException:
            self.discard(new, dirfd)
            raise
        return True

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

    def _fill(
        self,
        dirfd: int,
        name: bytes,
        entry: File,
        data: bytes | bytearray | memoryview,
        created: Created,
    ) -> None:
        fd = os.open(name, os.O_WRONLY | _CREATE, entry.mode & 0o777, dir_fd=dirfd)
        try:
            if data and os.write(fd, data) != len(data):
                write_all(fd, data, 0)
            self._metadata.set_new(fd, entry, created)
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=dirfd)
            raise
        os.close(fd)


class NewFile:
    """A file on its way to its name: a descriptor for reading and writing, and where it stands."""

    __slots__ = ("created", "entry", "fd", "is_direct", "name")

    def __init__(
        self, fd: int, name: bytes, entry: File, created: Created, *, is_direct: bool
    ) -> None:
        self.fd = fd
        self.name = name
        self.entry = entry
        self.created = created
        self.is_direct = is_direct
