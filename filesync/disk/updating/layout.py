"""The directories of an update: what is in the way goes, what is missing is made."""

import errno
import os
import stat
from collections.abc import Container, Iterator
from contextlib import suppress
from typing import Final

from filesync.disk.handles import DIRECTORY_FLAGS, DirectoryHandles, remove_tree
from filesync.disk.reserved import is_reserved, is_work
from filesync.disk.updating.metadata import DEFAULT_ACL, Metadata, chmod_unopened
from filesync.disk.updating.reuse import Sources
from filesync.disk.updating.visits import Needs, Visit, below, gone
from filesync.disk.updating.work import NOTE_PREFIX, Directories, WorkDirectory, storing
from filesync.errors import StoreError
from filesync.manifest import Directory, Entry, Manifest, Subdirectory, is_name, with_entries

_WRITABLE: Final = 0o700


def sweep(root: int, *, keep: bytes) -> set[bytes]:
    """Remove the work directories that killed updates left in ``root``, but for ``keep``.

    And the files of theirs elsewhere below it that they have noted (see ``WorkDirectory.noted``).

    Returns:
        The paths of those.

    Raises:
        StoreError: one cannot be removed.
    """
    swept: set[bytes] = set()
    with os.scandir(root) as entries:
        names = [os.fsencode(entry.name) for entry in entries]
    for name in names:
        if is_reserved(name) and name != keep:
            swept.update(path for path in _notes(root, name) if _unlink_noted(root, path))
            remove_tree(root, name)
    return swept


def _notes(root: int, name: bytes) -> Iterator[bytes]:
    """Yield the paths that are noted in a work directory, if ``name`` is one."""
    try:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=root)
    except OSError:
        return
    try:
        for note in map(os.fsencode, os.listdir(fd)):
            if note.startswith(NOTE_PREFIX):
                with suppress(OSError):  # not a link
                    yield os.readlink(note, dir_fd=fd)
    finally:
        os.close(fd)


def _unlink_noted(root: int, path: bytes) -> bool:
    """Remove a file that has a name of ours; say whether it was there.

    Anybody may have written the note: it leads to nothing but such a file below the root.
    """
    directory, _, name = path.rpartition(b"/")
    if not is_work(name) or not all(map(is_name, path.split(b"/"))):
        return False
    try:
        with DirectoryHandles(root) as handles:
            os.unlink(name, dir_fd=handles.open(directory))
    except (OSError, StoreError):
        return False
    return True


