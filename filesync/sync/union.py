"""Directories that go to one place and are scanned at once, as what is below the one that has them all."""

import os
from itertools import takewhile
from typing import Final

from filesync.disk.reserved import is_reserved
from filesync.manifest.node import is_name
from filesync.process.descriptors import OUT_OF_ROOM
from filesync.sync.places import Place, Places

MOST_DOWN: Final = 8
"""Names below the one directory that has them all: what is on the way is opened, each from the root on."""

_Names = tuple[bytes, ...]


class Union:
    """Directories that go to one place, as they are met one after another; in the end they are the place's.

    They are as far down as each other, and reached through no link below the one that has them all. Nor
    does another file system begin on the way, but at the first name: where that matters, each begins
    on its own.

    Attributes:
        inside: the name under which what they come to stands in the destination.
        place: the directory that all of them are below; None as long as there is only one.
    """

    def __init__(self, places: Places, inside: bytes) -> None:
        self.inside = inside
        self.place: Place | None = None
        self._places = places
        self._root: _Names = ()
        self._found: dict[_Names, None] = {}
        self._devices: dict[_Names, int] = {}

    def takes(self, path: bytes) -> bool:
        """Add the directory ``path``, which can be read; say no if it cannot be one with the others.

        With another one the place is another. The caller closes both.

        Raises:
            OSError: this process has no room for more.
        """
        if not (names := _names(path)):
            return False
        first = next(iter(self._found), names)
        root = _common(self._root, names[:-1]) if self._found else names[:-1]
        if len(names) != len(first) or not self._are_ways(root, names):
            return False
        if root != self._root and not all(self._are_ways(root, one) for one in self._found):
            return False
        if self._found and (self.place is None or root != self._root):
            fd = self._opened(root)
            if fd is None:
                return False
            self.place = Place(fd, self._places.path_of(_path(root)), names=None, label=path)
        self._root = root
        self._found[names] = None
        return True

    def end(self) -> None:
        """Give the place what it is."""
        if self.place is not None:
            below = [names[len(self._root) :] for names in self._found]
            self.place.names = frozenset(names[0] for names in below)
            self.place.trees = True
            self.place.united = tuple(map(_path, below))

    def _are_ways(self, root: _Names, names: _Names) -> bool:
        """Say whether all that leads to ``names`` below ``root`` are directories that are scanned with that."""
        if len(names) - len(root) > MOST_DOWN:
            return False
        ways = [names[:end] for end in range(len(root) + 1, len(names) + 1)]
        devices = {self._device_of(way) for way in ways}
        return len(devices) == 1 and None not in devices

    def _device_of(self, names: _Names) -> int | None:
        """Return the device of a directory; None if it is a link, or cannot be listed."""
        if names not in self._devices:
            if not is_name(names[-1]) or is_reserved(names[-1]):
                return None
            fd = None if self._places.is_link(_path(names)) else self._opened(names)
            if fd is None:
                return None
            self._devices[names] = os.fstat(fd).st_dev
            os.close(fd)
        return self._devices[names]

    def _opened(self, names: _Names) -> int | None:
        try:
            return self._places.open(_path(names))
        except OSError as exc:
            if exc.errno in OUT_OF_ROOM:
                raise
            return None


def _names(path: bytes) -> _Names:
    """Return the names that lead to ``path``; the first is b"" from the root on."""
    first, *rest = path.split(b"/")
    names = [name for name in rest if name not in (b"", b".")]
    return tuple(names) if first == b"." else (first, *names)


def _path(names: _Names) -> bytes:
    return b"/" if names == (b"",) else b"/".join(names)


def _common(one: _Names, other: _Names) -> _Names:
    """Return what both begin with."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(name for name, _ in pairs)
