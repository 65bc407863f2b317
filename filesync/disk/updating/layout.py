"""The directories of an update: what is in the way goes, what is missing is made."""

import enum
import errno
import os
import stat
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from typing import Final

from filesync.disk.entries import entries_of, names_of
from filesync.disk.handles import DIRECTORY_FLAGS, DirectoryHandles
from filesync.disk.removing import remove_tree
from filesync.disk.reserved import WORK_PREFIX, is_reserved, is_work
from filesync.disk.updating.metadata import (
    DEFAULT_ACL,
    Metadata,
    chmod_unopened,
    passing_refusals,
)
from filesync.disk.updating.refusals import Refusals, is_gone, is_single
from filesync.disk.updating.removal import OnRefused, Remover
from filesync.disk.updating.reuse import Reusable
from filesync.disk.updating.visits import Needs, Visit, below, depth_of, gone
from filesync.disk.updating.work import NOTE_PREFIX, Directories, WorkDirectory, storing
from filesync.errors import StoreError
from filesync.manifest import Directory, Entry, Manifest, Subdirectory, is_name

_WRITABLE: Final = 0o700
_NOT_MOVED: Final = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EXDEV,
    errno.EBUSY,
    errno.ENOTDIR,
)


class RootTimes(enum.Enum):
    """What the times of an update's root are afterwards."""

    GIVEN = "the target's"
    KEPT = "what they were, if this user may do that"
    TOUCHED = "those of what was done in it"


def sweep(root: int, refusals: Refusals) -> set[bytes]:
    """Remove the work directories that killed updates left in ``root``.

    And the files that they have noted elsewhere below it (see ``WorkDirectory.noted``), but not the
    partial files, which may be wanted.

    Returns:
        The paths of the noted files that were removed.

    Raises:
        StoreError, OSError: one cannot be removed, and that is no refusal.
    """
    swept: set[bytes] = set()
    with entries_of(root) as entries:
        names = [one.name for one in entries if one.name.startswith(os.fsdecode(WORK_PREFIX))]
    for name in map(os.fsencode, names):
        if is_work(name):
            swept.update(path for path in _notes(root, name) if _unlink_noted(root, path))
            _remove(root, name, refusals, path=name)
    return swept


def _remove(dirfd: int, name: bytes, refusals: Refusals, *, path: bytes) -> int:
    """Remove a tree, which is to be known as ``path``; return how many names had to stay."""
    if not refusals.goes_on:
        remove_tree(dirfd, name)
        return 0
    with Remover(dirfd) as remover:
        return remover.remove(name, _refused_in(path, name, refusals))


def _refused_in(path: bytes, name: bytes, refusals: Refusals) -> OnRefused:
    """Return what notes the refusals in a tree that was ``path`` and is called ``name`` now."""

    def refused(inner: bytes, error: OSError) -> None:
        refusals.note(path + inner[len(name) :], error)

    return refused