def open_up(fd: int) -> None:
    """Let the owner of a directory change it, and what is created there have plain modes."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if os.geteuid() != 0 and mode & _WRITABLE != _WRITABLE:
        os.fchmod(fd, mode | _WRITABLE)
    drop_default_acl(fd)


def drop_default_acl(fd: int) -> None:
    """Let what is created in a directory have the modes that it is created with."""
    with suppress(OSError):
        os.removexattr(fd, DEFAULT_ACL)


class Layout:
    """Brings directories into being, and at the end gives them their metadata.

    Attributes:
        removed: names that were taken away.
    """

    def __init__(
        self,
        root: Directories,
        work: WorkDirectory,
        *,
        target: Manifest,
        sources: Sources,
        moved: set[bytes],
        swept: Container[bytes] = (),
    ) -> None:
        """Touch nothing yet.

        Args:
            root: the tree's directories.
            work: where to set aside.
            target: the tree that shall be.
            sources: what the old tree has.
            moved: gets the paths of new directories that are old ones, moved as a whole.
            swept: what the old tree had and ``sweep`` removed.
        """
        self._swept = swept
        self.removed = 0
        self._moved = moved
        self._has_opened = False
        self._root = root
        self._work = work
        self._sources = sources
        # Making the work directory has changed the root's mtime, if nothing else will.
        self._touched = {b"": with_entries(target.root, ())}
        self._target = target
        self._is_superuser = os.geteuid() == 0

    def clear(self, visit: Visit, needs: Needs) -> None:
        """Move aside what is gone, and what is in the way of another kind.

        Where nothing is needed again, files are unlinked at once.

        Raises:
            StoreError: this disk; or it does not hold the basis.
        """
        if visit.old is None:
            return
        self._open_up(visit.path, visit.old)
        with self._root.held(visit.path) as dirfd, storing(visit.path):
            if any(name == DEFAULT_ACL for name, _ in visit.old.xattrs):
                drop_default_acl(dirfd)
            for entry in gone(visit):
                # What a scan may have seen of a killed update was swept.
                is_swept = (not visit.path and is_reserved(entry.name)) or (
                    below(visit.path, entry.name) in self._swept
                )
                if not is_swept:
                    self._take_away(visit.path, dirfd, entry, keep=needs.is_any)
        if needs.is_any:
            self._sources.note_stays(visit, needed=needs.digests)

    def make(self, visit: Visit) -> None:
        """Make the new directories in one, or move them there; all are 0700 until ``seal``.

        Raises:
            StoreError: this disk; or it does not hold the basis.
        """
        self.touch(visit)
        if not visit.fresh:
            return
        with self._root.held(visit.path) as dirfd, storing(visit.path):
            for entry in visit.fresh:
                path = below(visit.path, entry.name)
                # A name of a hard-link group may link to what does not move along.
                if not entry.links and self._move(dirfd, entry):
                    self._moved.add(path)
                    # A rename changes the times of the directories above, not its own.
                    if self._has_opened:
                        header = with_entries(self._target.directory(entry.tree), ())
                        self._touched[path] = header
                else:
                    self.make_one(dirfd, entry.name)

    def make_one(self, dirfd: int, name: bytes) -> None:
        """Make the directory ``name`` in the directory ``dirfd``.

        Raises:
            OSError: this disk.
        """
        os.mkdir(name, _WRITABLE, dir_fd=dirfd)

    def touch(self, visit: Visit) -> None:
        """Take note that a directory needs its metadata in the end."""
        self._touched[visit.path] = with_entries(visit.new, ())

    def seal(self, metadata: Metadata, *, root_times: bool) -> None:
        """Give all directories that were entered their metadata, the deepest first.

        Without ``root_times`` it is no loss that the root cannot keep its own.

        Raises:
            StoreError: this disk.
        """
        for path in sorted(self._touched, key=_depth, reverse=True):
            header = self._touched.pop(path)
            with self._root.held(path) as fd, storing(path):
                metadata.sync(fd, header, times=root_times or bool(path))
                if not root_times and not path:
                    with suppress(PermissionError):
                        os.utime(fd, ns=(header.mtime_ns, header.mtime_ns))

    def _open_up(self, path: bytes, header: Directory) -> None:
        # The root was opened up before all else.
        if not path or self._is_superuser or header.mode & _WRITABLE == _WRITABLE:
            return
        mode = header.mode | _WRITABLE
        parent, _, name = path.rpartition(b"/")
        # Another's may be on the way to what is ours, with nothing in it to be changed.
        with self._root.held(parent) as dirfd, storing(path), suppress(PermissionError):
            chmod_unopened(dirfd, name, mode, stat.S_IFDIR)

    def _take_away(self, path: bytes, dirfd: int, entry: Entry, *, keep: bool) -> None:
        self.removed += 1
        is_directory = isinstance(entry, Subdirectory)
        if not keep and not is_directory:
            os.unlink(entry.name, dir_fd=dirfd)
            return
        name = self._work.free_name()
        try:
            if is_directory:
                self._has_opened |= _move_directory(dirfd, entry.name, self._work.fd, name)
            else:
                os.rename(entry.name, name, src_dir_fd=dirfd, dst_dir_fd=self._work.fd)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            # On another file system nothing can be set aside, nor be used again.
            remove_tree(dirfd, entry.name)
            return
        if keep:
            self._sources.note_aside(path, entry, name)

    def _move(self, dirfd: int, entry: Subdirectory) -> bool:
        where = self._sources.take_tree(entry.tree)
        if where is None:
            return False
        try:
            with self._work.trash.held(where.path) as source:
                self._has_opened |= _move_directory(source, where.name, dirfd, entry.name)
        except StoreError:
            return False  # What held it was moved before it, with it.
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EXDEV):
                return False
            raise
        return True


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0


def _move_directory(from_fd: int, name: bytes, to_fd: int, to: bytes) -> bool:
    """Rename a directory; say whether its mode had to be changed for that."""
    try:
        os.rename(name, to, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except PermissionError:
        # A directory's '..' is written to when it moves, so it must be writable itself.
        chmod_unopened(from_fd, name, _WRITABLE, stat.S_IFDIR)
        os.rename(name, to, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        return True
    return False
