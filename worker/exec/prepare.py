"""Makes a root ready for one run, and takes out again what the run needed and no ref may show."""

import os
import posixpath
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from filesync.errors import LocalError, PathMissing
from worker.exec.check import check_target, clean_target, is_below
from worker.exec.errors import BadExec
from worker.exec.mountpoints import MountPoints
from worker.exec.policy import ROOT_TARGETS
from worker.exec.rooted import (
    Location,
    locate,
    make_directories,
    open_below,
    open_root,
)
from worker.exec.spec import Bind, Identity, SecretFile, Shown, Throwaway, Tmpfs
from worker.exec.user import User, read_accounts, resolve_user
from worker.wire.ops import BindMount, CacheMount, Mount, SecretMount, SshMount, TmpfsMount

T = TypeVar("T")


class Given(NamedTuple):
    """What mounts show that is not an input's.

    Attributes:
        caches: directories, by the cache's id.
        secrets: data, by the secret's id.
        sockets: at which an agent answers.
    """

    caches: Mapping[str, Path]
    secrets: Mapping[str, bytes]
    sockets: Mapping[SshMount, Path]


class Preparation:
    """One root between ``open`` and ``close``. Use it as a context manager. Blocks.

    Attributes:
        root: the root's real path.
        identity: its device and inode.
    """

    def __init__(self, root: Path, inputs: Mapping[int, Path]) -> None:
        self.root = Path(os.path.realpath(root))
        self._inputs = inputs
        self._root_fd = open_root(self.root)
        self._fds = [self._root_fd]
        self._points = MountPoints(self._root_fd)
        self._placed: dict[str, str] = {}
        self.identity = identity_of(self._root_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the mount-points and close every descriptor."""
        try:
            self._points.remove()
        finally:
            while self._fds:
                os.close(self._fds.pop())

    def user(self, text: str) -> User:
        """Return whom ``user[:group]`` means here.

        Raises:
            UserUnknown: the root's account files do not name it.
        """
        return resolve_user(text, *read_accounts(self._root_fd))

    def make_cwd(self, cwd: str, mounts: tuple[Mount, ...]) -> None:
        """Make the working directory where it is missing; it stays. Call it first.

        One that is below a mount is not in this root, and left to the runtime.

        Raises:
            BadExec: it leads through something that is no directory.
        """
        cwd = clean_target(cwd)
        where = self._locate(cwd)
        hidden = [*ROOT_TARGETS, *(clean_target(mount.target) for mount in mounts)]
        if not any(is_below(path, tree) for path in (cwd, where.path) for tree in hidden):
            _resolved(cwd, lambda: make_directories(self._root_fd, where))

    def place_standard(self) -> None:
        """Make the mount-points of /proc, /dev and /sys.

        Raises:
            BadExec: one is a link to somewhere else, or no directory.
        """
        for target in ROOT_TARGETS:
            where = self._locate(target)
            if where.path != target:
                raise BadExec(f"{target} of the root leads to {where.path}")
            self._make_point(target, where, directory=True)

    def place(self, target: str, *, directory: bool) -> str:
        """Make the mount-point of ``target``, clean, and return the path it resolves to.

        Targets are placed parents first. What lies below an earlier target is not in this
        root: the runtime makes it in what is mounted there.

        Raises:
            BadExec: nothing can be mounted there.
        """
        covering = self.covering(target)
        if covering is not None:
            return self._placed[covering] + target[len(covering) :]
        where = self._locate(target)
        check_target(where.path)
        self._make_point(target, where, directory=directory)
        return where.path

    def covering(self, target: str) -> str | None:
        """Return the deepest target placed so far that ``target`` is, or is below."""
        return max((t for t in self._placed if is_below(target, t)), key=len, default=None)

    def show(self, mount: Mount, given: Given) -> Shown:
        """Return how ``mount`` is shown, its mount-point made and its source held open.

        Raises:
            BadExec: nothing can be mounted there, or what the source names cannot be shown.
            PathMissing: the input does not have the source.
        """
        target = clean_target(mount.target)
        match mount:
            case TmpfsMount():
                return Tmpfs(self.place(target, directory=True), mount.size_bytes)
            case CacheMount():
                path = given.caches[mount.id]
                where = self.place(target, directory=True)
                identity = identity_of(self._hold(open_root(path)))
                return Bind(path, where, identity, read_only=mount.read_only)
            case SecretMount():
                where = self.place(target, directory=False)
                data = given.secrets[mount.id]
                return SecretFile(where, data, mount.mode, mount.uid, mount.gid)
            case SshMount():
                path = given.sockets[mount]
                status = path.lstat()
                where = self.place(target, directory=False)
                return Bind(path, where, (status.st_dev, status.st_ino), directory=False)
            case BindMount():
                return self._show_input(mount, target)

    def _show_input(self, mount: BindMount, target: str) -> Shown:
        if mount.input not in self._inputs:
            raise LocalError(f"input {mount.input} was not given")
        base = Path(os.path.realpath(self._inputs[mount.input]))
        base_fd = self._hold(open_root(base))
        try:
            where = locate(base_fd, mount.source)
        except OSError as error:
            raise PathMissing(mount.source) from error
        if where.missing:
            raise PathMissing(mount.source)
        fd = self._hold(open_below(base_fd, where.names))
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise BadExec(f"{mount.source!r} is neither a file nor a directory")
        directory = stat.S_ISDIR(mode)
        at = self.place(target, directory=directory)
        path = base.joinpath(*where.names)
        if mount.writable:
            return Throwaway(path, at, identity_of(fd), directory=directory)
        return Bind(path, at, identity_of(fd), directory=directory)

    def _locate(self, path: str) -> Location:
        return _resolved(path, lambda: locate(self._root_fd, path))

    def _make_point(self, target: str, where: Location, *, directory: bool) -> None:
        covered = any(is_below(where.path, path) for path in self._placed.values())
        if not covered:
            _resolved(target, lambda: self._points.make(where, directory=directory))
        self._placed[target] = where.path

    def _hold(self, fd: int) -> int:
        self._fds.append(fd)
        return fd


def identity_of(fd: int) -> Identity:
    """Return the device and inode of an open file."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def depth(target: str) -> int:
    """Return how deep a mount's target lies; targets are placed in this order."""
    return len([part for part in posixpath.normpath(target).split("/") if part])


def _resolved(target: str, act: Callable[[], T]) -> T:
    try:
        return act()
    except OSError as error:
        raise BadExec(f"{target} cannot be used: {error.strerror or error}") from error
