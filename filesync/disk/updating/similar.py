"""Old files that a new one may be an edit of, found by name and size.

The rule, first match first:

1. the same name in a directory of the same name, elsewhere;
2. the same name elsewhere;
3. in the same directory, the name that shares most at its two ends, at least half of the
   longer name.

A size more than eight times another is never like it; of several that match, the nearest in
size is taken.

Files that are gone or replaced come first. What stays is rarely what a new name came from (a dump of
the day is, of the last one beside it; a photo is not), and a wrong try costs the old file's reading and the
recipe of the new one. So it is a guess for large files alone; whoever fetches goes by what guesses were good
for (``filesync.transfer.receive.guesses``).
"""

from bisect import bisect_left
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.manifest import File

MAX_NOTED: Final = 32_768
"""Bound on files that are remembered: about 15 MB."""
GUESSED_BYTES: Final = 256 << 10
"""No smaller new file is compared with one that stays."""
_MAX_OF_A_NAME: Final = 8
MAX_RATIO: Final = 8
_NEIGHBOURS: Final = 4


class OldFile(NamedTuple):
    """A file of the old tree: its directory there, its name, size and content."""

    path: bytes
    name: bytes
    size: int
    digest: Digest


class Similar:
    """Finds for a new file the old one that it is most likely an edit of."""

    def __init__(self) -> None:
        self._files: list[OldFile] = []
        self._named: dict[bytes, list[OldFile]] | None = None
        self._placed: dict[bytes, _Names] = {}

    @property
    def has_any(self) -> bool:
        """Say whether any file was noted."""
        return bool(self._files)

    @property
    def is_full(self) -> bool:
        """Say whether no more files are noted."""
        return len(self._files) >= MAX_NOTED

    def note(self, path: bytes, file: File) -> None:
        """Note a file of the old tree's directory ``path``; all of them before any ``find``."""
        if file.size and not self.is_full:
            self._files.append(OldFile(path, file.name, file.size, file.digest))

    def find(self, path: bytes, file: File) -> OldFile | None:
        """Return what ``file``, new in ``path``, resembles; None if that is nothing."""
        if not self._files or not file.size:
            return None
        if self._named is None:
            self._named = self._index()
        name, size = file.name, file.size
        for key in (_last_two(path, name), name):
            if (found := _nearest(self._named.get(key, ()), size)) is not None:
                return found
        names = self._placed.get(path)
        return names.find(name, size) if names is not None else None

    def _index(self) -> dict[bytes, list[OldFile]]:
        named: dict[bytes, list[OldFile]] = {}
        placed: dict[bytes, list[OldFile]] = {}
        for file in self._files:
            for key in (_last_two(file.path, file.name), file.name):
                alike = named.setdefault(key, [])
                if len(alike) < _MAX_OF_A_NAME:
                    alike.append(file)
            placed.setdefault(file.path, []).append(file)
        self._placed = {path: _Names(files) for path, files in placed.items()}
        return named


class _Names:
    """The old files of one directory, by how their names begin and how they end."""

    __slots__ = ("_backward", "_forward")

    def __init__(self, files: list[OldFile]) -> None:
        self._forward = sorted((file.name, file) for file in files)
        self._backward = sorted((file.name[::-1], file) for file in files)

    def find(self, name: bytes, size: int) -> OldFile | None:
        near: dict[bytes, OldFile] = {}
        for names, key in ((self._forward, name), (self._backward, name[::-1])):
            # What shares the longest beginning stands beside the key, on one side or the other.
            at = bisect_left(names, key, key=lambda pair: pair[0])
            for _, file in names[max(at - _NEIGHBOURS, 0) : at + _NEIGHBOURS]:
                near[file.name] = file
        best = max((_shared(name, other) for other in near), default=0)
        alike = [
            file
            for other, file in near.items()
            if _shared(name, other) == best and 2 * best >= max(len(name), len(other))
        ]
        return _nearest(alike, size)


def _last_two(path: bytes, name: bytes) -> bytes:
    return path[path.rfind(b"/") + 1 :] + b"/" + name


def _nearest(files: list[OldFile] | tuple[()], size: int) -> OldFile | None:
    best = None
    for file in files:
        is_alike = file.size <= size * MAX_RATIO and size <= file.size * MAX_RATIO
        if is_alike and (best is None or abs(file.size - size) < abs(best.size - size)):
            best = file
    return best


def _shared(one: bytes, other: bytes) -> int:
    """Return how many bytes two names share at their ends, none counted twice."""
    most = min(len(one), len(other))
    start = 0
    while start < most and one[start] == other[start]:
        start += 1
    end = 0
    while end < most - start and one[-1 - end] == other[-1 - end]:
        end += 1
    return start + end
