"""What is synced: the directories, and names in directories, that paths name."""

import errno
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, NamedTuple

from filesync.errors import UsageError
from filesync.manifest.node import MAX_NAME_BYTES
from filesync.process.descriptors import OUT_OF_ROOM
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import Kind, Place, Places, not_found, split_path
from filesync.sync.union import Union

_CODED_BYTES: Final = 3
"""What a name takes in a message beside its own bytes."""


class Source(NamedTuple):
    """One part of what is synced, and where it is."""

    place: Place
    inside: bytes = b""

    @property
    def part(self) -> Part:
        """What of the sync it is."""
        if self.place.united:
            return Part(self.inside)
        return Part(self.inside, self.place.names, self.place.trees)


class Sources(NamedTuple):
    """What paths name.

    Attributes:
        found: what is there.
        missing: the paths that lead nowhere, and why (errno).
        are_several: more than one of the paths is in what was found; see the function.
    """

    found: list[Source]
    missing: dict[bytes, int]
    are_several: bool

    def check(self) -> None:
        """Make it an error that a path leads nowhere.

        Raises:
            PathMissing, StoreError: the first that does; what was found is closed then.
        """
        if self.missing:
            close_all(self.found)
            path, why = next(iter(self.missing.items()))
            raise not_found(path, OSError(why, os.strerror(why)))


def find_sources(
    places: Places,
    paths: Sequence[bytes],
    filter: Filter,
    *,
    most: int | None = None,
    most_names_bytes: int | None = None,
    unites: bool = True,
) -> Sources:
    """Return what ``paths`` name, in their order, that ``filter`` lets through.

    Names in one directory are one source, or more of so many bytes each; a directory is one of
    them, unless it is the only one. With a slash at its end it stands for what is in it, which may
    have any names: those that are named before and after it are not one source. Where
    paths have one last name, the first stands for it, or all that are directories, each of which
    is a source then. Directories that go to one place, named one after another, are one source
    as far as they can be (see ``union``), if it ``unites`` them. The caller closes the places.

    Raises:
        StoreError: this process has no room for more.
        UsageError: something may not be named, or there are more than ``most`` sources.
    """
    finding = _Finding(places, filter, most_names_bytes, unites=unites)
    missing: dict[bytes, int] = {}
    try:
        for path in paths:
            try:
                finding.find(path)
            except OSError as exc:
                if exc.errno is None or exc.errno in OUT_OF_ROOM:
                    raise not_found(path, exc) from exc
                missing[path] = exc.errno
            if most is not None and len(finding.found) > most:
                raise UsageError(f"more than {most} directories at once; name fewer")
    except BaseException:
        close_all(finding.found)
        raise
    found = finding.end()
    there = [path for path in paths if path not in missing]
    return Sources(found, missing, are_several([source.part for source in found], there))


class _Group:
    """Names in one directory, as they are met; in the end they are the place's.

    Attributes:
        place: the directory.
        names: whether each is a directory itself.
    """

    def __init__(self, place: Place, most_bytes: int) -> None:
        self.place = place
        self.names: dict[bytes, bool] = {}
        self._room = most_bytes

    def add(self, name: bytes, *, is_directory: bool) -> None:
        """Add a name that it does not have."""
        self.names[name] = is_directory
        self._room -= len(name) + _CODED_BYTES

    @property
    def is_full(self) -> bool:
        """There may be no room for another name."""
        return self._room < MAX_NAME_BYTES + _CODED_BYTES

    def end(self) -> None:
        """Give the place its names."""
        self.place.names = frozenset(self.names)
        self.place.trees = any(self.names.values())


