"""The tree that an op changes. Everything in it may have been planted by an earlier command.

Paths are resolved here, one name at a time, links followed inside the root; what comes out
holds no links, and every use of it goes through descriptors that follow none.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from filesync.digest import Digest
from filesync.disk.handles import DirectoryHandles
from filesync.disk.removing import remove_tree
from filesync.errors import StoreError
from filesync.trees.select import clean
from worker.exec.rooted import Location, locate
from worker.exec.user import read_accounts, resolve_owner
from worker.files.errors import BadMode, BadPath, PathInTheWay

Owner = tuple[int, int]


class Place(msgspec.Struct, frozen=True):
    """Where a path leads: ``found`` is there and holds no links, ``missing`` is not there."""

    found: bytes
    missing: tuple[bytes, ...]
    is_directory: bool

    @property
    def path(self) -> bytes:
        """The whole path, as it would be."""
        return b"/".join((*filter(None, (self.found,)), *self.missing))


class Tree:
    """A writable directory and what an op has done to it so far. For one thread.

    Attributes:
        root_fd: the root, open for reading.
        handles: the directories below it.
        hints: size and digest of the files that were written, by path.
    """

    def __init__(self, root: Path) -> None:
        self.handles = DirectoryHandles(root)
        self.root_fd = self.handles.open(b"")
        self._root_ns = os.fstat(self.root_fd).st_mtime_ns
        self.hints: dict[bytes, tuple[int, Digest]] = {}
        self._times: dict[bytes, int | None] = {}
        self._modes: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.handles.close()

    def find(self, path: bytes) -> Place:
        """Follow ``path`` inside the root, a link at its end included.

        Raises:
            PathInTheWay: something on the way is no directory.
            BadPath: a loop, a NUL, or '..' behind what is not there.
        """
        found = located(self.root_fd, b"/".join(clean(path)), path)
        place = b"/".join(os.fsencode(name) for name in found.names)
        missing = tuple(os.fsencode(name) for name in found.missing)
        return Place(place, missing, bool(missing) or self.is_directory(place))

    def is_directory(self, path: bytes) -> bool:
        """Say whether a real directory, not a link to one, is at ``path``, which is there."""
        if not path:
            return True
        above, name = split(path)
        fd = self.handles.open(above)
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)

    def make_directories(
        self, place: Place, *, owner: Owner | None = None, mode: int = 0o755
    ) -> bytes:
        """Make what is missing of ``place`` and return its path.

        New directories have ``mode``, in the end, and, without ``owner``, are root's.

        Raises:
            PathInTheWay: it is there and no directory.
        """
        if not place.is_directory:
            raise PathInTheWay(f"cannot copy to non-directory: {text_of(place.path)}")
        return self.make_below(place.found, place.missing, owner=owner, mode=mode)

    def make_below(
        self,
        path: bytes,
        names: tuple[bytes, ...],
        *,
        owner: Owner | None = None,
        mode: int = 0o755,
    ) -> bytes:
        """Make the directories ``names``, each in the one before, below ``path``.

        Raises:
            BadMode: nobody but root could go on in what has ``mode``.
        """
        if names and os.geteuid() and mode & 0o500 != 0o500:
            raise BadMode(
                f"{text_of(join(path, names[0]))}: a directory that is made on the way would be {mode:04o},"
                " which only root can enter; make it in a step before, or have a worker that runs as root"
            )
        for name in names:
            os.mkdir(name, 0o700, dir_fd=self.handles.open(path))
            self.touch(path)
            path = join(path, name)
            fd = self.handles.open(path)
            os.fchown(fd, *(owner or (os.geteuid(), os.getegid())))
            # Who is not root must write to it meanwhile.
            os.fchmod(fd, mode | 0o700)
            if mode & 0o700 != 0o700:
                self._modes[path] = mode
            self.touch(path)
        return path

    def make_way(self, dirfd: int, path: bytes) -> None:
        """Remove the file or link at ``path``, whose directory ``dirfd`` is, if there is one.

        Raises:
            PathInTheWay: a directory is there.
        """
        try:
            os.unlink(split(path)[1], dir_fd=dirfd)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            sentence = f"cannot replace directory {text_of(path)} with a file"
            raise PathInTheWay(sentence) from None
        self.hints.pop(path, None)

    def remove(self, path: bytes) -> None:
        """Remove whatever is at ``path``, with all below it; no link is followed."""
        self.handles.forget(path)
        self.remove_untouched(path)
        below = path + b"/"
        for kept in (self.hints, self._times, self._modes):
            for gone in [at for at in kept if at == path or at.startswith(below)]:
                del kept[gone]

    def remove_untouched(self, path: bytes) -> None:
        """Do that where nothing at ``path``, or below it, was opened or changed here before.

        What is known of the rest is not looked through, so many can go.
        """
        above, name = split(path)
        with self.handles.pinned(above) as dirfd:
            remove_tree(dirfd, name)
        self.touch(above)

    def touch(self, path: bytes) -> None:
        """Note that names in the directory ``path`` have changed."""
        self._times.setdefault(path, None)

    def set_time_later(self, path: bytes, mtime_ns: int) -> None:
        """Give the directory ``path``, which has its mode, this mtime after what is still put into it."""
        self._times[path] = mtime_ns
        self._modes.pop(path, None)

    def set_time(self, path: bytes, mtime_ns: int) -> None:
        """Give the directory ``path`` this mtime, until more is put into it."""
        os.utime(self.handles.open(path), ns=(mtime_ns, mtime_ns))
        self._times.pop(path, None)

    def has_time(self, path: bytes) -> None:
        """Note that the directory ``path`` is finished and has its mtime, and its mode."""
        self._times.pop(path, None)
        self._modes.pop(path, None)

    def settle(self, now_ns: int | None) -> None:
        """Set the mtimes of changed directories, and modes that would have kept us out of them.

        Those of no source get ``now_ns``, if given. Only the root keeps the time that it had: a layer
        in which it has another one says so, and ``COPY f /`` would never make the same layer twice.
        """
        for path, own_ns in self._times.items():
            mtime_ns = own_ns
            if mtime_ns is None:
                mtime_ns = now_ns if path else self._root_ns
            if mtime_ns is not None:
                os.utime(self.handles.open(path), ns=(mtime_ns, mtime_ns))
        self._times.clear()
        for path in sorted(self._modes, reverse=True):
            os.fchmod(self.handles.open(path), self._modes[path])
        self._modes.clear()

    def owner_of(self, text: str) -> Owner | None:
        """Return whom ``user[:group]`` names in this tree; None for an empty text.

        Raises:
            UserUnknown: nobody.
        """
        return resolve_owner(text, *read_accounts(self.root_fd)) if text else None


def located(root_fd: int, path: bytes, asked: bytes) -> Location:
    """Resolve ``path`` below ``root_fd`` and say in our words what is wrong with ``asked``.

    Raises:
        PathInTheWay: something on the way is no directory.
        BadPath: a loop, a NUL, or '..' behind what is not there.
    """
    if b"\0" in path:
        raise BadPath(f"{text_of(asked)}: a path cannot have a NUL in it")
    try:
        return locate(root_fd, os.fsdecode(path))
    except NotADirectoryError as exc:
        raise PathInTheWay(f"cannot copy to non-directory: {text_of(asked)}") from exc
    except FileNotFoundError as exc:
        raise BadPath(f"{text_of(asked)}: a link on the way leads nowhere") from exc
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        raise BadPath(f"{text_of(asked)}: too many links on the way") from exc


@contextmanager
def changing(path: bytes) -> Iterator[None]:
    """Turn what this disk answers into a ``StoreError`` that names ``path``."""
    try:
        yield
    except OSError as exc:
        raise StoreError(f"{text_of(path)}: {exc.strerror}") from exc


def join(above: bytes, name: bytes) -> bytes:
    """Return the path of ``name`` in the directory ``above``."""
    return above + b"/" + name if above else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory of ``path`` and the name in it."""
    above, _, name = path.rpartition(b"/")
    return above, name


def text_of(path: bytes) -> str:
    """Return ``path`` for people: absolute, with all that is not printable escaped."""
    text = path.decode("utf-8", "backslashreplace").lstrip("/")
    return "/" + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
