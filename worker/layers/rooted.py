"""A tree that a layer is unpacked into, reached through directory descriptors only.

A link on the way to a name is followed as it would be inside a container: an absolute one starts
again at the root and '..' stops there. The last name of a path is never followed; what stands
there is replaced. The kernel is never given a path that could lead out.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from filesync.disk.entries import names_of
from filesync.disk.handles import NEW_FLAGS, DirectoryHandles, shown
from filesync.disk.removing import remove_tree
from filesync.disk.scanning.readfile import is_kept
from filesync.disk.updating.metadata import DEFAULT_ACL, Created, Metadata
from filesync.disk.updating.visits import below
from filesync.errors import StoreError
from filesync.manifest import MAX_DEPTH, Directory, Special, Symlink
from worker.layers.errors import BadLayer
from worker.layers.hardlinks import Groups
from worker.layers.member import BLOCK, CHARACTER, DIRECTORY, FIFO, Member

MAX_LINKS: Final = 255

_TYPES: Final = {CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_MADE_ON_THE_WAY: Final = Directory(0o755, 0, 0, 0, (), ())


class _Before(NamedTuple):
    """What is given back to a directory that no member speaks of."""

    mode: int
    mtime_ns: int
    default_acl: bytes | None


class Rooted:
    """The tree below one root while a layer is unpacked. For one thread.

    Paths are those of directories and files themselves, no link in them. Methods raise
    ``OSError`` for what the disk says, ``BadLayer`` for what is the layer's fault.

    Attributes:
        metadata: sets modes, owners and times; counts what cannot be kept.
    """

    def __init__(self, root: Path, groups: Groups) -> None:
        """Open ``root``, whose tree has the hard links ``groups``; use it as a context."""
        self.metadata = Metadata()
        self._handles = DirectoryHandles(root)
        self._headers: dict[bytes, Directory | _Before] = {}
        self._created: dict[bytes, Created] = {}
        self._own = {b""}
        self._groups = groups
        self._joined: set[bytes] = set()
        self._resolved: dict[bytes, bytes] = {}
        self._knows_umask = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    # --- finding --------------------------------------------------------------------------

    def enter(self, parts: Sequence[bytes]) -> bytes:
        """Return the path of the directory that ``parts`` lead to; what is missing is made."""
        key = b"/".join(parts)
        if (known := self._resolved.get(key)) is None:
            known = self._resolve(parts, make=True)
            assert known is not None
            self._resolved[key] = known
        return known

    def find_directory(self, parts: Sequence[bytes]) -> bytes | None:
        """Return the same, or None where something is missing or no directory."""
        known = self._resolved.get(b"/".join(parts))
        return known if known is not None else self._resolve(parts, make=False)

    # --- making ---------------------------------------------------------------------------

    def set_root(self, member: Member) -> None:
        """Give the root itself the metadata of ``member``."""
        if member.kind != DIRECTORY:
            raise BadLayer("the root of a layer is not a directory")
        self._open_to_change(b"")
        self._headers[b""] = _header(member)

    def make_directory(self, directory: bytes, name: bytes, member: Member) -> None:
        """Make a directory, or keep the one that is there and give it this metadata."""
        fd = self._open_to_change(directory)
        path = below(directory, name)
        if not self._is_directory(fd, name):
            self._clear(fd, directory, name)
            self._make_directory(fd, path, name)
        else:
            self._open_to_change(path)
        self._headers[path] = _header(member)
        self._note(path)

    @contextmanager
    def new_file(self, directory: bytes, name: bytes, member: Member) -> Iterator[int]:
        """Give a new file to be written, and complete it at the end of the block."""
        fd = self._open_to_change(directory)
        if not self._knows_umask:
            self._learn_umask(fd)
        try:
            new = os.open(name, NEW_FLAGS, member.mode & 0o777, dir_fd=fd)
        except FileExistsError:
            self._clear(fd, directory, name)
            new = os.open(name, NEW_FLAGS, member.mode & 0o777, dir_fd=fd)
        try:
            yield new
            created = self._created.setdefault(directory, Created())
            self.metadata.set_new(new, _kept(member), created)
        finally:
            os.close(new)
        self._note(below(directory, name))

    def make_link(self, directory: bytes, name: bytes, target: bytes) -> None:
        """Give the file at ``target`` one more name."""
        above, _, last = target.rpartition(b"/")
        self._clear(self._open_to_change(directory), directory, name)
        with self._handles.pinned(directory) as fd:
            try:
                source = self._handles.open(above)
                # Python's link follows a link at its source as soon as it has a dir_fd.
                os.link(last, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
            except (FileNotFoundError, StoreError, PermissionError) as exc:
                path = shown(below(directory, name))
                raise BadLayer(f"{path} cannot be a link to {shown(target)}") from exc
        if target not in self._own and target not in self._joined:
            self._join_others(target)
        self._note(below(directory, name))

    def make_symlink(self, directory: bytes, name: bytes, member: Member) -> None:
        """Make a symlink; its text is kept to the letter."""
        if not member.link:
            raise BadLayer(f"{shown(member.path)} is a link to nothing")
        fd = self._clear(self._open_to_change(directory), directory, name)
        os.symlink(member.link, name, dir_fd=fd)
        entry = Symlink(
            name, member.uid, member.gid, member.mtime_ns, member.link, _kept(member).xattrs
        )
        self.metadata.sync_unopened(fd, name, entry)
        self._note(below(directory, name))

    def make_special(self, directory: bytes, name: bytes, member: Member) -> None:
        """Make a FIFO or a device node."""
        if member.kind == CHARACTER and not (member.major or member.minor):
            raise BadLayer(f"{shown(member.path)} is the device by which overlays hide names")
        fd = self._clear(self._open_to_change(directory), directory, name)
        entry = Special(
            name,
            _TYPES[member.kind] | member.mode,
            member.uid,
            member.gid,
            member.mtime_ns,
            member.major,
            member.minor,
            _kept(member).xattrs,
        )
        device = os.makedev(member.major, member.minor)
        os.mknod(name, entry.mode, 0 if member.kind == FIFO else device, dir_fd=fd)
        self.metadata.sync_unopened(fd, name, entry)
        self._note(below(directory, name))

    # --- removing -------------------------------------------------------------------------

    def remove_old(self, directory: bytes, name: bytes) -> None:
        """Remove what ``name`` was before this layer; what the layer made stays."""
        path = below(directory, name)
        if path not in self._own:
            self._clear(self._open_to_change(directory), directory, name)
        elif self._is_directory(self._handles.open(directory), name):
            self.clear_old(path)

    def clear_old(self, directory: bytes) -> None:
        """Remove all below ``directory`` that was there before this layer."""
        todo = [directory]
        while todo:
            at = todo.pop()
            for name in names_of(self._handles.open(at)):
                if below(at, name) not in self._own:
                    self._clear(self._open_to_change(at), at, name)
                elif self._is_directory(self._handles.open(at), name):
                    todo.append(below(at, name))

    def finish(self) -> None:
        """Give all directories their metadata, the deepest first."""
        for path in sorted(self._headers, key=lambda path: path.split(b"/"), reverse=True):
            header = self._headers[path]
            try:
                fd = self._handles.open(path)
            except StoreError as exc:
                if _code(exc) in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later member took its place
                raise
            if isinstance(header, Directory):
                self.metadata.sync(fd, header)
            else:
                _give_back(fd, header)

    # --- inside ---------------------------------------------------------------------------

    def _resolve(self, parts: Sequence[bytes], *, make: bool) -> bytes | None:
        at: list[bytes] = []
        todo = deque(parts)
        links = 0
        while todo:
            name = todo.popleft()
            if name == b"..":
                del at[-1:]
                continue
            directory, path = b"/".join(at), b"/".join((*at, name))
            if self._is_there(path):
                at.append(name)
                continue
            text = self._read_link(directory, name)
            if text is None:
                if not make:
                    return None
                self._make_on_the_way(directory, name, len(at))
                at.append(name)
                continue
            links += 1
            if links > MAX_LINKS:
                raise BadLayer(f"{shown(b'/'.join(parts))} goes through too many links")
            if text.startswith(b"/"):
                at.clear()
            todo.extendleft(p for p in reversed(text.split(b"/")) if p not in (b"", b"."))
        return b"/".join(at)

    def _is_there(self, path: bytes) -> bool:
        """Say whether a directory is at ``path``, whose own directory is one."""
        try:
            self._handles.open(path)
        except StoreError as exc:
            if _code(exc) in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    def _read_link(self, directory: bytes, name: bytes) -> bytes | None:
        """Return a link's text, or None where nothing is.

        Raises:
            BadLayer: it is a file, which nothing can be in.
        """
        try:
            return os.readlink(name, dir_fd=self._handles.open(directory))
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise BadLayer(f"{shown(below(directory, name))} is not a directory") from exc

    def _join_others(self, target: bytes) -> None:
        """Give the other names of a file that was there before to the file that it is now.

        To link to a file of a lower directory, an overlay makes it another one, alone.
        """
        others = self._groups.others(target)
        self._joined.update((target, *others))
        above, _, last = target.rpartition(b"/")
        for other in others:
            if other in self._own:
                continue  # this layer has made it anew
            directory, _, name = other.rpartition(b"/")
            with suppress(FileNotFoundError, StoreError):  # this layer has removed it
                self._join(directory, name, above, last)

    def _join(self, directory: bytes, name: bytes, above: bytes, last: bytes) -> None:
        """Make ``name`` one file with ``last`` in the directory ``above``, unless it is."""
        with self._handles.pinned(directory) as fd:
            has = os.stat(name, dir_fd=fd, follow_symlinks=False)
            source = self._handles.open(above)
            if os.path.samestat(has, os.stat(last, dir_fd=source, follow_symlinks=False)):
                return
            self._open_to_change(directory)
            os.unlink(name, dir_fd=fd)
            source = self._handles.open(above)
            os.link(last, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)

    def _make_on_the_way(self, directory: bytes, name: bytes, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise BadLayer(f"more than {MAX_DEPTH} directories inside each other")
        path = below(directory, name)
        self._make_directory(self._open_to_change(directory), path, name)
        self._headers[path] = _MADE_ON_THE_WAY
        self._note(path)

    def _make_directory(self, fd: int, path: bytes, name: bytes) -> None:
        os.mkdir(name, 0o700, dir_fd=fd)
        self._created.pop(path, None)

    def _open_to_change(self, directory: bytes) -> int:
        """Open a directory whose entries will change, noting what it was like."""
        fd = self._handles.open(directory)
        if directory not in self._headers:
            status = os.fstat(fd)
            acl = None
            with suppress(OSError):
                acl = os.getxattr(fd, DEFAULT_ACL)
                os.removexattr(fd, DEFAULT_ACL)  # or it would show in all that is made here
            mode = stat.S_IMODE(status.st_mode)
            self._headers[directory] = _Before(mode, status.st_mtime_ns, acl)
            if mode & 0o700 != 0o700 and os.geteuid() != 0:
                os.fchmod(fd, mode | 0o700)
        return fd

    def _learn_umask(self, fd: int) -> None:
        """Find out what creating a file takes away from its mode: most need no ``fchmod`` then."""
        self._knows_umask = True
        with suppress(OSError):  # not every file system can make a file without a name
            new = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o777, dir_fd=fd)
            try:
                self.metadata.special_bits = 0o7000 | (0o777 & ~os.fstat(new).st_mode)
            finally:
                os.close(new)

    def _clear(self, fd: int, directory: bytes, name: bytes) -> int:
        """Remove ``name``, whatever it is, and return ``fd``, which stays valid."""
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return fd
        except OSError as exc:
            if exc.errno not in (errno.EISDIR, errno.EPERM):
                raise
            self._handles.forget(below(directory, name))
            remove_tree(fd, name)
        self._resolved.clear()
        return fd

    def _is_directory(self, fd: int, name: bytes) -> bool:
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode)

    def _note(self, path: bytes) -> None:
        """Note that this layer made ``path``, so that its own whiteouts leave it alone."""
        while path not in self._own:
            self._own.add(path)
            path = path.rpartition(b"/")[0]


def _give_back(fd: int, before: _Before) -> None:
    if stat.S_IMODE(os.fstat(fd).st_mode) != before.mode:
        os.fchmod(fd, before.mode)
    if before.default_acl is not None:
        os.setxattr(fd, DEFAULT_ACL, before.default_acl)
    os.utime(fd, ns=(before.mtime_ns, before.mtime_ns))


def _header(member: Member) -> Directory:
    kept = _kept(member)
    return Directory(kept.mode, kept.uid, kept.gid, kept.mtime_ns, kept.xattrs, ())


def _kept(member: Member) -> Member:
    """Return ``member`` without the xattrs that are a machine's own."""
    if not member.xattrs:
        return member
    return member._replace(xattrs=tuple(x for x in member.xattrs if is_kept(x[0])))


def _code(exc: StoreError) -> int | None:
    return exc.__cause__.errno if isinstance(exc.__cause__, OSError) else None