def _notes(root: int, name: bytes) -> Iterator[bytes]:
    """Yield the paths that are noted in a work directory, if ``name`` is one."""
    try:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=root)
    except OSError:
        return
    try:
        for note in names_of(fd):
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
    """Brings directories into being, and at the end gives them their metadata."""

    def __init__(
        self,
        root: Directories,
        work: WorkDirectory,
        *,
        target: Manifest,
        reusable: Reusable,
        moved: set[bytes],
        refusals: Refusals,
        swept: Container[bytes] = (),
    ) -> None:
        """Touch nothing yet.

        Args:
            root: the tree's directories.
            work: where to set aside.
            target: the tree that shall be.
            reusable: what the old tree has.
            moved: gets the paths of new directories that are old ones, moved as a whole.
            refusals: gets what cannot be done.
            swept: what the old tree had and ``sweep`` removed.
        """
        self._swept = swept
        self._refusals = refusals
        self._moved = moved
        self._has_opened = (
            False  # directories, so that they could be moved; their modes come last
        )
        self._keeps_files = False  # set aside as directories are: something may be made of them
        self._first_aside = b""  # the name of the first; the next have the numbers that follow
        self._root = root
        self._work = work
        self._reusable = reusable
        # Making the work directory has changed the root's mtime, if nothing else will.
        self._touched = {b"": target.header}
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
        self._keeps_files = needs.is_any
        with self._root.held(visit.path) as dirfd, storing(visit.path):
            if any(name == DEFAULT_ACL for name, _ in visit.old.xattrs):
                drop_default_acl(dirfd)
            for entry in self._going(visit):
                self._take_away(visit, dirfd, entry)
        if needs.is_any:
            self._reusable.note_stays(visit, needs)

    def make(self, visit: Visit) -> None:
        """Make the new directories in one, or move them there; all are 0700 until ``seal``.

        Raises:
            StoreError: this disk; or it does not hold the basis.
        """
        self.touch(visit)
        if not visit.fresh:
            return
        blocked = self._refusals.blocked(visit.path)
        with self._root.held(visit.path) as dirfd, storing(visit.path):
            for entry in visit.fresh:
                path = below(visit.path, entry.name)
                # A name of a hard-link group may link to what does not move along.
                if entry.name in blocked:
                    self._refusals.directories.add(path)
                elif not entry.links and self._move(dirfd, entry):
                    self._moved.add(path)
                    # A rename changes the times of the directories above, not its own.
                    if self._has_opened:
                        header = Manifest(entry.tree, self._target.nodes).header
                        self._touched[path] = header
                else:
                    self.make_one(dirfd, path, names=1 + entry.entries)

    def make_one(self, dirfd: int, path: bytes, *, names: int) -> None:
        """Make the directory ``path``, of so many ``names``, in the directory ``dirfd``.

        Raises:
            OSError: this disk, and that is no refusal.
        """
        try:
            _make_directory(dirfd, path.rpartition(b"/")[2])
        except OSError as exc:
            if is_gone(dirfd, exc):
                raise
            self._refusals.note(path, exc, uncreated=names)
            self._refusals.directories.add(path)

    def touch(self, visit: Visit) -> None:
        """Take note that a directory needs its metadata in the end."""
        self._touched[visit.path] = visit.new
        if self._may_share_else(visit):
            self.share(visit.path, visit.new)

    def share(self, path: bytes, header: Directory) -> None:
        """Have a directory give its group to what is made in it, or not, as far as this user may.

        Raises:
            StoreError: this disk.
        """
        if self._is_superuser:  # who can give each file any group
            return
        is_shared = header.mode & stat.S_ISGID
        with self._root.held(path) as fd, storing(path), passing_refusals():
            if is_shared:
                os.fchown(fd, -1, header.gid)
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & stat.S_ISGID != is_shared:
                os.fchmod(fd, mode ^ stat.S_ISGID)

    def discard(self, visits: Iterable[Visit]) -> None:
        """Remove the directories that were set aside, and put back what of them is refused.

        Args:
            visits: those that were cleared, in that order.

        Raises:
            StoreError: this disk.
        """
        if not self._refusals.goes_on or not self._first_aside:
            return
        with Remover(self._work.fd) as remover:
            for visit, entry, name in self._asides(visits):
                path = below(visit.path, entry.name)
                with storing(path):
                    if left := remover.remove(name, _refused_in(path, name, self._refusals)):
                        self._put_back(visit, entry, name)
                        self._stay(visit, entry, left)

    def _asides(self, visits: Iterable[Visit]) -> Iterator[tuple[Visit, Subdirectory, bytes]]:
        """Yield again the directories that were set aside, and the names that they got."""
        # Remembered it would be as much as there is to be removed.
        number = int(self._first_aside, 16)
        for visit in visits:
            if visit.old is None:
                continue
            for entry in self._going(visit):
                if isinstance(entry, Subdirectory):
                    yield visit, entry, b"%x" % number
                if self._keeps_files or isinstance(entry, Subdirectory):
                    number += 1

    def _put_back(self, visit: Visit, entry: Subdirectory, name: bytes) -> None:
        """Put what is left of a directory where it was, in place of what has come there."""
        with self._root.held(visit.path) as dirfd:
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=dirfd)
            _move_directory(self._work.fd, name, dirfd, entry.name)
            # Moving it may have opened it up; another's it cannot have, nor may it be changed.
            if (
                self._has_opened
                and (mode := self._reusable.mode_of(entry)) is not None
                and mode != _mode(dirfd, entry.name)
            ):
                chmod_unopened(dirfd, entry.name, mode, stat.S_IFDIR)

    def seal(self, metadata: Metadata, *, root_times: RootTimes) -> None:
        """Give all directories that were entered their metadata, the deepest first.

        It is no loss that the root cannot keep its own times.

        Raises:
            StoreError: this disk.
        """
        for path in sorted(self._touched, key=depth_of, reverse=True):
            self._seal(path, metadata, root_times)

    def seal_root(self, metadata: Metadata, *, root_times: RootTimes) -> None:
        """Do so for the root alone, unless that is done.

        Raises:
            StoreError: this disk.
        """
        if b"" in self._touched:
            self._seal(b"", metadata, root_times)

    def _seal(self, path: bytes, metadata: Metadata, root_times: RootTimes) -> None:
        header = self._touched.pop(path)
        with self._root.held(path) as fd, storing(path):
            is_given = root_times is RootTimes.GIVEN or bool(path)
            metadata.sync(fd, header, times=is_given)
            if root_times is RootTimes.KEPT and not path:
                with suppress(PermissionError):
                    os.utime(fd, ns=(header.mtime_ns, header.mtime_ns))

    def _may_share_else(self, visit: Visit) -> bool:
        """Say whether what is made in a directory may get another group than it shall."""
        old, new = visit.old, visit.new
        if old is None or not visit.path:
            # The system has made it as the one above it is. The root's is none of ours.
            above = self._touched.get(visit.path.rpartition(b"/")[0], new)
            return not visit.path or bool((new.mode | above.mode) & stat.S_ISGID)
        is_shared = new.mode & stat.S_ISGID
        return is_shared != old.mode & stat.S_ISGID or (bool(is_shared) and new.gid != old.gid)

    def _open_up(self, path: bytes, header: Directory) -> None:
        # The root was opened up before all else.
        if not path or self._is_superuser or header.mode & _WRITABLE == _WRITABLE:
            return
        mode = header.mode | _WRITABLE
        parent, _, name = path.rpartition(b"/")
        # Another's may be on the way to what is ours, with nothing in it to be changed.
        with self._root.held(parent) as dirfd, storing(path), suppress(PermissionError):
            chmod_unopened(dirfd, name, mode, stat.S_IFDIR)

    def _going(self, visit: Visit) -> Iterator[Entry]:
        """Yield what is to be taken away from a directory."""
        for entry in gone(visit):
            # What a scan may have seen of a killed update was swept.
            is_swept = (not visit.path and is_reserved(entry.name)) or (
                below(visit.path, entry.name) in self._swept
            )
            if not is_swept:
                yield entry

    def _take_away(self, visit: Visit, dirfd: int, entry: Entry) -> None:
        is_directory = isinstance(entry, Subdirectory)
        try:
            if not self._keeps_files and not is_directory:
                os.unlink(entry.name, dir_fd=dirfd)
                return
            name = self._work.free_name()
            self._first_aside = self._first_aside or name
            if is_directory:
                self._has_opened |= _move_directory(dirfd, entry.name, self._work.fd, name)
            else:
                os.rename(entry.name, name, src_dir_fd=dirfd, dst_dir_fd=self._work.fd)
        except OSError as exc:
            self._take_there(visit, dirfd, entry, exc)
            return
        if self._keeps_files:
            self._reusable.note_aside(visit.path, entry, name)

    def _take_there(self, visit: Visit, dirfd: int, entry: Entry, error: OSError) -> None:
        """Remove what could not be set aside where it is, as far as it goes."""
        path = below(visit.path, entry.name)
        left = 1
        # On another file system nothing can be set aside, nor be used again.
        if error.errno == errno.EXDEV or (
            isinstance(entry, Subdirectory)
            and self._refusals.goes_on
            and is_single(error.errno)
        ):
            left = _remove(dirfd, entry.name, self._refusals, path=path)
        else:
            self._refusals.note(path, error)
        if left:
            self._stay(visit, entry, left)

    def _stay(self, visit: Visit, entry: Entry, left: int) -> None:
        """Take note that ``left`` names of what should go are still there."""
        if not visit.gives(entry.name):
            self._refusals.undeleted += left
            return
        self._refusals.block(visit.path, entry.name)
        path = below(visit.path, entry.name)
        if path not in self._refusals.named:
            self._refusals.note(path, OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY)))

    def _move(self, dirfd: int, entry: Subdirectory) -> bool:
        where = self._reusable.take_tree(entry.tree)
        if where is None:
            return False
        try:
            with self._work.trash.held(where.path) as source:
                self._has_opened |= _move_directory(source, where.name, dirfd, entry.name)
        except StoreError:
            return False  # What held it was moved before it, with it.
        except OSError as exc:
            if exc.errno in _NOT_MOVED:
                return False
            raise
        return True