class _Finding:
    """Sources as they are found.

    Attributes:
        found: in the order of the paths; which names they are is known at the end.
    """

    def __init__(
        self, places: Places, filter: Filter, most_names_bytes: int | None, *, unites: bool
    ) -> None:
        self.found: list[Source] = []
        self._places = places
        self._filter = filter
        self._most_names_bytes = most_names_bytes or sys.maxsize
        self._unites = unites
        self._seen: set[bytes] = set()
        self._directories: set[bytes] = set()
        self._groups: list[_Group] = []
        self._last_in: dict[bytes, _Group] = {}
        self._alone_in: dict[bytes, int] = {}  # the one directory there: its place in ``found``
        self._left_out: bytes | None = None
        self._unions: list[Union] = []
        self._union: Union | None = None  # the last source, if it may be of several directories

    def find(self, path: bytes) -> None:
        """Add what ``path`` names.

        Raises:
            OSError: it leads nowhere, or cannot be read.
        """
        name = _inside(path)
        if not name:
            self._open(path, b"")
            self._last_in.clear()
            self._alone_in.clear()
            return
        union, self._union = self._union, None
        group = self._last_in.get(_above(path))
        kind = None if group is None else group.place.kind_of(name)
        is_directory = (kind or _kind_of(self._places, path)) is Kind.DIRECTORY
        if self._filter.excludes(name, is_directory):
            self._left_out = self._left_out or path
        elif name not in self._seen:
            self._add(path, name, is_directory=is_directory)
        elif is_directory and path not in self._directories:
            self._union = union
            self._open(path, name)
        if is_directory:
            self._directories.add(path)

    def end(self) -> list[Source]:
        """Return what was found, or what was left out first if that is all."""
        for group in self._groups:
            group.end()
        for union in self._unions:
            union.end()
        if not self.found and self._left_out is not None:
            # Nothing comes of it, but the destination is made, or is none, as for any one name: as
            # rsync does.
            with suppress(OSError):
                self.found.append(Source(_beside(self._places, self._left_out)))
        return self.found

    def _open(self, path: bytes, inside: bytes) -> None:
        """Add the directory ``path``, which comes to stand as ``inside``, to the last one if it can be."""
        union = self._union
        if union is not None and union.inside == inside:
            os.close(self._places.open(path))
            if union.takes(path):
                if union.place is not None:
                    self._replace_last(union.place)
                return
        self.found.append(Source(_open(self._places, path), inside))
        self._begin_union(path, inside)

    def _begin_union(self, path: bytes, inside: bytes) -> None:
        """Take note that the last source is a directory, and of which."""
        self._union = Union(self._places, inside) if self._unites else None
        if self._union is not None and self._union.takes(path):
            self._unions.append(self._union)
        else:
            self._union = None

    def _replace_last(self, place: Place) -> None:
        """Have the last source be more than the directory that it was."""
        last = len(self.found) - 1
        old = self.found[last]
        if old.place is not place:
            old.place.close()
            self.found[last] = old._replace(place=place)
            self._alone_in = {above: at for above, at in self._alone_in.items() if at != last}

    def _add(self, path: bytes, name: bytes, *, is_directory: bool) -> None:
        """Add a name that no path had before."""
        above = _above(path)
        group = self._last_in.get(above)
        # A source that is all of a directory comes even if nothing in it does.
        is_whole = is_directory and not self._filter.is_way(name)
        if group is None and (above in self._alone_in or not is_whole):
            try:
                group = self._begin(path)
            except PermissionError:  # what is in it may be open to this user all the same
                if not is_directory:
                    raise
        if group is None:
            self._alone_in.setdefault(above, len(self.found))
            self.found.append(Source(_open(self._places, path), name))
            self._begin_union(path, name)
        else:
            group.add(name, is_directory=is_directory)
            if group.is_full:
                del self._last_in[above]
        self._seen.add(name)

    def _begin(self, path: bytes) -> _Group:
        """Begin a source of names beside ``path``, with the directory that is alone there so far."""
        above = _above(path)
        place = _beside(self._places, path)
        group = self._last_in[above] = _Group(place, self._most_names_bytes)
        self._groups.append(group)
        at = self._alone_in.pop(above, None)
        if at is None:
            self.found.append(Source(place))
        else:
            alone = self.found[at]
            alone.place.close()
            group.add(alone.inside, is_directory=True)
            self.found[at] = Source(place)
        return group


def are_several(parts: Sequence[Part], paths: Sequence[bytes]) -> bool:
    """Say whether more than one of ``paths``, which lead somewhere, is in ``parts``.

    What they go to is a directory then, as it is to rsync: it counts a path that comes twice too.
    """
    tops = {part.inside for part in parts if part.names is None}
    tops.update(*(part.names for part in parts if part.names))
    given = (path for path in paths if _inside(path) in tops)
    return len(list(islice(given, 2))) == 2


def is_named(part: Part, paths: Iterable[bytes]) -> bool:
    """Say whether ``part`` has only what ``paths`` name, under the names that they give it.

    Whoever takes from a peer asks this: the peer must not choose what is written where.
    """
    if part.names is None:
        return part.inside in {_inside(path) for path in paths}
    last = {path.rpartition(b"/")[2] for path in paths} - {b"", b".", b".."}
    return not part.inside and part.names <= last


def close_all(sources: Iterable[Source]) -> None:
    """Close the places of ``sources``."""
    for source in sources:
        source.place.close()


def _inside(path: bytes) -> bytes:
    """Return the name under which what ``path`` names comes to stand in the destination."""
    name = path.rpartition(b"/")[2]
    return b"" if name in (b".", b"..") else name


def _above(path: bytes) -> bytes:
    """Return what of ``path`` leads to the directory that its last name is in."""
    return path[: path.rfind(b"/") + 1]


def _kind_of(places: Places, path: bytes) -> Kind:
    """Return what ``path``, which ends in a name, leads to. A link is no directory.

    Raises:
        OSError: it leads nowhere, or to a directory that cannot be read.
    """
    try:
        if places.is_link(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        os.close(places.open(path))
        return Kind.DIRECTORY
    except OSError as exc:
        why = exc
    if why.errno == errno.ENAMETOOLONG:
        raise why
    directory, name = split_path(path)
    fd = places.open(directory)
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    finally:
        os.close(fd)
    if stat.S_ISDIR(status.st_mode):
        raise why
    return Kind.OTHER


def _open(places: Places, path: bytes) -> Place:
    """Return the directory ``path``.

    Raises:
        OSError: it is none, or cannot be read.
    """
    return Place(places.open(path), places.path_of(path), names=None, label=path)


def _beside(places: Places, path: bytes) -> Place:
    """Return what ``path`` names as a name in its directory.

    Raises:
        OSError: that cannot be opened.
    """
    directory, name = split_path(path)
    fd = places.open(directory)
    return Place(fd, places.path_of(directory), names=frozenset((name,)), label=path)
