"""Where what is synced goes: the directory that a path names, made if need be."""

import errno
import os
import stat
from contextlib import suppress
from typing import Final, NamedTuple

from filesync.disk.handles import DIRECTORY_FLAGS, shown, why_unwritable
from filesync.disk.updating.refusals import is_single
from filesync.errors import StoreError
from filesync.process.descriptors import are_used_up
from filesync.sync.options import Choice
from filesync.sync.part import Part
from filesync.sync.places import Place, Places, not_found, split_path

_MAKE_IT: Final = "make it first: DST is made, and nothing above it"


class NotMade(StoreError):
    """The place of one of several sources is refused; those of others need not be.

    Attributes:
        errno: why.
    """

    code = "not-made"

    def __init__(self, detail: str, errno: int) -> None:
        super().__init__(detail, errno)
        self.detail = detail
        self.errno = errno

    def __str__(self) -> str:
        return self.detail


class _WouldBeMadeError(Exception):
    """A dry run would make a directory in one that is there."""


class Target(NamedTuple):
    """Where a source goes.

    Attributes:
        place: what is written.
        rename: what the one name that is given is called there; None for its own name.
        is_new: the directory was made for it.
    """

    place: Place
    rename: bytes | None = None
    is_new: bool = False


def find_target(
    places: Places,
    path: bytes,
    *,
    part: Part,
    is_directory: bool = False,
    is_bare: bool = False,
    dry_run: bool,
) -> Target | None:
    """Return where what is given to ``path`` goes, or None for a dry run to what is not there.

    Args:
        places: what paths mean.
        path: as it was named.
        part: what is given. A single name goes to ``path`` itself, unless that is a directory.
        is_directory: ``path`` is one, or is to be; so it is if it ends in a slash.
        is_bare: nothing is in the one directory that is given: else ``path`` is what it is called
            there, unless that is a directory already. So it is with rsync.
        dry_run: make no directories, and claim none; else make those that are missing, though
            none above ``path``.

    Raises:
        PathMissing: the directory above is not there.
        Claimed: somebody else is giving to it.
        NotMade: the one in which a directory is to stand is there, and takes no such name.
        StoreError: the directory cannot be made.
    """
    is_directory = is_directory or path.endswith(b"/")
    may_rename = not is_directory and (is_bare or len(part.names or ()) == 1)
    try:
        return _find_target(places, path, part, may_rename=may_rename, make=not dry_run)
    except _WouldBeMadeError:
        return None


def is_left_alone(places: Places, path: bytes, part: Part, choice: Choice) -> bool:
    """Say whether a directory is to stand in ``path`` and may not, by what is there now.

    Raises:
        NotMade, StoreError: as ``find_target``.
    """
    if not (part.inside and (choice.only_existing or choice.only_new)):
        return False
    target = find_target(places, path, part=part, dry_run=True)
    if target is not None:
        target.place.close()
        return False
    return leaves_alone(choice, is_there=_is_there(places, path, part.inside))


def leaves_alone(choice: Choice, *, is_there: bool) -> bool:
    """Say whether no directory may stand where something else is, or nothing."""
    return choice.only_new if is_there else choice.only_existing


def _is_there(places: Places, path: bytes, name: bytes) -> bool:
    with suppress(OSError):
        fd = places.open(path)
        try:
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)
        return True
    return False


def _find_target(
    places: Places, path: bytes, part: Part, *, may_rename: bool, make: bool
) -> Target:
    rename = None
    directory = path
    names = part.names
    if names is not None and may_rename:
        try:
            os.close(places.open(path))
        except OSError as exc:
            if are_used_up(exc):
                raise not_found(path, exc) from exc
            directory, rename = split_path(path)
    fd = _make(places, path, make=make) if rename is None else None
    is_new = fd is not None
    if part.inside and not (is_new and may_rename):
        if fd is not None:
            os.close(fd)
        return _find_inside(places, path, part, make=make)
    if fd is None:
        try:
            fd = places.open(directory)
        except OSError as exc:
            raise not_found(directory, exc, _MAKE_IT) from exc
    if rename is not None:
        names = frozenset((rename,))
    place = Place(fd, places.path_of(directory), names=names, trees=part.trees, label=path)
    return Target(_claimed(place) if make else place, rename, is_new)


