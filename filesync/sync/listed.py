"""The names that a sync is to take, and no others: what rsync's ``--files-from`` lists.

A path is below the one SRC. The directories that lead to it come with it, without anything else
that is in them; where it does not come they do not, either. A directory that is listed comes without what is in it, one that is listed with a
slash at its end with the names in it, and where ``all_below`` is asked for both come with all.
"""

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from filesync.disk.handles import shown
from filesync.disk.updating.visits import is_below
from filesync.errors import UsageError
from filesync.manifest import Manifest
from filesync.sync.filter import Decides, Filter
from filesync.sync.part import Part
from filesync.trees.find import clean

if TYPE_CHECKING:
    from filesync.disk.scanning.wanted import IsWay


class Listed:
    """What some paths list.

    Attributes:
        all_below: with each directory comes all that is in it.
    """

    def __init__(self, paths: Iterable[bytes], *, all_below: bool = False) -> None:
        """A path may begin with slashes or './', which mean nothing, and leads nowhere above SRC.

        Raises:
            UsageError: one has '/./' inside, before which rsync leaves all out.
        """
        self.all_below = all_below
        self._given: set[bytes] = set()
        self._open: set[bytes] = set()
        self._above: set[bytes] = set()
        for path in paths:
            if b"/./" in path.lstrip(b"./"):
                raise UsageError(
                    f"{shown(path)}: what is before '/./' is not left out; write it without"
                )
            names = clean(path)
            given = b"/".join(names)
            if not names or path.endswith((b"/", b"/.", b"/..")):
                self._open.add(given)
            if names:
                self._given.add(given)
                self._lead_to(given)
        self._full = (self._given | self._open) if all_below else set()

    def __bool__(self) -> bool:
        """Say whether anything is listed."""
        return bool(self._given or self._open)

    def decides(self, rules: Sequence[bytes]) -> Decides:
        """Return what says whether a name does not come; None if it is listed, so that ``rules`` decide.

        What leads to something comes, whatever they say; where they leave it out, nothing else in it comes.
        """
        itself = self._decides_itself(rules)

        def leaves_out(path: bytes, is_directory: bool) -> bool | None:
            if is_directory and path in self._above:
                return False
            return itself(path)

        return leaves_out

    def ways(self, rules: Sequence[bytes]) -> "IsWay":
        """Return what says whether a directory comes only as it leads to something that is listed."""
        itself, filter = self._decides_itself(rules), _filter(tuple(rules))

        def is_way(path: bytes) -> bool:
            is_above = path in self._above
            return is_above and bool(itself(path) or filter.excludes(path, is_directory=True))

        return is_way

    def _decides_itself(self, rules: Sequence[bytes]) -> Callable[[bytes], bool | None]:
        """Return what ``decides`` of names whatever they lead to."""
        filter = _filter(tuple(rules))
        ways: dict[bytes, bool] = {}

        def is_only_a_way(path: bytes) -> bool:
            if path not in self._above:
                return False
            if path not in ways:
                ways[path] = filter.excludes(path, is_directory=True)
            return ways[path]

        @lru_cache(1)  # it is asked for each name in a directory, one after the other
        def comes_with(above: bytes) -> bool:
            is_in = above in self._open
            while not is_in and above not in self._full and not is_only_a_way(above):
                if not above or not self._full:
                    return False
                above = above.rpartition(b"/")[0]
            return not is_only_a_way(above)

        def leaves_out(path: bytes) -> bool | None:
            if path in self._given:
                return None
            return None if comes_with(path.rpartition(b"/")[0]) else True

        return leaves_out

    def narrowed(self, paths: Iterable[bytes]) -> "Listed":
        """Return a list of ``paths`` alone, which are of this one."""
        return Listed(paths, all_below=self.all_below)

    def paths(self) -> list[bytes]:
        """Return paths that list the same, ascending."""
        inside = {path + b"/" if path else b"." for path in self._open}
        return sorted(inside | (self._given - self._open))

    def of(self, path: bytes, dest: bytes) -> tuple[list[bytes], bytes]:
        """Return what is to be synced for the directory ``path``, and to where instead of ``dest``.

        These are names in it, or it is all of it if it is listed; where they go is a directory, however few
        they are.
        """
        above = _as_directory(path)
        names = sorted({one.partition(b"/")[0] for one in self._given})
        sources = [above] if b"" in self._open else [above + name for name in names]
        return sources, _as_directory(dest)

    def unmet(
        self, parts: Iterable[Part], missing: Iterable[bytes], rules: Sequence[bytes]
    ) -> dict[bytes, int]:
        """Return what is listed in something that is no directory, and so is no part, and why (errno).

        Args:
            parts: all that was found of what ``of`` returns.
            missing: paths of these that lead nowhere.
            rules: what they leave out is not unmet.
        """
        tops = {path.rpartition(b"/")[2] for path in missing}
        for part in parts:
            if not (part.inside or part.names):
                return {}  # it is all of SRC
            tops |= part.names or {part.inside}
        filter = _filter(tuple(rules))
        return {
            path: errno.ENOTDIR
            for path in self._given
            if (top := path.partition(b"/")[0]) not in tops
            and top != path
            and not _is_left_out(filter, path)
        }

    def lacking(
        self,
        part: Part,
        top: Manifest,
        unreadable: Mapping[bytes, int],
        rules: Sequence[bytes],
        *,
        mounts: Iterable[bytes] = (),
    ) -> dict[bytes, int]:
        """Return what is listed of ``part`` and did not come, and why (errno), by its path in the part.

        Args:
            part: has some of what is listed, or all.
            top: all that came of it.
            unreadable: what did not, as it could not be read.
            rules: what they leave out is not lacking.
            mounts: directories that came empty, as another file system is mounted on them.
        """
        prefix, empty = part.prefix, set(mounts)
        tops = part.names or ({part.inside} if part.inside else self._by_top.keys())
        listed = {
            path.removeprefix(prefix)
            for top in tops
            for path in self._by_top.get(top, ())
            if path.startswith(prefix)
        }
        with_names = {path for path in empty if prefix + path in self._open | self._full}
        listed -= {path for path, _ in top.walk()} - with_names
        filter = Filter(rules, root=prefix)
        return {
            path: errno.EXDEV if is_below(path, empty) else errno.ENOENT
            for path in listed
            if not is_below(path, unreadable.keys()) and not _is_left_out(filter, path)
        }

    @cached_property
    def _by_top(self) -> Mapping[bytes, Sequence[bytes]]:
        """What is listed, by the first name: of a long list each part is asked for what it has."""
        paths: dict[bytes, list[bytes]] = {}
        for path in self._given:
            paths.setdefault(path.partition(b"/")[0], []).append(path)
        return paths

    def _lead_to(self, path: bytes) -> None:
        """Have the directories above ``path`` come, whatever else is in them."""
        while (path := path.rpartition(b"/")[0]) and path not in self._above:
            self._above.add(path)


@lru_cache(1)
def _filter(rules: tuple[bytes, ...]) -> Filter:
    """Return what ``rules`` say of all that a list is of: each part of a sync asks for that, and more than once."""
    return Filter(rules)


def _is_left_out(filter: Filter, path: bytes) -> bool:
    """Say whether what would be at ``path`` may be left out, as whatever it were."""
    return any(filter.excludes(path, is_directory) for is_directory in (True, False))


def _as_directory(path: bytes) -> bytes:
    """Return ``path`` as that of a directory, and of what is in it; an empty one is where a remote shell begins."""
    return path if path.endswith(b"/") else (path or b".") + b"/"


def paths_in(data: bytes, *, from0: bool) -> list[bytes]:
    """Return the paths in a file that lists them: each ends in NUL, or in a line's end.

    Lines that are empty, or begin with '#' or ';', list nothing.
    """
    if from0:
        return [path for path in data.split(b"\0") if path]
    lines = data.replace(b"\r", b"\n").split(b"\n")
    return [line for line in lines if line and line[:1] not in (b"#", b";")]
