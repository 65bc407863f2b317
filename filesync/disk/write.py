"""Making files: under a name that is free, or beside and renamed over.

Everything happens in directories that are held open, by names of one component; nothing
that stands under a name is ever written through.
"""

import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from blake3 import blake3

from filesync.digest import Digest, short
from filesync.disk.handles import DirectoryHandles, remove_tree, shown
from filesync.disk.metadata import Created, Metadata
from filesync.errors import ContentCorrupt, StoreError
from filesync.manifest import File

WORK_PREFIX: Final = b".filesync-"
"""Names at a root that begin so are ours: never part of a tree."""
PIECE_BYTES: Final = 1 << 20
_PAGE: Final = 4096
_ZERO_PAGE: Final = bytes(_PAGE)
_FICLONE: Final = 0x40049409
_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Directories:
    """The directories below one root, for several threads at once."""

    def __init__(self, root: Path | int) -> None:
        self._handles = DirectoryHandles(root)
        self._lock = threading.Lock()

    @contextmanager
    def held(self, path: bytes) -> Iterator[int]:
        """Give a descriptor of the directory at ``path`` until the end of the block.

        Raises:
            StoreError: it is not there, or is not a directory reached through directories.
        """
        with self._lock:
            fd = os.dup(self._handles.open(path))
        try:
            yield fd
        finally:
            os.close(fd)

    def forget(self, path: bytes) -> None:
        """Drop what is held of ``path`` and below it; call it when it is moved."""
        with self._lock:
            self._handles.forget(path)

    def close(self) -> None:
        """Close all descriptors. Idempotent."""
        with self._lock:
            self._handles.close()


class WorkDirectory:
    """A private directory for temporary files and for what was moved aside.

    Attributes:
        fd: its descriptor, held until ``remove``.
        trash: the directories in it.
        created: what files made in it get.
    """

    def __init__(self, parent: int) -> None:
        """Make it in the directory ``parent``, of which a duplicate is kept."""
        self._parent = os.dup(parent)
        self._name = WORK_PREFIX + secrets.token_hex(8).encode()
        self._numbers = count()
        self.created = Created()
        try:
            os.mkdir(self._name, 0o700, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(self._name, flags, dir_fd=parent)
        except BaseException:
            os.close(self._parent)
            raise
        self.trash = Directories(self.fd)

    def free_name(self) -> bytes:
        """Return a name that was never used in it."""
        return b"%x" % next(self._numbers)

    def umask(self) -> int:
        """Return what creating a file takes away from its mode."""
        name = self.free_name()
        fd = os.open(name, os.O_WRONLY | _CREATE, 0o777, dir_fd=self.fd)
        try:
            return 0o777 & ~os.fstat(fd).st_mode
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self.fd)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        self.trash.close()
        try:
            remove_tree(self._parent, self._name)
        finally:
            os.close(self.fd)
            os.close(self._parent)


