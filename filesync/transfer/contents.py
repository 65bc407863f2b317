"""Which contents a manifest lists, and where, in a few bytes a file."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.errors import MalformedManifest
from filesync.manifest import Entry, File, Manifest, Subdirectory

_HOT_DIRECTORIES: Final = 64
_ORDINAL_BITS: Final = 32


class Place(NamedTuple):
    """A file that has a content: its directory's path, and its entry there."""

    directory: bytes
    file: File


class Contents:
    """The files of a manifest by content digest. For several threads at once.

    Takes eight bytes a name and some hundred a directory: a sorted array of the first half of
    a digest's first eight bytes and the entry's ordinal in walk order. Directories are decoded
    again when a content of theirs is looked for, which is cheap as long as neighbours are looked
    for one after another.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Walk the whole manifest. Blocks.

        Raises:
            MalformedManifest: it has more than 2^32 names.
        """
        self._manifest = manifest
        self._paths: list[bytes] = []
        self._trees: list[Digest] = []
        self._firsts = array("Q")
        self._entries = lru_cache(_HOT_DIRECTORIES)(self._decode)
        self._keys = array("Q", sorted(self._walk()))

    def find(self, digest: Digest) -> Place | None:
        """Return a file that has this content, or None if the manifest lists none."""
        prefix = int.from_bytes(digest[:4], "big") << _ORDINAL_BITS
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys) and (ordinal := self._keys[at] - prefix) >> 32 == 0:
            number = bisect_right(self._firsts, ordinal) - 1
            entry = self._entries(number)[ordinal - self._firsts[number]]
            if isinstance(entry, File) and entry.digest == digest:
                return Place(self._paths[number], entry)
            at += 1
        return None

    def _walk(self) -> Iterator[int]:
        stack: list[tuple[bytes, Digest]] = [(b"", self._manifest.tree)]
        ordinal = 0
        while stack:
            path, tree = stack.pop()
            entries = self._manifest.directory(tree).entries
            self._paths.append(path)
            self._trees.append(tree)
            self._firsts.append(ordinal)
            prefix = path + b"/" if path else b""
            below: list[tuple[bytes, Digest]] = []
            for entry in entries:
                if type(entry) is File:
                    yield int.from_bytes(entry.digest[:4], "big") << _ORDINAL_BITS | ordinal
                elif type(entry) is Subdirectory:
                    below.append((prefix + entry.name, entry.tree))
                ordinal += 1
            stack += reversed(below)
            if ordinal >> _ORDINAL_BITS:
                raise MalformedManifest("a tree of more names than can be offered")

    def _decode(self, number: int) -> tuple[Entry, ...]:
        return self._manifest.directory(self._trees[number]).entries
