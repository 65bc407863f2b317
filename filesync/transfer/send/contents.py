"""Which contents directories list, and where, in a few bytes a file."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from filesync.digest import Digest
from filesync.errors import MalformedManifest
from filesync.manifest import Entry, File, Manifest, Nodes, Subdirectory

_HOT_DIRECTORIES: Final = 64
_ORDINAL_BITS: Final = 32
_PART_BITS: Final = 6


class ListedFile(NamedTuple):
    """A file that has a content: its directory's path, and its entry there.

    Attributes:
        other: the path by which it is known, if that is another than its own.
    """

    directory: bytes
    file: File
    other: bytes | None = None

    @property
    def path(self) -> bytes:
        """By which it is known."""
        if self.other is not None:
            return self.other
        return self.directory + b"/" + self.file.name if self.directory else self.file.name


class Listed(NamedTuple):
    """A directory: its path, its node's digest, what is in it."""

    path: bytes
    tree: Digest
    entries: tuple[Entry, ...]


Decoded = Callable[[Digest], tuple[Entry, ...]]
"""The entries of a directory's node."""


def decoded_of(nodes: Nodes) -> Decoded:
    """Return what has the entries of directories in ``nodes``, of a few of them decoded already."""

    @lru_cache(_HOT_DIRECTORIES)
    def decoded(tree: Digest) -> tuple[Entry, ...]:
        return Manifest(tree, nodes).root.entries

    return decoded


class Contents:
    """The files of some directories by content digest. For several threads at once.

    Takes eight bytes a name and some hundred a directory: a sorted array of the first half of
    a digest's first eight bytes and the entry's ordinal in walk order. Directories are decoded
    again when a content of theirs is looked for, which is cheap as long as neighbours are looked
    for one after another.
    """

    def __init__(
        self, nodes: Nodes, directories: Iterable[Listed], *, decoded: Decoded | None = None
    ) -> None:
        """List ``directories``, whose nodes are in ``nodes``; ``decoded`` may be shared.

        Raises:
            MalformedManifest: they have more than 2^32 names.
        """
        self._decoded = decoded or decoded_of(nodes)
        self._paths: list[bytes] = []
        self._trees: list[Digest] = []
        self._firsts = array("Q")
        self._keys = _sorted(self._list(directories))

    def find(self, digest: Digest) -> ListedFile | None:
        """Return a file that has this content, or None if none of the directories lists any."""
        prefix = int.from_bytes(digest[:4], "big") << _ORDINAL_BITS
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys) and (ordinal := self._keys[at] - prefix) >> 32 == 0:
            number = bisect_right(self._firsts, ordinal) - 1
            entry = self._decoded(self._trees[number])[ordinal - self._firsts[number]]
            if isinstance(entry, File) and entry.digest == digest:
                return ListedFile(self._paths[number], entry)
            at += 1
        return None

    def _list(self, directories: Iterable[Listed]) -> Iterator[int]:
        ordinal = 0
        for path, tree, entries in directories:
            self._paths.append(path)
            self._trees.append(tree)
            self._firsts.append(ordinal)
            for entry in entries:
                if type(entry) is File:
                    yield int.from_bytes(entry.digest[:4], "big") << _ORDINAL_BITS | ordinal
                ordinal += 1
            if ordinal >> _ORDINAL_BITS:
                raise MalformedManifest("a tree of more names than can be offered")


class PlacedContents(Contents):
    """The contents of a tree whose files stand elsewhere than in it, and are known by where they are in it."""

    def __init__(self, manifest: Manifest, files: Manifest) -> None:
        """List ``manifest``, of which ``files`` has all contents, and maybe more; see ``Contents``."""
        super().__init__(manifest.nodes, directories_of(manifest))
        self._files = Contents(files.nodes, directories_of(files))

    def find(self, digest: Digest) -> ListedFile | None:
        """Return a file that has this content, or None if none in the tree has it."""
        known = super().find(digest)
        found = None if known is None else self._files.find(digest)
        return None if known is None or found is None else found._replace(other=known.path)


class GrowingContents:
    """The contents of directories that come one after another. For several threads at once.

    What is looked for is most often in what came last but a little: there the search begins.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        # One for all segments: with one each they would hold the whole tree, decoded.
        self._decoded = decoded_of(nodes)
        self._segments: list[Contents] = []
        self._hint = 0
        self._left_out = set[Digest]()

    def leave_out(self, digest: Digest) -> None:
        """Have nobody find a content any more."""
        self._left_out.add(digest)

    def add(self, directories: Iterable[Listed]) -> None:
        """Add what came next; many directories at once, since each time costs each search."""
        self._segments.append(Contents(self._nodes, directories, decoded=self._decoded))

    def find(self, digest: Digest) -> ListedFile | None:
        """Return a file that has this content, or None if none that came has it."""
        if digest in self._left_out:
            return None
        begin, count = self._hint, len(self._segments)  # other threads move the hint meanwhile
        for step in range(count):
            at = (begin + step) % count
            if (found := self._segments[at].find(digest)) is not None:
                self._hint = at
                return found
        return None


def directories_of(manifest: Manifest) -> Iterator[Listed]:
    """Yield all directories of ``manifest``, in walk order."""
    stack: list[tuple[bytes, Digest]] = [(b"", manifest.tree)]
    while stack:
        path, tree = stack.pop()
        entries = manifest.directory(tree).entries
        yield Listed(path, tree, entries)
        prefix = path + b"/" if path else b""
        below = [
            (prefix + entry.name, entry.tree)
            for entry in entries
            if type(entry) is Subdirectory
        ]
        stack += reversed(below)


def _sorted(keys: Iterator[int]) -> "array[int]":
    """Return ``keys`` in order; sorted all at once they would take 40 bytes each."""
    parts = [array("Q") for _ in range(1 << _PART_BITS)]
    for key in keys:
        parts[key >> 64 - _PART_BITS].append(key)
    found = array("Q")
    for part in parts:
        found.extend(sorted(part))
    return found
