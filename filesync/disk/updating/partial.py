"""Partial files: large contents on their way, which outlive an update that does not finish.

Each is a file named by its content's digest, or by what stands for that (``filesync.early``), in one
directory beside the work directory. What is written in it stands where it belongs; the rest is a
hole. Nothing in it is trusted: who goes on
from it proves it piece by piece, and the whole is hashed before it gets its name.
"""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.disk.entries import names_of
from filesync.disk.handles import DIRECTORY_FLAGS, READ_FLAGS
from filesync.disk.removing import remove_tree
from filesync.disk.reserved import PARTIAL_NAME
from filesync.early import EARLY_BYTES, stand_in_of
from filesync.manifest import File
from filesync.process.descriptors import Quota

_DIGEST_BYTES: Final = 32
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_EXTENTS: Final = 65_536
_ROOM_BYTES: Final = 4 << 20
"""With less than this left on its disk no partial file is kept: others need the room more."""
MOST_READY: Final = 64
"""They are held open until they are put in place."""
_OPEN: Final = Quota(8)
"""Of all places together, whose givers may hold 64 each. More than that are let go of, and gone on with."""
_NOT_THERE: Final = (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES)


class Partial(NamedTuple):
    """One partial file, open and locked.

    Attributes:
        fd: for reading and writing.
        name: in the directory of partial files.
        extents: (start, end) of what it held when it was opened, ascending; none if it is new.
    """

    fd: int
    name: bytes
    extents: list[tuple[int, int]]


class Ready(NamedTuple):
    """One that came whole, open and locked, and the path that it came for."""

    fd: int
    path: bytes


