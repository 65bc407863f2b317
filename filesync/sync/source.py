"""What is synced: the directories, and names in directories, that paths name."""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from filesync.descriptors import OUT_OF_ROOM
from filesync.errors import UsageError
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import Place, Places, not_found, split_path


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
    most_names: int | None = None,
) -> Sources:
    """Return what ``paths`` name, in their order, that ``filter`` lets through.

    Names in one directory are one source, or more of ``most_names`` each. A directory with a slash
    at its end stands for what is in it. Where two paths have one last name, the first stands for it.
    The caller closes the places.

    Raises:
        StoreError: this process has no room for more.
        UsageError: something may not be named, or more than ``most`` directories are.
    """
    finding = _Finding(places, most_names)
    missing: dict[bytes, int] = {}
    try:
        for path in paths:
            if most is not None and len(finding.found) == most:
                raise UsageError(f"more than {most} directories at once; name fewer")
            try:
                finding.find(path)
            except OSError as exc:
                if exc.errno is None or exc.errno in OUT_OF_ROOM:
                    raise not_found(path, exc) from exc
                missing[path] = exc.errno
    except BaseException:
        close_all(finding.found)
        raise
    finding.end()
    kept = _not_excluded(places, finding.found, filter)
    there = [path for path in paths if path not in missing]
    return Sources(kept, missing, are_several([source.part for source in kept], there))


class _Group(NamedTuple):
    """Names in one directory, as they are met; in the end they are the place's."""

    place: Place
    names: list[bytes]


class _Finding:
    """Sources as they are found.

    Attributes:
        found: in the order of the paths; which names they are is known at the end.
    """

    def __init__(self, places: Places, most_names: int | None) -> None:
        self.found: list[Source] = []
        self._places = places
        self._most_names = most_names
        self._seen: set[bytes] = set()
        self._groups: list[_Group] = []
        self._last_in: dict[bytes, _Group] = {}

    def find(self, path: bytes) -> None:
        """Add what ``path`` names.

        Raises:
            OSError: it leads nowhere, or cannot be read.
        """
        directory, slash, name = path.rpartition(b"/")
        group = self._last_in.get(directory or slash)
        if group is None or not group.place.has_other(name):
            place = _find(self._places, path)
            if place.names is None:
                self.found.append(Source(place, _inside(path)))
                return
            if group is not None or name in self._seen:
                place.close()
            else:
                group = self._begin(directory or slash, place)
        if group is not None and name not in self._seen:
            self._seen.add(name)
            group.names.append(name)
            if len(group.names) == self._most_names:
                del self._last_in[directory or slash]

    def end(self) -> None:
        """Give the sources their names."""
        for place, names in self._groups:
            place.names = frozenset(names)

    def _begin(self, directory: bytes, place: Place) -> _Group:
        """Begin a source of names in ``directory``."""
        group = self._last_in[directory] = _Group(place, [])
        self._groups.append(group)
        self.found.append(Source(place))
        return group


def are_several(parts: Sequence[Part], paths: Sequence[bytes]) -> bool:
    """Say whether more than one of ``paths``, which lead somewhere, is in ``parts``.

    What they go to is a directory then, as it is to rsync: it counts a path that comes twice too.
    """
    directories = {part.inside for part in parts if part.names is None}
    alone = {b"".join(part.names) for part in parts if part.names and len(part.names) == 1}
    given = (
        path
        for path in paths
        if _inside(path) in directories or path.rpartition(b"/")[2] in alone
    )
    return len(list(islice(given, 2))) == 2


def is_named(part: Part, paths: Iterable[bytes]) -> bool:
    """Say whether ``part`` has only what ``paths`` name, under the names that they give it.

    Whoever takes from a peer asks this: the peer must not choose what is written where.
    """
    if part.names is None:
        return part.inside in {_inside(path) for path in paths}
    last = {path.rpartition(b"/")[2] for path in paths} - {b"", b".", b".."}
    return not part.inside and part.names <= last


def _not_excluded(places: Places, sources: Sequence[Source], filter: Filter) -> list[Source]:
    """Return ``sources`` without what ``filter`` leaves out; close what is not needed."""
    kept: list[Source] = []
    others: list[Source] = []
    for source in sources:
        names = source.place.names or frozenset()
        through = frozenset(name for name in names if not filter.excludes(name, False))
        if (source.inside and filter.excludes(source.inside, True)) or (names and not through):
            others.append(source)
        else:
            source.place.names = through or None
            kept.append(source)
    try:
        return kept or [_left_out(places, one) for one in others[:1]]
    except OSError:
        return []
    finally:
        close_all(others)


def _left_out(places: Places, source: Source) -> Source:
    """Return one name that a filter leaves out, and that ``source`` is, or has.

    Nothing comes of it, but the destination is made, or is none, as for any one name: as rsync does.

    Raises:
        OSError: the directory that it is in cannot be opened.
    """
    names, path = source.place.names, source.place.label
    directory, name = split_path(path)
    fd = places.open(directory)
    names = frozenset((name if names is None else min(names),))
    return Source(Place(fd, places.path_of(directory), names=names, label=path))


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
    directory, name = split_path(path)
    fd = places.open(directory)
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise why
    except OSError:
        os.close(fd)
        raise
    return Place(fd, places.path_of(directory), names=frozenset((name,)), label=path)
