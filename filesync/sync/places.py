"""Where a sync reads and writes: directories that an operator, or a peer below a root, names."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from filesync.descriptors import OUT_OF_ROOM
from filesync.disk.handles import DIRECTORY_FLAGS, open_root, shown
from filesync.errors import PathMissing, StoreError, UsageError
from filesync.manifest.node import is_name
from filesync.sync.filter import Filter
from filesync.sync.part import Part

MAX_NAMES: Final = 1000
"""Names of one directory that are synced at once; more are more than one part."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Claimed(StoreError):
    """Somebody else is giving to the directory. Try again later."""

    code = "claimed"


class Place:
    """A directory, or names in it. Close it when the sync is over.

    Attributes:
        root: the directory, as a path that leads to it until this is closed.
        names: what of it; None for all.
        label: the path for people.
    """

    def __init__(
        self,
        fd: int,
        root: Path | None,
        *,
        names: frozenset[bytes] | None,
        label: bytes,
    ) -> None:
        self._fd = fd
        self.root = Path(f"/proc/self/fd/{fd}") if root is None else root
        self.names = names
        self.label = label

    @property
    def is_empty(self) -> bool:
        """It is all of a directory, with nothing in it whatever."""
        if self.names is not None:
            return False
        with os.scandir(self._fd) as found:
            return next(found, None) is None

    def is_bare(self, filter: Filter) -> bool:
        """Say whether it is all of a directory, with nothing in it that ``filter`` lets through."""
        if self.names is not None:
            return False
        with os.scandir(self._fd) as found:
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
                f"someone else is giving to {shown(self.label)}; try again later"
            ) from None
        except OSError:
            return  # a file system without locks

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
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
        UsageError: it is empty; or it is what rsync has for a path on another machine.
    """
    if not text:
        raise UsageError("an empty path names nothing; write '.' for the current directory")
    if ":" in text.partition("/")[0] and not os.path.lexists(text):
        raise UsageError(
            f"{text}: no remote shell is used; write tcp://host:port/path, as a `filesync serve` "
            f"there prints it, or ./{text} for a name on this machine"
        )
    return os.fsencode(text)


class LocalPlaces:
    """Paths that the user of this process gives: links are followed as ever."""

    def open(self, path: bytes) -> int:
        """Return a new descriptor of the directory ``path``."""
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
        fd = open_root(self._root)
        try:
            for name in filter(None, path.split(b"/")):
                if name in (b".", b"..") or b"\0" in name:
                    raise UsageError(f"{shown(path)} is not a path below the served directory")
                parent, fd = fd, os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
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


class Source(NamedTuple):
    """One part of what is synced, and where it is."""

    place: Place
    inside: bytes = b""

    @property
    def part(self) -> Part:
        """What of the sync it is."""
        return Part(self.inside, self.place.names)


class Sources(NamedTuple):
    """What paths name.

    Attributes:
        found: what is there.
        missing: the paths that lead nowhere, and why (errno).
    """

    found: list[Source]
    missing: dict[bytes, int]


def find_sources(
    places: Places, paths: Sequence[bytes], filter: Filter, *, most: int | None = None
) -> Sources:
    """Return what ``paths`` name, in their order, that ``filter`` lets through.

    Names in one directory are one source. A directory with a slash at its end stands for what is
    in it. Where two paths have one last name, the first stands for it. The caller closes the
    places.

    Raises:
        StoreError: this process has no room for more.
        UsageError: something may not be named, or more than ``most`` directories are.
    """
    found: list[Source] = []
    missing: dict[bytes, int] = {}
    together: dict[bytes, list[Place]] = {}
    seen: set[bytes] = set()
    try:
        for path in paths:
            if most is not None and len(found) == most:
                raise UsageError(f"more than {most} directories at once; name fewer")
            try:
                place = _find(places, path)
            except OSError as exc:
                if exc.errno is None or exc.errno in OUT_OF_ROOM:
                    raise not_found(path, exc) from exc
                missing[path] = exc.errno
                continue
            if place.names is None:
                found.append(Source(place, _inside(path)))
                continue
            directory = _split(path)[0]
            group = together.setdefault(directory, [])
            fresh = place.names - seen
            seen |= place.names
            if group and len(group[-1].names or ()) < MAX_NAMES:
                place.close()
                group[-1].names = (group[-1].names or frozenset()) | fresh
            elif fresh:
                group.append(place)
                found.append(Source(place))
            else:
                place.close()
    except BaseException:
        close_all(found)
        raise
    return Sources(_not_excluded(found, filter), missing)


def are_several(parts: Sequence[Part], paths: Sequence[bytes]) -> bool:
    """Say whether more than one of ``paths``, which lead somewhere, is in ``parts``.

    What they go to is a directory then, as it is to rsync: it counts a path that comes twice too.
    """
    given = (path for path in paths if any(is_named(part, (path,)) for part in parts))
    return len(list(islice(given, 2))) == 2


def is_named(part: Part, paths: Iterable[bytes]) -> bool:
    """Say whether ``part`` has only what ``paths`` name, under the names that they give it.

    Whoever takes from a peer asks this: the peer must not choose what is written where.
    """
    if part.names is None:
        return part.inside in {_inside(path) for path in paths}
    last = {path.rpartition(b"/")[2] for path in paths} - {b"", b".", b".."}
    return not part.inside and part.names <= last


def _not_excluded(sources: Sequence[Source], filter: Filter) -> list[Source]:
    """Return ``sources`` without what ``filter`` leaves out; close what is not needed."""
    kept: list[Source] = []
    others: list[Source] = []
    for source in sources:
        names = source.place.names or frozenset()
        through = frozenset(name for name in names if not filter.excludes(name, False))
        if source.inside and filter.excludes(source.inside, True):
            source.place.close()
        elif names and not through:
            others.append(source)
        else:
            source.place.names = through or None
            kept.append(source)
    if not kept:  # nothing comes of these, but the destination is made as ever
        return others
    close_all(others)
    return kept


def close_all(sources: Iterable[Source]) -> None:
    """Close the places of ``sources``."""
    for source in sources:
        source.place.close()


def _inside(path: bytes) -> bytes:
    """Return the name under which the directory ``path`` comes to stand in the destination."""
    name = path.rpartition(b"/")[2]
    return b"" if name in (b".", b"..") else name


def _find(places: Places, path: bytes) -> Place:
    """Return the directory that ``path`` names, or the directory of the name that it names.

    A link is a name, unless a slash follows it.

    Raises:
        OSError: it leads nowhere, or cannot be read.
    """
    try:
        if _inside(path) and places.is_link(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return Place(places.open(path), places.path_of(path), names=None, label=path)
    except OSError as exc:
        why = exc
    if not _inside(path):
        raise why
    directory, name = _split(path)
    fd = places.open(directory)
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise why
    except OSError:
        os.close(fd)
        raise
    return Place(fd, places.path_of(directory), names=frozenset((name,)), label=path)


def not_found(path: bytes, exc: OSError) -> PathMissing | StoreError:
    """Return what says why ``path`` could not be opened: that it is not there, or else."""
    if isinstance(exc, NotADirectoryError) and path.endswith(b"/"):
        return StoreError(f"{shown(path)} is not a directory; name it without the last slash")
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return PathMissing(os.fsdecode(path))
    return StoreError(f"{shown(path)} cannot be read: {exc.strerror}")


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
            directory, rename = _split(path)
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
    directory, name = _split(path)
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


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, slash, name = path.rstrip(b"/").rpartition(b"/")
    if not is_name(name):
        raise UsageError(f"{shown(path)} does not name a file")
    return (directory or slash), name
