"""Where a sync reads and writes: directories that an operator, or a peer below a root, names."""

import enum
import errno
import fcntl
import os
import stat
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from filesync.disk.entries import entries_of
from filesync.disk.handles import (
    DIRECTORY_FLAGS,
    DirectoryHandles,
    open_root,
    shown,
    why_no_root,
)
from filesync.errors import PathMissing, StoreError, UsageError
from filesync.manifest.node import is_name
from filesync.sync.filter import Filter
from filesync.sync.ticks import tick_of
from filesync.trees.united import depth_of

if TYPE_CHECKING:
    from filesync.disk.updating.staging import Staging

_ABOVE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ON_THE_WAY: Final = _ABOVE | os.O_NOFOLLOW
"""It need not be one that this user may list."""


Identity = tuple[int, int]
"""A directory's device and inode."""


class Kind(enum.Enum):
    """What a name stands for."""

    DIRECTORY = enum.auto()
    OTHER = enum.auto()


class Claimed(StoreError):
    """Somebody else is giving to the directory. Try again later.

    Attributes:
        directory: that one.
    """

    code = "claimed"

    def __init__(self, message: str, directory: Identity) -> None:
        super().__init__(message)
        self.directory = directory


class Place:
    """A directory, or names in it. Close it when the sync is over.

    Attributes:
        root: the directory, as a path that leads to it until this is closed.
        names: what of it; None for all.
        trees: those of them that are directories are meant with all that is in them.
        united: directories below the names, each as many names down, in their order, where what is
            in them is meant as if it were in one directory (see ``united``).
        label: the path for people.
    """

    united: tuple[bytes, ...] = ()

    def __init__(
        self,
        fd: int,
        root: Path | None,
        *,
        names: frozenset[bytes] | None,
        trees: bool = False,
        label: bytes,
    ) -> None:
        self._fd = fd
        self.root = Path(f"/proc/self/fd/{fd}") if root is None else root
        self.names = names
        self.trees = trees
        self.label = label

    @property
    def is_of_files(self) -> bool:
        """It is names, of which none is meant with what is in it."""
        return self.names is not None and not self.trees

    @property
    def depth(self) -> int:
        """How many names down what is meant begins."""
        return depth_of(self.united) if self.united else 0

    def kind_of(self, name: bytes) -> Kind | None:
        """Return what ``name`` in the directory is; None if it is not there, or cannot be told."""
        if not is_name(name):
            return None
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return None
        return Kind.DIRECTORY if stat.S_ISDIR(status.st_mode) else Kind.OTHER

    @property
    def is_empty(self) -> bool:
        """It is a directory with nothing in it whatever, and not only names that are none."""
        if self.is_of_files:
            return False
        with entries_of(self._fd) as found:
            return next(found, None) is None

    @property
    def is_free(self) -> bool:
        """It is empty, and may be given to while it is not known yet what comes."""
        return self.is_writable and self.is_empty

    @property
    def is_writable(self) -> bool:
        """This user can write in the directory, as it is or (see ``open_up``) as its owner."""
        return why_no_root(self._fd) == 0

    @property
    def identity(self) -> Identity:
        """The directory's."""
        return _identity(self._fd)

    @cached_property
    def tick_ns(self) -> int:
        """What the times of files in it are multiples of."""
        return tick_of(self._fd)

    def is_in(self, directory: Identity) -> bool:
        """Say whether it is below ``directory``, or is that; not where it cannot be told."""
        return _is_in(os.dup(self._fd), directory)

    @cached_property
    def staging(self) -> "Staging":
        """Where large files come before it is known what becomes of the directory; closed with the place."""
        from filesync.disk.updating.staging import Staging

        return Staging(self.root, self.label)

    def handles(self) -> DirectoryHandles:
        """Return what opens directories in it, for as long as the caller likes."""
        return DirectoryHandles(self._fd)

    def is_bare(self, filter: Filter) -> bool:
        """Say whether it is all of a directory, with nothing in it that ``filter`` lets through."""
        if self.names is not None:
            return False
        with entries_of(self._fd) as found:
            return all(
                filter.excludes(os.fsencode(one.name), one.is_dir(follow_symlinks=False))
                for one in found
            )

    def claim(self) -> None:
        """Keep others from giving to the directory, until it is closed or this process ends.

        Raises:
            Claimed: somebody else is giving to it.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Claimed(
                f"someone else is giving to {shown(self.label)}; try again later",
                self.identity,
            ) from None
        except OSError:
            return  # a file system without locks

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        try:
            if "staging" in self.__dict__:
                self.staging.close()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


class Places(Protocol):
    """What paths mean."""

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``.

        Raises:
            OSError: it is not there, or no directory.
        """

    def path_of(self, path: bytes) -> Path | None:
        """Return a name of the directory ``path`` for this process, if it is safe to use one."""

    def is_link(self, path: bytes) -> bool:
        """Say whether ``open`` would follow a link at the end of ``path``."""


