"""What a scan wants of a directory, and what it leaves out."""

from collections.abc import Callable, Iterator, Set
from typing import Protocol

from filesync.disk.reserved import is_reserved
from filesync.disk.scanning.listing import Found, Item, names_in, these_in

LeaveOut = Callable[[bytes, bool], bool]
"""(path from the root, is it a directory) -> it is left out, and a directory not entered."""
IsWay = Callable[[bytes], bool]
"""(path from the root of a directory that is not left out) -> it is there for what is in it alone."""


class Excludes(Protocol):
    """What a scan leaves out. Paths are relative to its root, bad bytes as surrogates."""

    def excludes(self, path: str) -> bool:
        """Say whether ``path`` is left out. Asked also below excluded directories."""

    def may_prune(self, directory: str) -> bool:
        """Say whether all below a directory that is left out is left out as well."""


class Wanted:
    """The names that one scan wants, directory after directory.

    Attributes:
        of_names: only some names in the root are wanted.
        on_the_way: directories in the last directory that are not wanted themselves, and kept for
            what is below them.
        has_listed: in the last directory is something else, if there are ``ways``; it may not come
            all the same, if it cannot be read, say.
        is_part: some of what was in the last directory was left out, or may have been.
        is_part_of_all: or in another.
    """

    def __init__(
        self,
        *,
        names: Set[bytes] | None,
        leave_out: LeaveOut | None,
        ways: IsWay | None,
        excludes: Excludes | None,
    ) -> None:
        """Want ``names`` in the root, or all, but for what either of the others says."""
        self._names = None if names is None else sorted(names)
        self._leave_out = leave_out
        self._ways = ways
        self._excludes = excludes
        self.of_names = names is not None
        self.on_the_way: set[bytes] = set()
        self.has_listed = False
        self.is_part = self.is_part_of_all = False

    def in_directory(self, fd: int, prefix: bytes) -> Found:
        """Return what is wanted of the open directory whose names have ``prefix`` before them.

        What else is said of the directory is so when all has been taken of that.
        """
        self.on_the_way = set()
        self.has_listed = False
        self.is_part = self.of_names and not prefix
        self.is_part_of_all |= self.is_part
        found: Found = (
            names_in(fd) if self._names is None or prefix else these_in(fd, self._names)
        )
        if not prefix:
            # What an update that was killed has left is no part of any tree.
            found = (one for one in found if not is_reserved(one[0]))
        if self._leave_out is not None:
            found = self._kept(found, self._leave_out, prefix)
        if self._ways is not None:
            found = self._noting_ways(found, self._ways, prefix)
        if self._excludes is not None:
            found = self._not_excluded(found, self._excludes, prefix)
        return found

    def _kept(
        self, found: Found, leave_out: LeaveOut, prefix: bytes
    ) -> Iterator[tuple[bytes, Item]]:
        for name, item in found:
            if leave_out(prefix + name, item.is_dir(follow_symlinks=False)):
                self.is_part = self.is_part_of_all = True
            else:
                yield name, item

    def _noting_ways(
        self, found: Found, ways: IsWay, prefix: bytes
    ) -> Iterator[tuple[bytes, Item]]:
        for name, item in found:
            if item.is_dir(follow_symlinks=False) and ways(prefix + name):
                self.on_the_way.add(name)
            else:
                self.has_listed = True
            yield name, item

    def _not_excluded(
        self, found: Found, excludes: Excludes, prefix: bytes
    ) -> Iterator[tuple[bytes, Item]]:
        for name, item in found:
            path = (prefix + name).decode("utf-8", "surrogateescape")
            if not excludes.excludes(path):
                yield name, item
            elif item.is_dir(follow_symlinks=False) and not excludes.may_prune(path):
                self.on_the_way.add(name)
                yield name, item
            else:
                self.is_part = self.is_part_of_all = True
