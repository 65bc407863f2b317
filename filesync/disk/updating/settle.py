"""The names of an update: each gets its content from nearby, or is left to be fetched."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import msgspec

from filesync.digest import EMPTY
from filesync.disk.handles import shown
from filesync.disk.updating.metadata import Metadata, open_existing
from filesync.disk.updating.refusals import Refusals
from filesync.disk.updating.repeated import Repeated
from filesync.disk.updating.reuse import Reusable, Where
from filesync.disk.updating.tally import Tally
from filesync.disk.updating.visits import below
from filesync.disk.updating.work import Directories, Place, WorkDirectory
from filesync.disk.updating.write import Maker
from filesync.errors import MalformedManifest, StoreError
from filesync.manifest import (
    Entry,
    File,
    Manifest,
    Special,
    Symlink,
    group_name,
    link_groups,
)

WANTED: Final = 0
SETTLED: Final = 1
COPY: Final = 2
LINK: Final = 3
PROVED: Final = 4
State = Literal[0, 1, 2, 3, 4]
"""Of one file: its content must come; all is done; it is a copy, or a link, of another file
of the target and is made at the end; all is done, and its content was proved as it was written."""

COPIED_BYTES: Final = 16 << 10
"""Files above this size are fetched once however often the target has them."""
_NOT_MADE: Final = (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has no devices, or no symbolic links."""
_DISK_IS_ILL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Settler:
    """Puts in place what needs no fetching. Its caller holds the directories."""

    def __init__(
        self,
        root: Directories,
        work: WorkDirectory,
        *,
        basis: Manifest | None,
        reusable: Reusable,
        repeated: Repeated,
        metadata: Metadata,
        maker: Maker,
        tally: Tally,
        refusals: Refusals,
    ) -> None:
        self._root = root
        self._work = work
        self._basis = basis
        self._reusable = reusable
        self._repeated = repeated
        self._metadata = metadata
        self._maker = maker
        self._tally = tally
        self._refusals = refusals
        self._groups_of_basis: Mapping[bytes, Sequence[bytes]] | None = None

    def settle(self, place: Place, dirfd: int, old: Entry | None, entry: File) -> State:
        """Put one file in place if that can be done from what is here; say what is left.

        Raises:
            MalformedManifest: an empty file has a digest that no empty file has.
            StoreError, OSError: this disk.
        """
        if entry.link and group_name(below(place.path, entry.name)) != entry.link:
            return LINK
        was = old if isinstance(old, File) else None
        if was is not None and (was.digest, was.size) == (entry.digest, entry.size):
            if self._only_loses_names(place, was, entry):
                return SETTLED
            if self._change_metadata(place, dirfd, was, entry):
                return SETTLED
        elif entry.size and (state := self._reuse(place, dirfd, was, entry)):
            return state
        if not entry.size:
            self._make_empty(place, dirfd, was, entry)
            return SETTLED
        if entry.size > COPIED_BYTES:
            if not self._maker.fits(entry.size):  # before anybody waits for its content
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            if self._repeated.comes_for_another(place, entry):
                return COPY
        return WANTED

    def settle_other(
        self, place: Place, dirfd: int, old: Entry | None, entry: Symlink | Special
    ) -> None:
        """Put a symbolic link or special file in place.

        Raises:
            StoreError, OSError: this disk.
        """
        is_there = type(old) is type(entry)
        if is_there and _is_same_but_metadata(old, entry):
            status = os.stat(entry.name, dir_fd=dirfd, follow_symlinks=False)
            if status.st_nlink == 1:
                self._metadata.sync_unopened(dirfd, entry.name, entry)
                return
        is_direct = not is_there and place.is_direct
        fd, name = (dirfd, entry.name) if is_direct else (self._work.fd, self._work.free_name())
        if self._create_other(fd, name, entry):
            home = None if is_direct else dirfd
            self._metadata.sync_unopened(fd, name, entry, home=home)
            if not is_direct:
                self._maker.move(name, place, dirfd, entry.name)
        elif is_there:
            os.unlink(entry.name, dir_fd=dirfd)

    def _create_other(self, fd: int, name: bytes, entry: Symlink | Special) -> bool:
        try:
            if isinstance(entry, Symlink):
                os.symlink(entry.target, name, dir_fd=fd)
            else:
                device = os.makedev(entry.major, entry.minor)
                os.mknod(name, entry.mode & ~0o7077, device, dir_fd=fd)
        except OSError as exc:
            if exc.errno not in _NOT_MADE:
                raise
            self._metadata.lose("symbolic link" if isinstance(entry, Symlink) else "device")
            return False
        return True

    def _make_empty(self, place: Place, dirfd: int, was: File | None, entry: File) -> None:
        if entry.digest != EMPTY:
            raise MalformedManifest(f"{shown(entry.name)} is empty, and its digest is not")
        if was is not None:
            self._keep(place, dirfd, was)
        self._maker.put(place, dirfd, ((entry, b"", was is not None),))

    def _change_metadata(self, place: Place, dirfd: int, was: File, entry: File) -> bool:
        """Give a file other metadata; a copy of it, where other names share its inode, or it is another's."""
        with _passing_over() as passed:
            fd = open_existing(dirfd, entry.name)
            try:
                is_shared = os.fstat(fd).st_nlink > self._names_of(was, entry)
                if not is_shared and not self._metadata.is_refused(fd, entry):
                    self._metadata.sync(fd, entry)
                elif not self._replace_by_copy(place, dirfd, entry, fd):
                    return False
            finally:
                os.close(fd)
        return not passed

    def _replace_by_copy(self, place: Place, dirfd: int, entry: File, fd: int) -> bool:
        """Give a name an inode of its own; False if its content is not ``entry``'s."""
        made = self._metadata.with_group_of(fd, entry)
        try:
            if not self._maker.copy(place, dirfd, made, fd, replaces=True):
                return False
        except OSError as exc:
            # It has its content: nobody else need have it, and other names can be linked to it.
            self._refusals.note(below(place.path, entry.name), exc)
        else:
            self._tally.add(files_copied=1, bytes_copied=entry.size)
        return True

    def _only_loses_names(self, place: Place, was: File, entry: File) -> bool:
        """Say whether a file is as it shall be once other names of its hard-link group are gone.

        Or have become other files. To make it anew would cost its content, and lose what this user
        cannot give to a file.
        """
        if not was.link or was.link == entry.link or not _is_alike(was, entry):
            return False
        here = below(place.path, entry.name)
        for path in self._groups.get(was.link, ()):
            other = self._repeated.find(path)
            is_linked = isinstance(other, File) and other.link and other.link == entry.link
            if path != here and not is_linked and _is_alike(other, entry):
                return False  # one of the two has to be made anew
        return True

    @property
    def _groups(self) -> Mapping[bytes, Sequence[bytes]]:
        if self._groups_of_basis is None:
            self._groups_of_basis = {} if self._basis is None else link_groups(self._basis)
        return self._groups_of_basis

    def _names_of(self, was: File, entry: File) -> int:
        """Return how many names the inode of ``was`` has if all of them shall change alike."""
        if not was.link:
            return 1
        if was.link != entry.link:
            return 0
        return len(self._groups.get(was.link, ()))

    # --- from elsewhere in the old tree ---------------------------------------------------

    def _reuse(self, place: Place, dirfd: int, was: File | None, entry: File) -> State:
        if self._maker.has_come(entry):
            if was is not None:
                self._keep(place, dirfd, was)
            self._maker.take(place, dirfd, entry)
            self._repeated.comes_for_another(place, entry)  # others like it are copies of it
            return PROVED
        where = self._reusable.file(entry.digest)
        if where is None:
            return WANTED
        state: State = SETTLED
        holder = self._work.trash if where.in_trash else self._root
        with _passing_over() as passed, holder.held(where.path) as source_dir:
            fd = open_existing(source_dir, where.name)
            try:
                if was is not None:
                    self._keep(place, dirfd, was)
                if where.is_free and self._is_movable(fd, entry):
                    self._take(where, source_dir, fd, dirfd, entry)
                    at = Where(False, place.path, entry.name, is_free=False)
                    self._reusable.files[entry.digest] = at
                elif self._maker.copy(place, dirfd, entry, fd, replaces=was is not None):
                    self._tally.add(files_copied=1, bytes_copied=entry.size)
                    state = PROVED
                else:
                    return WANTED
            finally:
                os.close(fd)
        return WANTED if passed else state

    def _take(self, where: Where, source_dir: int, fd: int, dirfd: int, entry: File) -> None:
        """Move an old file to its new name, with its new metadata."""
        name, home = where.name, source_dir
        # What cannot be taken out of its directory may come back with that, as it was.
        if where.path:
            name, home = self._work.free_name(), self._work.fd
            os.rename(where.name, name, src_dir_fd=source_dir, dst_dir_fd=home)
        self._metadata.sync(fd, entry)
        os.rename(name, entry.name, src_dir_fd=home, dst_dir_fd=dirfd)

    def _is_movable(self, fd: int, entry: File) -> bool:
        status = os.fstat(fd)
        is_whole = status.st_nlink == 1 and status.st_size == entry.size
        return is_whole and not self._metadata.is_refused(fd, entry)

    def _keep(self, place: Place, dirfd: int, was: File) -> None:
        """Keep the content of a file that is about to be replaced, if it may be needed."""
        here = Where(False, place.path, was.name, is_free=False)
        if self._reusable.files.get(was.digest) != here:
            return
        name = self._work.free_name()
        try:
            os.link(
                was.name,
                name,
                src_dir_fd=dirfd,
                dst_dir_fd=self._work.fd,
                follow_symlinks=False,
            )
        except OSError:
            del self._reusable.files[was.digest]
        else:
            self._reusable.files[was.digest] = Where(True, b"", name, not was.link)


def _is_alike(one: Entry | None, other: File) -> bool:
    """Say whether two files are the same but for their names and groups."""
    return (
        isinstance(one, File)
        and msgspec.structs.replace(one, name=other.name, link=other.link) == other
    )


def _is_same_but_metadata(old: Entry | None, entry: Symlink | Special) -> bool:
    match old, entry:
        case Symlink(), Symlink():
            return old.target == entry.target
        case Special(), Special():
            return (stat.S_IFMT(old.mode), old.major, old.minor) == (
                stat.S_IFMT(entry.mode),
                entry.major,
                entry.minor,
            )
        case _:
            return False


@contextmanager
def _passing_over() -> Iterator[list[Exception]]:
    """Collect what keeps a source from being used; only what ails the disk is raised."""
    passed: list[Exception] = []
    try:
        yield passed
    except StoreError as exc:
        passed.append(exc)
    except OSError as exc:
        if exc.errno in _DISK_IS_ILL:
            raise
        passed.append(exc)
