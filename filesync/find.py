"""Finding paths in a manifest as the kernel would in a chroot, noting what was passed.

Links are followed inside the root only and '..' never leaves it, so a hostile tree can name
nothing but itself. Whatever a path passes is noted: a subset that has it finds the same.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from e2b_dockerfile_utils import PatternMatcher

from filesync.digest import Digest
from filesync.errors import PathMissing, UsageError
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
        filters: what any of these does not leave out, below it.
        is_read: its own attributes, where it is a directory on the way.
    """

    below: dict[bytes, "Kept"] = {}
    whole: bool = False
    filters: list[PatternMatcher] = []
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
        """Resolve ``names`` from the root as the kernel would in a chroot.

        Raises:
            PathMissing: they lead nowhere.
            UsageError: more than ``MAX_LINKS`` links.
        """
        asked = list(names)
        todo = asked[::-1]
        real: list[bytes] = []
        directories = [self.root]
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                self.kept.at(real)
                del real[-1:]
                del directories[len(real) + 1 :]
                continue
            entry = directories[-1].find(name)
            if isinstance(entry, Subdirectory):
                real.append(name)
                directories.append(self.directory(entry))
            elif isinstance(entry, Symlink) and (todo or follow_last):
                self.kept.at([*real, name])
                links += 1
                if links > MAX_LINKS:
                    raise UsageError(
                        f"{_shown(asked)!r}: more than {MAX_LINKS} links on the way"
                    )
                if entry.target.startswith(b"/"):
                    del real[:], directories[1:]
                todo.extend(_parts(entry.target)[::-1])
            elif entry is None or todo:
                raise PathMissing(_shown(asked))
            else:
                return Place((*real, name), None)
        return Place(tuple(real), directories[-1])


def _parts(target: bytes) -> list[bytes]:
    return [name for name in target.split(b"/") if name not in (b"", b".")]


def _shown(names: list[bytes]) -> str:
    return b"/".join(names).decode("utf-8", "backslashreplace")