class Place:
    """A directory that is being filled."""

    __slots__ = ("created", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.created = Created()


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
        try:
            os.unlink(new.name, dir_fd=dirfd if new.is_direct else self._work.fd)
        except FileNotFoundError:
            pass

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


class LargeFile:
    """One file whose content arrives in pieces, in any order, each byte once.

    For one thread at a time. Ends with ``finish`` or ``abort``.

    Attributes:
        basis_fd: the file that it replaces, open for reading; None if there is none. It is
            this object's and is closed at its end.
    """

    def __init__(
        self,
        new: NewFile,
        basis_fd: int | None,
        *,
        place: Callable[[NewFile], None],
        discard: Callable[[NewFile], None],
    ) -> None:
        self.basis_fd = basis_fd
        self._new = new
        self._place = place
        self._discard = discard
        self._hasher = blake3()
        self._hashed_bytes = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write ``data`` at ``offset``; pages of it that are all zero become holes.

        Does not keep ``data``.

        Raises:
            ContentCorrupt: it reaches past the end.
            StoreError: this disk.
        """
        if offset < 0 or offset + len(data) > self._new.entry.size:
            raise ContentCorrupt(
                f"{shown(self._new.entry.name)}: bytes past its end of {self._new.entry.size}"
            )
        # In order, which is usual, hashing here saves reading everything again at the end.
        if offset == self._hashed_bytes:
            self._hasher.update(data)
            self._hashed_bytes += len(data)
        with storing(self._new.entry.name):
            write_sparse(self._new.fd, memoryview(data), offset)

    def copy(self, offset: int, *, basis_offset: int, length: int) -> None:
        """Write ``length`` bytes that the basis has at ``basis_offset`` at ``offset``.

        Raises:
            ContentCorrupt: there is no basis, or it ends before, or this file does.
            StoreError: this disk.
        """
        if self.basis_fd is None:
            raise ContentCorrupt(f"{shown(self._new.entry.name)} replaces nothing")
        while length > 0:
            with storing(self._new.entry.name):
                data = read_piece(self.basis_fd, basis_offset, min(length, PIECE_BYTES))
            if not data:
                raise ContentCorrupt(f"{shown(self._new.entry.name)}: its basis ends before")
            self.write(offset, data)
            offset += len(data)
            basis_offset += len(data)
            length -= len(data)

    def finish(self) -> None:
        """Verify the whole content, then put the file in place.

        Raises:
            ContentCorrupt: it is not what was wanted. What was written is removed, and the
                content is still wanted: ``open_large`` may be called again.
            StoreError: this disk.
        """
        entry = self._new.entry
        try:
            with storing(entry.name):
                if self._hashed_bytes == entry.size:
                    actual = Digest(self._hasher.digest())
                else:
                    actual = hash_file(self._new.fd, entry.size)
            if actual != entry.digest:
                raise ContentCorrupt(
                    f"{shown(entry.name)} has the digest {short(actual)}, "
                    f"not {short(entry.digest)}"
                )
            self._close_basis()
            self._place(self._new)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove what has been written. Idempotent; does nothing after ``finish``."""
        self._close_basis()
        if self._new.fd >= 0:
            self._discard(self._new)

    def _close_basis(self) -> None:
        if self.basis_fd is not None:
            os.close(self.basis_fd)
            self.basis_fd = None


@contextmanager
def storing(path: bytes) -> Iterator[None]:
    """Turn what this disk answers into a ``StoreError`` that names ``path`` and below it."""
    try:
        yield
    except OSError as exc:
        name = exc.filename
        text = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
        at = path + b"/" + text if isinstance(text, bytes) and text != path else path
        raise StoreError(f"{shown(at.lstrip(b'/'))}: {exc.strerror}") from exc


def read_piece(fd: int, offset: int, length: int) -> bytes:
    """Read ``length`` bytes, less at the end of the file only."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def write_sparse(fd: int, view: memoryview, offset: int) -> None:
    """Write ``view`` at ``offset`` of a file of zeros, leaving out pages that are all zero."""
    length = len(view)
    start = 0
    at = -offset % _PAGE
    while at + _PAGE <= length:
        # One byte decides for nearly every page: 13 us a MiB.
        if not view[at] and view[at : at + _PAGE] == _ZERO_PAGE:
            write_all(fd, view[start:at], offset + start)
            start = at + _PAGE
        at += _PAGE
    write_all(fd, view[start:], offset + start)


def copy_sparse(source: int, target: int, size: int) -> None:
    """Copy ``size`` bytes into a file of zeros, holes and pages of zeros left out."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return
        at -= at % _PAGE
        count = os.preadv(source, [buffer[: min(PIECE_BYTES, size - at)]], at)
        if not count:
            return
        write_sparse(target, buffer[:count], at)
        at += count


def hash_file(fd: int, size: int) -> Digest:
    """Return the BLAKE3 of the first ``size`` bytes."""
    hasher = blake3()
    buffer = memoryview(bytearray(min(PIECE_BYTES, max(size, 1))))
    at = 0
    while at < size and (count := os.preadv(fd, [buffer], at)):
        hasher.update(buffer[: min(count, size - at)])
        at += count
    return Digest(hasher.digest())
