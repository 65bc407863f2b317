"""The stat cache of a directory, for scans of names in it: one for all, whatever names they are of.

So a pattern that a shell expands to one name more has no other name read again, and who syncs the
whole directory next reads none of them.
"""

from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from filesync.digest import digest_of
from filesync.disk.scanning.statcache import Seen, SeenFile, StatCache
from filesync.entropy import random_bits

_TRIED_ROWS: Final = 256
"""So many are looked at after each scan, from anywhere on: in time, what is gone goes."""


class NamesCache(StatCache):
    """What was read before of ``names`` in a directory; what else is noted there stays."""

    def __init__(
        self,
        path: Path,
        names: Set[bytes],
        is_there: Callable[[bytes], bool],
    ) -> None:
        """Open the cache at ``path``, or start one; see ``StatCache``.

        ``is_there`` says whether the directory has a name.
        """
        super().__init__(path)
        self._names = names
        self._of = digest_of(b"/".join(sorted(names)))
        self._is_there = is_there
        self._all: Seen | None = None  # of other names, too
        self._known: dict[bytes, SeenFile] = {}

    def load(self, directory: bytes, inode: int = 0) -> Seen | None:
        """Return what was seen of ``directory``; of the one that has the names, of them."""
        seen = super().load(directory, inode)
        if directory or seen is None:
            return seen
        if seen.of == self._of:
            return replace(seen, of=b"")
        some = seen.only(self._names)
        if some is not seen:
            self._all, self._known = seen, some.files()
        return replace(some, of=b"")

    def keep(self, directory: bytes, seen: Seen, inode: int = 0) -> None:
        """Keep what was seen of ``directory``, and what was known of other names that are there."""
        if directory:
            super().keep(directory, seen, inode)
        elif self._all is None:
            super().keep(directory, replace(seen, of=self._of), inode)
        elif seen.files() != self._known:  # of all there may be much to write
            known = self._all.files().values()
            others = [one for one in known if self._is_other(one[0].name)]
            super().keep(directory, seen.with_files(others), inode)

    def _is_other(self, name: bytes) -> bool:
        return name not in self._names and self._is_there(name)

    def _gone(self) -> Iterator[int]:
        first = 1 + random_bits(63) % max(1, len(self._seen) - _TRIED_ROWS + 1)
        for row, path in self._some_from(first, _TRIED_ROWS):
            top = path.partition(b"/")[0]
            is_met = row > len(self._seen) or self._seen[row - 1]
            if top and not is_met and (top in self._names or not self._is_there(top)):
                yield row