def _find_inside(places: Places, path: bytes, part: Part, *, make: bool) -> Target:
    """Return where a directory goes that comes to stand in ``path``, which is there.

    What is no directory is replaced there, as anywhere below a destination. A link is not
    followed: an operator named ``path``, but what stands in it others may have put there.
    """
    label = path.rstrip(b"/") + b"/" + part.inside
    try:
        parent = places.open(path)
    except OSError as exc:
        raise not_found(path, exc) from exc
    is_new = False
    done = "opened"
    try:
        try:
            fd = os.open(part.inside, DIRECTORY_FLAGS, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError) as exc:
            if not make:
                _raise_if(why_unwritable(parent))
                raise _WouldBeMadeError from exc
            done = "made"
            made = _make_inside(parent, part.inside, keep_times=not part.touches)
            is_new = made is not None
            fd = os.open(part.inside, DIRECTORY_FLAGS, dir_fd=parent) if made is None else made
    except OSError as exc:
        sentence = f"{shown(label)} cannot be {done}: {exc.strerror}"
        if is_single(exc.errno, is_new=done == "made") and exc.errno is not None:
            raise NotMade(sentence, exc.errno) from exc
        raise StoreError(sentence) from exc
    finally:
        os.close(parent)
    place = Place(fd, None, names=None, label=path)
    return Target(_claimed(place) if make else place, is_new=is_new)


def _claimed(place: Place) -> Place:
    try:
        place.claim()
    except StoreError:
        place.close()
        raise
    return place


def _make(places: Places, path: bytes, *, make: bool) -> int | None:
    """Make the directory ``path`` and open it; None if it is there."""
    try:
        os.close(places.open(path))
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise StoreError(f"{shown(path)} is not a directory") from None
    except OSError as exc:
        raise StoreError(f"{shown(path)} cannot be opened: {exc.strerror}") from exc
    else:
        return None
    directory, name = split_path(path)
    try:
        parent = places.open(directory)
    except OSError as exc:
        raise not_found(directory, exc, _MAKE_IT) from exc
    try:
        if _is_link(parent, name):
            raise StoreError(f"{shown(path)} is a link that leads nowhere")
        if not make:
            may_write = os.access(".", os.W_OK | os.X_OK, dir_fd=parent, effective_ids=True)
            _raise_if(0 if may_write else why_unwritable(parent) or errno.EACCES)
            raise _WouldBeMadeError
        return _make_one(parent, name)
    except OSError as exc:
        raise StoreError(f"{shown(path)} cannot be made: {exc.strerror}") from exc
    finally:
        os.close(parent)


def _raise_if(why: int) -> None:
    """Raise what a run would meet, if there is anything."""
    if why:
        raise OSError(why, os.strerror(why))


def _is_link(fd: int, name: bytes) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _make_one(fd: int, name: bytes) -> int | None:
    """Make a directory in ``fd`` and open it; None if somebody else made it just now.

    What cannot be opened is not left behind: who tries again would not have made it.
    """
    try:
        os.mkdir(name, dir_fd=fd)
    except FileExistsError:
        return None
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
    except OSError:
        with suppress(OSError):
            os.rmdir(name, dir_fd=fd)
        raise


def _replace_one(fd: int, name: bytes) -> int | None:
    """Make a directory in ``fd``, in place of what is none; as ``_make_one``."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=fd)
    return _make_one(fd, name)


def _make_inside(fd: int, name: bytes, *, keep_times: bool) -> int | None:
    """Do so, and leave ``fd`` with its mode and, if they are another source's, its times.

    As far as this user may.
    """
    status = os.fstat(fd)
    try:
        made = _replace_one(fd, name)
    except PermissionError:
        if status.st_uid != os.geteuid():
            raise
        mode = stat.S_IMODE(status.st_mode)
        os.fchmod(fd, mode | 0o700)
        try:
            made = _replace_one(fd, name)
        finally:
            os.fchmod(fd, mode)
    if keep_times:
        with suppress(PermissionError):
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    return made
