"""Owner, mode, times and xattrs of what stands on disk.

The order is data, owner, mode, xattrs, times: a change of owner or content drops
``security.capability`` and the setuid bit, and everything but the last step changes a time.
"""

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec

from filesync.disk.handles import READ_FLAGS, shown
from filesync.disk.scanning.readfile import is_kept, read_xattrs
from filesync.errors import StoreError
from filesync.manifest import File, Special, Symlink, Xattrs

T = TypeVar("T")
Owner = tuple[int, int]
"""A user and a group, by number."""
_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""What an ordinary user, or a file system without the feature, is told."""
_SAME: Final = -1
"""To chown(2): this is not to change."""
DEFAULT_ACL: Final = b"system.posix_acl_default"


@contextmanager
def passing_refusals() -> Iterator[None]:
    """Let the block go without what cannot be kept here; what else is wrong is raised."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise


class HasMetadata(Protocol):
    """A file's or a directory's entry."""

    @property
    def mode(self) -> int:
        """Permission bits with setuid, setgid and sticky."""

    @property
    def uid(self) -> int:
        """The owner."""

    @property
    def gid(self) -> int:
        """The group."""

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def xattrs(self) -> Xattrs:
        """Names and values, ascending."""


class Created:
    """What files get that are created in one directory: learnt from the first of them.

    Looking costs one ``fstat`` a directory, and is right with setgid directories, ``grpid``
    mounts and file servers that map users.
    """

    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner: Owner | None = None