def _make_directory(dirfd: int, name: bytes) -> None:
    """Make a directory, in place of what no scan shows: a socket, or what a rule leaves out.

    A file of that name would replace it, too.
    """
    try:
        os.mkdir(name, _WRITABLE, dir_fd=dirfd)
    except FileExistsError:
        # Where case makes no difference, another name may be the one in the way: that stays.
        if name not in names_of(dirfd):
            raise
        if stat.S_ISDIR(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode):
            raise
        os.unlink(name, dir_fd=dirfd)
        os.mkdir(name, _WRITABLE, dir_fd=dirfd)


def _move_directory(from_fd: int, name: bytes, to_fd: int, to: bytes) -> bool:
    """Rename a directory; say whether its mode had to be changed for that."""
    try:
        os.rename(name, to, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except PermissionError:
        # A directory's '..' is written to when it moves, so it must be writable itself.
        mode = _mode(from_fd, name)
        chmod_unopened(from_fd, name, _WRITABLE, stat.S_IFDIR)
        try:
            os.rename(name, to, src_dir_fd=from_fd, dst_dir_fd=to_fd)
        except OSError:
            chmod_unopened(from_fd, name, mode, stat.S_IFDIR)
            raise
        return True
    return False


def _mode(dirfd: int, name: bytes) -> int:
    return stat.S_IMODE(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)
