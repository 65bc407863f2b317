"""Where what is synced goes: the directory that a path names, made if need be."""

import os
import stat
from contextlib import suppress
from typing import NamedTuple

from filesync.disk.handles import shown
from filesync.errors import PathMissing, StoreError
from filesync.sync.part import Part
from filesync.sync.places import Place, Places, not_found, split_path


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
        StoreError: the directory cannot be made.
    """
    is_directory = is_directory or path.endswith(b"/")
    may_rename = not is_directory and (is_bare or len(part.names or ()) == 1)
    try:
        return _find_target(places, path, part, may_rename=may_rename, make=not dry_run)
    except PathMissing:
        if not dry_run:
            raise
        return None


def _find_target(
    places: Places, path: bytes, part: Part, *, may_rename: bool, make: bool
) -> Target:
    rename = None
    is_new = False
    directory = path
    names = part.names
    if names is not None and may_rename:
        try:
            os.close(places.open(path))
        except OSError:
            directory, rename = split_path(path)
    if rename is None:
        is_new = _make(places, path, make=make)
        if part.inside and not (is_new and may_rename):
            directory = path.rstrip(b"/") + b"/" + part.inside
            is_new = _make(places, directory, make=make, is_inside=True)
    try:
        fd = places.open(directory)
    except OSError as exc:
        raise not_found(directory, exc) from exc
    if rename is not None:
        names = frozenset((rename,))
    place = Place(fd, places.path_of(directory), names=names, label=path)
    if make:
        try:
            place.claim()
        except StoreError:
            place.close()
            raise
    return Target(place, rename, is_new)


def _make(places: Places, path: bytes, *, make: bool, is_inside: bool = False) -> bool:
    """Make the directory ``path`` unless it is there; say whether it was made.

    If it ``is_inside`` the destination, that stays as it was: it may be another source's.
    """
    try:
        os.close(places.open(path))
    except FileNotFoundError:
        if not make:
            raise PathMissing(os.fsdecode(path)) from None
    except NotADirectoryError:
        raise StoreError(f"{shown(path)} is not a directory") from None
    except OSError as exc:
        raise StoreError(f"{shown(path)} cannot be opened: {exc.strerror}") from exc
    else:
        return False
    directory, name = split_path(path)
    try:
        parent = places.open(directory)
    except OSError as exc:
        raise not_found(directory, exc) from exc
    make_one = _make_inside if is_inside else _make_one
    try:
        return make_one(parent, name)
    except OSError as exc:
        raise StoreError(f"{shown(path)} cannot be made: {exc.strerror}") from exc
    finally:
        os.close(parent)


def _make_one(fd: int, name: bytes) -> bool:
    """Make a directory in ``fd``; False if somebody else made it just now."""
    try:
        os.mkdir(name, dir_fd=fd)
    except FileExistsError:
        return False
    return True


def _make_inside(fd: int, name: bytes) -> bool:
    """Do the same, and leave ``fd`` with its mode and times, as far as this user may."""
    status = os.fstat(fd)
    try:
        is_made = _make_one(fd, name)
    except PermissionError:
        if status.st_uid != os.geteuid():
            raise
        mode = stat.S_IMODE(status.st_mode)
        os.fchmod(fd, mode | 0o700)
        try:
            is_made = _make_one(fd, name)
        finally:
            os.fchmod(fd, mode)
    with suppress(PermissionError):
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    return is_made