class Metadata:
    """Sets metadata; what cannot be kept here is counted by kind and is no error.

    For several threads at once.

    Args:
        groups: those that files may be given, whose users are left alone; None for all of them, and
            for users, as far as this user may.

    Attributes:
        special_bits: of a mode, those that creating a file with it may not give; all, until
            somebody who knows the umask says otherwise.
        is_made_shared: the directory in which files are made that are moved later (see ``adopt``)
            gives them its group.
    """

    def __init__(self, *, groups: frozenset[int] | None = None) -> None:
        self._groups = groups
        self._lock = threading.Lock()
        self._not_kept = Counter[str]()
        self._chown_refused = False
        self.special_bits = 0o7777
        self.is_made_shared = False

    @property
    def not_kept(self) -> dict[str, int]:
        """How many files lack something, by kind; see ``UpdateStats``."""
        with self._lock:
            return dict(self._not_kept)

    def lose(self, kind: str) -> None:
        """Count something that cannot be kept."""
        with self._lock:
            self._not_kept[kind] += 1

    @contextmanager
    def losing(self, kind: str) -> Iterator[None]:
        """Count what the block does not get as it cannot be kept here; what else is wrong is raised."""
        try:
            yield
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
            self.lose(kind)

    def set_new(
        self, fd: int, entry: HasMetadata, created: Created, *, home: int | None = None
    ) -> None:
        """Complete a file that was created with ``entry.mode & 0o777``.

        ``home`` is the directory that it is to be moved to, if it was made elsewhere.
        """
        if (owner := created.owner) is None:
            status = os.fstat(fd)
            owner = created.owner = (status.st_uid, status.st_gid)
        if home is not None:
            self.adopt(fd, entry, home)
        if owner != (wanted := self._owner(entry, owner)):
            self._chown(fd, wanted, owner)
        if entry.mode & self.special_bits:
            self._chmod(fd, entry.mode)
        for name, value in entry.xattrs:
            self._set_xattr(fd, name, value)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def adopt(
        self, fd: int, entry: HasMetadata, home: int, *, made_in: int | None = None
    ) -> None:
        """Give a file that was made elsewhere the group that files made in the directory ``home`` get.

        But not where ``entry`` gives it a group. ``made_in`` is the directory in which it was made,
        if that is not the usual one (see ``is_made_shared``).
        """
        if self._gives_group(entry):
            return
        is_shared = self.is_made_shared if made_in is None else gives_group(made_in)
        if (gid := _group_of(home, is_made_shared=is_shared)) != _SAME:
            with passing_refusals():
                os.fchown(fd, -1, gid)

    def with_group_of(self, fd: int, entry: File) -> File:
        """Return ``entry`` with the group that ``fd`` has, where it gives none."""
        if self._gives_group(entry):
            return entry
        return msgspec.structs.replace(entry, gid=os.fstat(fd).st_gid)

    def sync(self, fd: int, entry: HasMetadata, *, times: bool = True) -> None:
        """Make an existing file's or directory's metadata ``entry``'s; touch only what differs.

        Not its times, unless ``times``.
        """
        status = os.fstat(fd)
        owner = (status.st_uid, status.st_gid)
        is_chowned = owner != (wanted := self._owner(entry, owner))
        if is_chowned:
            self._chown(fd, wanted, owner)
        if stat.S_IMODE(status.st_mode) != entry.mode or (is_chowned and entry.mode & 0o6000):
            self._chmod(fd, entry.mode)
        self._sync_xattrs(fd, entry.xattrs)
        if times and status.st_mtime_ns != entry.mtime_ns:
            with self.losing("mtime"):
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def is_refused(self, fd: int, entry: File) -> bool:
        """Say whether this user would have to change a file's mode or times, and may not: it is another's."""
        if self._groups is None:
            return False  # root
        status = os.fstat(fd)
        has = (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        if status.st_uid == os.geteuid() or has == (entry.mode, entry.mtime_ns):
            return False
        try:
            # Only a file's owner may, whoever a server or mount option has that be.
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        except OSError as exc:
            return exc.errno in _REFUSED
        return False

    def sync_unopened(
        self, dirfd: int, name: bytes, entry: Symlink | Special, *, home: int | None = None
    ) -> None:
        """Do the same to a link or special file, which is not opened.

        ``home`` is the directory that it is to be moved to, if it was made elsewhere.
        """
        if home is not None and not self._gives_group(entry):
            gid = _group_of(home, is_made_shared=self.is_made_shared)
            with passing_refusals():
                os.chown(name, -1, gid, dir_fd=dirfd, follow_symlinks=False)
        status = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        owner = (status.st_uid, status.st_gid)
        is_chowned = owner != (wanted := self._owner(entry, owner))
        if is_chowned:
            with self.losing(self._lost):
                os.chown(name, *wanted, dir_fd=dirfd, follow_symlinks=False)
        # A change of owner takes setuid and setgid away, of devices and FIFOs too.
        if isinstance(entry, Special) and (
            status.st_mode != entry.mode or (is_chowned and entry.mode & 0o6000)
        ):
            self._chmod_unopened(dirfd, name, entry.mode)
        # /proc leads to the held directory; the one name after it is not followed.
        self._sync_xattrs(b"/proc/self/fd/%d/%s" % (dirfd, name), entry.xattrs)
        with self.losing("mtime"):
            times = (entry.mtime_ns, entry.mtime_ns)
            os.utime(name, ns=times, dir_fd=dirfd, follow_symlinks=False)

    def _owner(self, entry: HasMetadata | Symlink | Special, has: Owner) -> Owner:
        """Return whose ``entry`` is to be, where what stands for it is whose ``has`` says."""
        if self._groups is None:
            return entry.uid, entry.gid
        return has[0], entry.gid if entry.gid in self._groups else has[1]

    def _gives_group(self, entry: HasMetadata | Symlink | Special) -> bool:
        return self._groups is None or entry.gid in self._groups

    @property
    def _lost(self) -> str:
        """What is lost where an owner cannot be changed: a group, to who changes no user."""
        return "owner" if self._groups is None else "group"

    def _chown(self, fd: int, wanted: Owner, owner: Owner) -> None:
        """Change what differs; the group alone where the user is refused."""
        uid, gid = (
            -1 if want == has else want for want, has in zip(wanted, owner, strict=True)
        )
        if uid == -1 or not self._chown_refused:
            try:
                os.fchown(fd, uid, gid)
            except OSError as exc:
                if exc.errno not in _REFUSED:
                    raise
                self._chown_refused |= uid != -1
            else:
                return
        self.lose(self._lost)
        if uid != -1 and gid != -1:
            try:
                os.fchown(fd, -1, gid)
            except OSError as exc:
                if exc.errno not in _REFUSED:
                    raise

    def _chmod(self, fd: int, mode: int) -> None:
        with self.losing("mode"):
            os.fchmod(fd, mode)
            if mode & stat.S_ISGID:
                self._check_setgid(os.fstat(fd), mode)

    def _chmod_unopened(self, dirfd: int, name: bytes, mode: int) -> None:
        with self.losing("mode"):
            chmod_unopened(dirfd, name, stat.S_IMODE(mode), stat.S_IFMT(mode))
            self._check_setgid(os.stat(name, dir_fd=dirfd, follow_symlinks=False), mode)

    def _check_setgid(self, status: os.stat_result, mode: int) -> None:
        # The kernel drops it silently for a group that the user is not in.
        if mode & stat.S_ISGID & ~status.st_mode:
            self.lose("mode")

    def _sync_xattrs(self, file: int | bytes, wanted: Xattrs) -> None:
        has = dict(_as_owner(file, lambda: read_xattrs(file, b"")))
        for name, value in wanted:
            if has.pop(name, None) != value:
                self._set_xattr(file, name, value)
        follow = isinstance(file, int)
        for name in has:
            with self.losing("xattr"):
                _as_owner(file, partial(os.removexattr, file, name, follow_symlinks=follow))

    def _set_xattr(self, file: int | bytes, name: bytes, value: bytes) -> None:
        if not is_kept(name):
            # A tree must not bring what steers this machine: labels, overlayfs' own marks.
            self.lose("xattr")
            return
        follow = isinstance(file, int)
        with self.losing("xattr"):
            _as_owner(file, partial(os.setxattr, file, name, value, follow_symlinks=follow))


def gives_group(directory: int) -> bool:
    """Say whether what is made in a directory is of its group."""
    return bool(os.fstat(directory).st_mode & stat.S_ISGID)


def _group_of(home: int, *, is_made_shared: bool) -> int:
    """Return the group that files made in ``home`` get; ``_SAME`` if those made elsewhere get it, too."""
    status = os.fstat(home)
    if status.st_mode & stat.S_ISGID:
        return status.st_gid
    return os.getegid() if is_made_shared else _SAME


def _as_owner(file: int | bytes, act: Callable[[], T]) -> T:
    """Return what ``act`` does to the xattrs of ``file``, whatever mode that has.

    The file's mode decides who may read and write those of users, however it was opened.
    """
    try:
        return act()
    except OSError as exc:
        if exc.errno != errno.EACCES or not isinstance(file, int):
            raise
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    os.fchmod(file, mode | 0o600)
    try:
        return act()
    finally:
        os.fchmod(file, mode)


def chmod_unopened(dirfd: int, name: bytes, mode: int, kind: int) -> None:
    """Change the mode of ``name``, which cannot be opened, following no link.

    Raises:
        StoreError: it is not of the type ``kind`` any more.
        OSError: it is not there, or not ours.
    """
    # Python's chmod by dir_fd follows links. A descriptor of the mere place does not.
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        if stat.S_IFMT(os.fstat(place).st_mode) != kind:
            raise StoreError(f"{shown(name)} was replaced while it was being updated")
        os.chmod(f"/proc/self/fd/{place}", mode)
    finally:
        os.close(place)


def open_existing(dirfd: int, name: bytes) -> int:
    """Open a regular file for reading, giving its owner the right to first if need be.

    Raises:
        StoreError: it is not a regular file any more.
        OSError: it is not there, or not ours.
    """
    try:
        fd = os.open(name, READ_FLAGS, dir_fd=dirfd)
    except PermissionError:
        mode = stat.S_IMODE(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)
        chmod_unopened(dirfd, name, mode | 0o400, stat.S_IFREG)
        fd = os.open(name, READ_FLAGS, dir_fd=dirfd)
        os.fchmod(fd, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(f"{shown(name)} was replaced while it was being updated")
    return fd
