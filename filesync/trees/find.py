"""Finding paths in a manifest as the kernel would in a chroot, noting what was passed.

Links are followed inside the root only and '..' never leaves it, so a hostile tree can name
nothing but itself. Whatever a path passes is noted: a subset that has it finds the same.
"""

from collections.abc import Callable, Iterable
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec
from e2b_dockerfile_utils import PatternMatcher

from filesync.digest import Digest
from filesync.errors import PathMissing, TooManyLinks
from filesync.manifest import Directory, Manifest, Subdirectory, Symlink

MAX_LINKS: Final = 255
"""Bound on the links met while one path is resolved."""


def clean(path: bytes) -> list[bytes]:
    """Return the names in ``path`` without empty ones and '.'; '..' goes up, at most to the root."""
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    return names


def text_of(name: bytes) -> str:
    """Return a name as text; bytes that are not UTF-8 become surrogates."""
    return name.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """Return the name that ``text_of`` made ``text`` of."""
    return text.encode("utf-8", "surrogateescape")


class Kept(msgspec.Struct):
    """What to keep at one place: itself, of its entries those in ``below``, and more.

    Attributes:
        whole: all that is below it.
        filters: what any of these does not leave out, below it; each with what stands before the
            names that it is asked about.
        is_read: its own attributes, where it is a directory on the way.
    """

    below: dict[bytes, "Kept"] = {}
    whole: bool = False
    filters: list[tuple[PatternMatcher, str]] = []
    is_read: bool = False

    def at(self, names: Iterable[bytes], *, read: bool = False) -> "Kept":
        """Return the place ``names`` below this one; from now on it is kept.

        With ``read`` the attributes of all from here to there are too.
        """
        kept = self
        kept.is_read |= read
        for name in names:
            kept = kept.below.setdefault(name, Kept())
            kept.is_read |= read
        return kept


D = TypeVar("D")
L = TypeVar("L")


class End(NamedTuple, Generic[L]):
    """What is no directory: a walk ends there, unless it is a link and leads to ``target``."""

    node: L
    target: bytes | None = None


def walk(
    root: D,
    names: Iterable[bytes],
    look: Callable[[D, bytes], D | End[L] | None],
    kept: Kept,
    *,
    follow_last: bool,
) -> tuple[tuple[bytes, ...], D | L]:
    """Resolve ``names`` from ``root`` as the kernel would in a chroot: the real path, what is there.

    ``look`` says what a directory has under a name, None if nothing; what it raises ends the
    walk. Links, and what stands before a '..', are noted in ``kept``.

    Raises:
        PathMissing: they lead nowhere.
        TooManyLinks: more than ``MAX_LINKS`` links.
    """
    asked = list(names)
    todo = asked[::-1]
    real: list[bytes] = []
    above = [root]
    links = 0
    while todo:
        name = todo.pop()
        if name == b"..":
            kept.at(real)
            del real[-1:]
            del above[len(real) + 1 :]
            continue
        there = look(above[-1], name)
        if there is None:
            raise PathMissing(_shown(asked))
        if not isinstance(there, End):
            real.append(name)
            above.append(there)
        elif there.target is not None and (todo or follow_last):
            kept.at([*real, name])
            links += 1
            if links > MAX_LINKS:
                raise TooManyLinks(_shown(asked))
            if there.target.startswith(b"/"):
                del real[:], above[1:]
            todo.extend(_parts(there.target)[::-1])
        elif todo:
            raise PathMissing(_shown(asked))
        else:
            return (*real, name), there.node
    return tuple(real), above[-1]


class Place(msgspec.Struct, frozen=True):
    """A real path, and what is there: a directory, or something else."""

    names: tuple[bytes, ...]
    directory: Directory | None

    @property
    def is_directory(self) -> bool:
        """Say whether a directory is there."""
        return self.directory is not None


class Finder:
    """Finds paths in one manifest, and notes in ``kept`` whatever it passed on the way."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.root = manifest.root
        self.kept = Kept()
        self._directories: dict[Digest, Directory] = {}

    def directory(self, entry: Subdirectory) -> Directory:
        """Return the directory of ``entry``; many picks pass through the same few."""
        found = self._directories.get(entry.tree)
        if found is None:
            found = self._directories[entry.tree] = self.manifest.directory(entry.tree)
        return found

    def follow(self, names: Iterable[bytes], *, follow_last: bool = True) -> Place:
        """Resolve ``names`` from the root; see ``walk`` for what that raises."""
        return Place(*walk(self.root, names, self._look, self.kept, follow_last=follow_last))

    def follow_to_directory(self, names: list[bytes]) -> tuple[tuple[bytes, ...], Directory]:
        """Resolve ``names`` as ``follow`` does; what is no directory is missing, too."""
        place = self.follow(names)
        if place.directory is None:
            raise PathMissing(f"{_shown(names)}/")
        return place.names, place.directory

    def _look(self, at: Directory, name: bytes) -> Directory | End[None] | None:
        entry = at.find(name)
        if isinstance(entry, Subdirectory):
            return self.directory(entry)
        if entry is None:
            return None
        return End(None, entry.target if isinstance(entry, Symlink) else None)


def _parts(target: bytes) -> list[bytes]:
    return [name for name in target.split(b"/") if name not in (b"", b".")]


def _shown(names: list[bytes]) -> str:
    return b"/".join(names).decode("utf-8", "backslashreplace")