class Partials:
    """The partial files beside one work directory. For several threads at once.

    Attributes:
        fd: their directory; -1 as long as there is none.
        found: the bytes that each held when it was last let go of, by digest.
        ready: those that came whole before anybody knew their digests, by digest.
    """

    def __init__(self, parent: int) -> None:
        """They are in the directory ``parent``, a descriptor that stays the caller's."""
        self._parent = parent
        self._lock = threading.Lock()
        self.fd = -1
        self.found: dict[Digest, int] = {}
        self.ready: dict[Digest, Ready] = {}

    def look(self) -> None:
        """Find what is there; call it once.

        What is not ours is removed: nobody but this user can have had a hand in the rest.

        Raises:
            StoreError, OSError: what stands in the way cannot be removed.
        """
        self.fd = self._open()
        for name in names_of(self.fd) if self.fd >= 0 else ():
            digest = _digest_of(os.fsdecode(name))
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if digest is None or not _is_ours(status):
                self._remove(name)
            else:
                self.found[digest] = status.st_blocks * 512

    def keep_only(self, wanted: Container[Digest | None]) -> None:
        """Remove those that are not wanted any more, here or by another update."""
        for digest in [digest for digest in self.ready if digest not in wanted]:
            self.release(self.pop_ready(digest), digest, keep=False)
        for digest in [digest for digest in self.found if digest not in wanted]:
            del self.found[digest]
            self._remove(partial_name(digest))

    def keep_for(self, missing: Iterable[tuple[bytes, File]]) -> None:
        """Keep only what is of use where files (path, entry) are missing; see ``keep_only``."""
        wanted: set[Digest | None] = set()
        paths = {one.path: digest for digest, one in self.ready.items()}
        for path, file in missing:
            is_ready = file.digest in self.ready
            wanted.add(file.digest if is_ready else paths.get(path, self.left_of(file)))
        self.keep_only(wanted)

    def left_of(self, file: File) -> Digest | None:
        """Return what the partial file of ``file`` is called that was found; None if none was."""
        if not self.found:
            return None
        if file.digest in self.found:
            return file.digest
        early = stand_in_of(file.size, file.mtime_ns) if file.size >= EARLY_BYTES else None
        return early if early in self.found else None

    def open(self) -> None:
        """Open their directory, made if need be. Idempotent.

        Raises:
            OSError: this disk; or they are closed.
        """
        with self._lock:
            if self.fd < 0:
                with suppress(FileExistsError):
                    os.mkdir(PARTIAL_NAME, 0o700, dir_fd=self._parent)
                try:
                    self.fd = os.open(PARTIAL_NAME, DIRECTORY_FLAGS, dir_fd=self._parent)
                except OSError:  # no descriptor is free; nobody might come back to it
                    with suppress(OSError):
                        os.rmdir(PARTIAL_NAME, dir_fd=self._parent)
                    raise

    def take(self, file: File) -> Partial | None:
        """Open the partial file of ``file``, or make one.

        None if another update is writing it, or has removed their directory.

        Raises:
            OSError: this disk.
        """
        self.open()
        with self._lock:
            return self._take(file)

    def _take(self, file: File) -> Partial | None:
        name, fd = partial_name(file.digest), -1
        try:
            if (left := self.left_of(file)) is not None:
                if left != file.digest:
                    os.rename(partial_name(left), name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
                    self.found[file.digest] = self.found.pop(left)
                fd = self._open_old(name)
            if fd < 0:
                fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.fd)
            if _lock(fd, name, self.fd):
                os.ftruncate(fd, file.size)
                return Partial(fd, name, _extents(fd, file.size))
        except (FileExistsError, FileNotFoundError):
            pass
        except BaseException:
            if fd >= 0:
                self.release(fd, file.digest, keep=True)  # with nothing in it, it goes
            raise
        if fd >= 0:
            os.close(fd)
        return None

    def take_early(self, file: File) -> Partial | None:
        """Make the partial file of ``file``, of whose digest nobody knows but what stands for it.

        None if another update is writing it, or some of it is there, or something that may be all of it; or
        if as many are ready as may be.

        Raises:
            OSError: this disk.
        """
        if len(self.ready) >= MOST_READY or self._may_have(file.size):
            return None
        if (partial := self.take(file)) is None:
            return None
        if partial.extents:
            self.release(partial.fd, file.digest, keep=True)
            return None
        return partial

    def set_ready(self, partial: Partial, digest: Digest, path: bytes) -> None:
        """Have what came whole for ``path``, and has ``digest``, be found by that; its descriptor is ours now.

        Of several that turn out to be alike the first one stays, of which the others can be copies; and so
        does one that is being written, be it whole or not.

        Raises:
            OSError: this disk; or they are closed.
        """
        with self._lock:  # closed meanwhile, they would never let go of it
            if self._renamed(partial.name, digest):
                if _OPEN.take():
                    self.ready[digest] = Ready(partial.fd, path)
                else:
                    self.release(partial.fd, digest, keep=True)
            else:
                os.unlink(partial.name, dir_fd=self.fd)
                os.close(partial.fd)

    def pop_ready(self, digest: Digest) -> int:
        """Return the descriptor of what came whole and has ``digest``, which is the caller's now."""
        _OPEN.give_back()
        return self.ready.pop(digest).fd

    def give_up_ready(self, path: bytes, file: File) -> None:
        """Have what came whole for ``path`` be the partial file of ``file``, which is there in the end.

        It has changed since, most likely a little, as logs do.

        Raises:
            OSError: this disk.
        """
        if file.size < EARLY_BYTES:
            return
        with self._lock:
            came = [digest for digest, one in self.ready.items() if one.path == path]
            if not came:
                return
            fd, digest = self.pop_ready(came[0]), came[0]
            try:
                if self._renamed(partial_name(digest), file.digest):
                    digest = file.digest
            finally:
                self.release(fd, digest, keep=True)

    def release(self, fd: int, digest: Digest, *, keep: bool) -> None:
        """Close one that is not put in place.

        Not kept is one with nothing in it, and any on a disk that is full.
        """
        try:
            held_bytes = os.fstat(fd).st_blocks * 512 if keep and _has_room(fd) else 0
            if held_bytes:
                self.found[digest] = held_bytes
                return
            self.found.pop(digest, None)
            with suppress(FileNotFoundError):
                os.unlink(partial_name(digest), dir_fd=self.fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Let go of the directory, for good; it stays if something is in it. Idempotent."""
        with self._lock:
            for digest in tuple(self.ready):
                os.close(self.pop_ready(digest))
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
                with suppress(OSError):
                    os.rmdir(PARTIAL_NAME, dir_fd=self._parent)
            self._parent = -1  # its number may be another's soon

    def _may_have(self, size: int) -> bool:
        """Say whether a file of this size was found: it may have come whole for an update that failed then."""
        for digest in tuple(self.found):
            with suppress(FileNotFoundError):
                if os.stat(partial_name(digest), dir_fd=self.fd).st_size == size:
                    return True
        return False

    def _renamed(self, name: bytes, digest: Digest) -> bool:
        """Have a partial file be that of ``digest``, unless somebody is writing another one; say so.

        Whoever writes that would put this in place.
        """
        to = partial_name(digest)
        self._remove(to)
        self.found.pop(digest, None)
        try:
            os.stat(to, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            return True
        return False

    def _remove(self, name: bytes) -> None:
        """Remove what has ``name``, unless another update is writing it, or puts it in place."""
        try:
            fd = os.open(name, READ_FLAGS, dir_fd=self.fd)
        except OSError:  # a link, or gone
            remove_tree(self.fd, name)
            return
        try:
            if _lock(fd, name, self.fd):
                remove_tree(self.fd, name)
        finally:
            os.close(fd)

    def _open(self) -> int:
        try:
            fd = os.open(PARTIAL_NAME, DIRECTORY_FLAGS, dir_fd=self._parent)
        except FileNotFoundError:
            return -1
        except OSError:
            remove_tree(self._parent, PARTIAL_NAME)
            return -1
        status = os.fstat(fd)
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            return fd
        os.close(fd)
        remove_tree(self._parent, PARTIAL_NAME)
        return -1

    def _open_old(self, name: bytes) -> int:
        try:
            fd = os.open(name, _FLAGS, dir_fd=self.fd)
        except OSError as exc:
            if exc.errno not in _NOT_THERE:
                raise
            return -1
        # One that was linked from elsewhere meanwhile must not be written to.
        if _is_ours(os.fstat(fd)):
            return fd
        os.close(fd)
        os.unlink(name, dir_fd=self.fd)
        return -1


def _lock(fd: int, name: bytes, dirfd: int) -> bool:
    """Lock a file unless another update has it; False also if it has been put in place meanwhile."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return False
    return there.st_ino == os.fstat(fd).st_ino


def _has_room(fd: int) -> bool:
    disk = os.fstatvfs(fd)
    return disk.f_bavail * disk.f_frsize >= _ROOM_BYTES


def _is_ours(status: os.stat_result) -> bool:
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid == os.geteuid()
        and status.st_nlink == 1
        and not status.st_mode & 0o7177
    )


def _extents(fd: int, size: int) -> list[tuple[int, int]]:
    """Return where a file has data; a file of too many pieces is emptied and has none."""
    found: list[tuple[int, int]] = []
    at = 0
    try:
        while at < size and len(found) <= _MAX_EXTENTS:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
    if len(found) > _MAX_EXTENTS:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size)
        return []
    return found


def partial_name(digest: Digest) -> bytes:
    """Return what the partial file of a content is called."""
    return digest.hex().encode()


def _digest_of(name: str) -> Digest | None:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return Digest(digest) if len(digest) == _DIGEST_BYTES and digest.hex() == name else None