def local_path(text: str) -> bytes:
    """Return the local path that a user wrote.

    Raises:
        UsageError: it is empty, or ``is_remote``.
    """
    if not text:
        raise UsageError("an empty path names nothing; write '.' for the current directory")
    if is_remote(text):
        raise UsageError(
            f"{text}: write it as host:path, as tcp://host:port/path where a `filesync serve` "
            f"runs there (rsync's daemon is not known), or as ./{text} if it is on this machine"
        )
    return os.fsencode(text)


def is_remote(text: str) -> bool:
    """Say whether a source or destination is on another machine: a colon comes before any slash."""
    return ":" in text.partition("/")[0]


def leads_into(path: bytes, directory: Identity) -> bool:
    """Say whether a local path is in a directory, or is to be made there; see ``Place.is_in``."""
    for one in (path, os.path.dirname(path.rstrip(b"/")) or b"."):
        with suppress(OSError):
            return _is_in(os.open(one, _ABOVE), directory)
    return False


def _is_in(fd: int, directory: Identity) -> bool:
    """Say whether what ``fd`` is, which this closes, is below ``directory``, or is that."""
    try:
        here = _identity(fd)
        while here != directory:
            below, fd = fd, os.open("..", _ABOVE, dir_fd=fd)
            os.close(below)
            below_it, here = here, _identity(fd)
            if here == below_it:  # the root
                return False
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class LocalPlaces:
    """Paths that the user of this process gives: links are followed as ever."""

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``."""
        if b"\0" in path:  # by a peer that a remote shell has let in
            raise UsageError(f"{shown(path)} is no path")
        return os.open(path or b".", _DIRECTORY)

    def path_of(self, path: bytes) -> Path | None:
        """Return ``path`` itself."""
        return Path(os.fsdecode(path or b"."))

    def is_link(self, path: bytes) -> bool:
        """Say whether ``path`` is a link."""
        return os.path.islink(path)


class ServedPlaces:
    """Paths below ``root`` that a peer gives: no link is followed, and '..' is refused."""

    def __init__(self, root: Path) -> None:
        self._root = root
        os.close(open_root(root))

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``."""
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if any(name == b".." or b"\0" in name for name in names):
            raise UsageError(f"{shown(path)} is not a path below the served directory")
        fd = open_root(self._root)
        try:
            for left, name in zip(range(len(names))[::-1], names, strict=True):
                flags = _ON_THE_WAY if left else DIRECTORY_FLAGS
                parent, fd = fd, _enter(fd, name, flags)
                os.close(parent)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def path_of(self, path: bytes) -> Path | None:
        """Return None: a name could lead elsewhere by the time that it is used."""

    def is_link(self, path: bytes) -> bool:
        """Say no: none is followed."""
        return False


def _enter(fd: int, name: bytes, flags: int) -> int:
    """Open the directory ``name`` in ``fd``; what says that it is none says of a link that it is one."""
    try:
        return os.open(name, flags, dir_fd=fd)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise OSError(
                errno.ELOOP, "it leads over a link, and none is followed here"
            ) from None
        raise


def not_found(path: bytes, exc: OSError, advice: str = "") -> PathMissing | StoreError:
    """Return what says why ``path`` could not be opened: that it is not there, or else.

    ``advice`` is for who has to do something where it is not there.
    """
    if isinstance(exc, NotADirectoryError):
        how = "; name it without the last slash" if path.endswith(b"/") else ""
        return StoreError(f"{shown(path)} is not a directory{how}")
    if isinstance(exc, FileNotFoundError):
        return PathMissing(os.fsdecode(path), advice)
    return StoreError(f"{shown(path)} cannot be read: {exc.strerror}")


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory of ``path``, and the name in it.

    Raises:
        UsageError: it ends in no name.
    """
    directory, slash, name = path.rstrip(b"/").rpartition(b"/")
    if not is_name(name):
        raise UsageError(f"{shown(path)} does not name a file")
    return (directory or slash), name
