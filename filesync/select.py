"""Selectors: the subpaths that an operation reads of a tree, and the subset that they leave.

A subset has all that an operation needs to find what it reads, by the same path, as if the
whole tree were there: every directory and link on the way, what links lead to, and all below a
directory that is named. For every pick, ``matches`` gives the same on a tree and on its subset.

The rules are those of Dockerfile's COPY: links are followed inside the root only, '..' never
leaves it, a path's own '..' is removed before any link is looked at, and the directories that
a pattern's wildcards pass through are real ones, not links to them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from e2b_dockerfile_utils import PatternMatcher

from filesync.digest import Digest
from filesync.errors import PathMissing, UsageError
from filesync.glob import compile_name, is_pattern, unescape
from filesync.manifest import (
    Directory,
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    Symlink,
    canonical_links,
    grow,
)

MAX_LINKS: Final = 255
"""Bound on the links met while one path is resolved."""


class Pick(msgspec.Struct, frozen=True):
    """One path, or Go ``path.Match`` pattern, with all that lies below it.

    Attributes:
        path: '/'-separated, relative to the tree's root; a leading '/' changes nothing.
        exclude: .dockerignore-like patterns; what they match is left out. Relative to the
            directory that ``path`` names; for a file that a wildcard matches, its name.
        wildcard: ``path`` is a pattern ('*' and '?' stop at '/'); one that matches nothing
            picks nothing. Without it, or without a wildcard in it, a path that is not there
            is an error.
    """

    path: Annotated[str, msgspec.Meta(max_length=4096)]
    exclude: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()
    wildcard: bool = False


class Selector(msgspec.Struct, frozen=True):
    """The union of its picks."""

    picks: Annotated[tuple[Pick, ...], msgspec.Meta(max_length=10_000)]


def select(manifest: Manifest, selector: Selector, nodes: Nodes) -> Manifest:
    """Return the subset of ``manifest`` that ``selector`` names.

    New directory nodes go to ``nodes``, which must also hold ``manifest``'s own (a
    ``LayeredNodes`` over them does). Only directories on the way are read; one that is picked
    whole keeps its digest. The root's header is always there, even with no picks.

    Raises:
        PathMissing: a literal path is not there.
        UsageError: a pattern is malformed, or a path has too many links.
    """
    finder = _Finder(manifest)
    for pick in selector.picks:
        _keep_pick(finder, pick)
    if finder.kept.whole:
        return Manifest(manifest.tree, nodes)
    root = _Reduced(finder.root, finder.kept, ())
    tree = grow(nodes, root, lambda at: _reduce(finder, at))
    return Manifest(canonical_links(nodes, tree), nodes)


def resolve(manifest: Manifest, path: bytes) -> bytes:
    """Return the real path behind ``path``, links followed inside the root; b"" is the root.

    Raises:
        PathMissing: it is not there.
        UsageError: it has too many links.
    """
    return b"/".join(_Finder(manifest).follow(clean(path)).names)


def matches(manifest: Manifest, pick: Pick) -> list[bytes]:
    """Return the real paths that ``pick`` names, in walk order of the names it matches.

    A directory stands for all below it; ``pick.exclude`` is applied to matched files, but what
    it leaves out below a directory is the caller's to leave out. See ``matched`` for the names
    before their last link is followed.

    Raises:
        PathMissing: a literal path is not there.
        UsageError: a pattern is malformed, or a path has too many links.
    """
    return list(dict.fromkeys(match.real for match in matched(manifest, pick)))


@dataclass(frozen=True, slots=True)
class Match:
    """A path that a pick names, before (``path``) and after (``real``) its last link.

    A link that a wildcard matches and that leads nowhere stands for itself.
    """

    path: bytes
    real: bytes


def matched(manifest: Manifest, pick: Pick) -> list[Match]:
    """Return what ``pick`` names, as ``matches`` does, with the names that were matched.

    Raises:
        PathMissing: a literal path is not there.
        UsageError: a pattern is malformed, or a path has too many links.
    """
    return [
        Match(b"/".join(path), b"/".join(place.names))
        for path, place in _find(_Finder(manifest), pick, _matcher(pick))
    ]


def clean(path: bytes) -> list[bytes]:
    """Return the names in ``path`` without empty ones and '.'; '..' goes up, at most to the root."""
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    return names


# --- what is kept ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Kept:
    """What to keep at one place: itself, of its entries those in ``below``, and more.

    Attributes:
        whole: all that is below it.
        filters: what any of these does not leave out, below it.
    """

    below: dict[bytes, "_Kept"] = field(default_factory=dict)
    whole: bool = False
    filters: list[PatternMatcher] = field(default_factory=list)

    def at(self, names: Iterable[bytes]) -> "_Kept":
        """Return the place ``names`` below this one; from now on it is kept."""
        kept = self
        for name in names:
            kept = kept.below.setdefault(name, _Kept())
        return kept


@dataclass(frozen=True, slots=True)
class _Filter:
    """A pick's excludes at some directory below what the pick names."""

    matcher: PatternMatcher
    prefix: str

    def keeps(self, name: str) -> bool:
        return not self.matcher.matches(self.prefix + name)

    def may_keep_under(self, name: str) -> bool:
        return self.keeps(name) or self.matcher.may_match_under(self.prefix + name)

    def under(self, name: str) -> "_Filter":
        return _Filter(self.matcher, f"{self.prefix}{name}/")


@dataclass(frozen=True, slots=True)
class _Reduced:
    """A directory of the subset on its way.

    ``kept`` is None where only the filters decide.
    """

    directory: Directory
    kept: _Kept | None
    filters: tuple[_Filter, ...]
    drop_if_empty: bool = False


def _keep_pick(finder: "_Finder", pick: Pick) -> None:
    matcher = _matcher(pick)
    for path, place in _find(finder, pick, matcher):
        finder.kept.at(path)
        kept = finder.kept.at(place.names)
        if not place.is_directory or matcher is None:
            kept.whole = True
        else:
            kept.filters.append(matcher)


def _reduce(finder: "_Finder", at: _Reduced) -> Expansion[_Reduced]:
    filters = at.filters
    below: dict[bytes, _Kept] = {}
    if at.kept is not None:
        below = at.kept.below
        filters += tuple(_Filter(matcher, "") for matcher in at.kept.filters)
    expansion: Expansion[_Reduced] = Expansion(
        at.directory, [], [], drop_if_empty=at.drop_if_empty
    )
    # Without filters only the kept names matter, and a directory may have many others.
    candidates = at.directory.entries if filters else _entries(at.directory, below)
    for entry in candidates:
        kept = below.get(entry.name)
        if kept is not None and kept.whole:
            expansion.entries.append(entry)
        elif isinstance(entry, Subdirectory):
            child = _reduced_child(finder, entry, kept, filters)
            if child is not None:
                expansion.children.append((entry.name, child))
        elif kept is not None or any(f.keeps(_text(entry.name)) for f in filters):
            expansion.entries.append(entry)
    return expansion


def _reduced_child(
    finder: "_Finder", entry: Subdirectory, kept: _Kept | None, filters: tuple[_Filter, ...]
) -> _Reduced | None:
    name = _text(entry.name)
    entered = tuple(f.under(name) for f in filters if f.may_keep_under(name))
    if kept is None and not entered:
        return None
    # A directory that is excluded is kept only for the sake of what is taken back in below it.
    only_on_the_way = kept is None and not any(f.keeps(name) for f in filters)
    directory = finder.manifest.directory(entry.tree)
    return _Reduced(directory, kept, entered, drop_if_empty=only_on_the_way)


def _entries(directory: Directory, names: Iterable[bytes]) -> list[Entry]:
    return [entry for name in names if (entry := directory.find(name)) is not None]


# --- what a pick names ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A real path, and what is there: a directory, or something else."""

    names: tuple[bytes, ...]
    directory: Directory | None

    @property
    def is_directory(self) -> bool:
        return self.directory is not None


class _Finder:
    """Finds paths in one manifest, and notes in ``kept`` whatever it passed on the way."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.root = manifest.root
        self.kept = _Kept()
        self._directories: dict[Digest, Directory] = {}

    def directory(self, entry: Subdirectory) -> Directory:
        """Return the directory of ``entry``; many picks pass through the same few."""
        found = self._directories.get(entry.tree)
        if found is None:
            found = self._directories[entry.tree] = self.manifest.directory(entry.tree)
        return found

    def follow(self, names: Iterable[bytes], *, follow_last: bool = True) -> _Place:
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
                    raise UsageError(f"{_shown(asked)}: more than {MAX_LINKS} links on the way")
                if entry.target.startswith(b"/"):
                    del real[:], directories[1:]
                todo.extend(_parts(entry.target)[::-1])
            elif entry is None or todo:
                raise PathMissing(_shown(asked))
            else:
                return _Place((*real, name), None)
        return _Place(tuple(real), directories[-1])


def _find(
    finder: _Finder, pick: Pick, matcher: PatternMatcher | None
) -> list[tuple[tuple[bytes, ...], _Place]]:
    """Return (path before its last link, place) of all that ``pick`` names."""
    names = clean(_bytes(pick.path))
    parts = [_text(name) for name in names]
    first = next((i for i, part in enumerate(parts) if is_pattern(part)), len(parts))
    if not pick.wildcard or first == len(parts):
        if pick.wildcard:
            names = [_bytes(unescape(part)) for part in parts]
        return [_follow_literal(finder, names)]
    found = []
    prefix = [_bytes(unescape(part)) for part in parts[:first]]
    for path, entry in _expand(finder, prefix, parts[first:]):
        is_directory = isinstance(entry, Subdirectory)
        if is_directory or matcher is None or not matcher.matches(_text(path[-1])):
            found.append((path, _follow_match(finder, path)))
    return found


def _follow_literal(finder: _Finder, names: list[bytes]) -> tuple[tuple[bytes, ...], _Place]:
    place = finder.follow(names)
    before = finder.follow(names, follow_last=False)
    return before.names, place


def _follow_match(finder: _Finder, path: tuple[bytes, ...]) -> _Place:
    try:
        return finder.follow(path)
    except (PathMissing, UsageError):
        return _Place(path, None)


def _expand(
    finder: _Finder, prefix: list[bytes], parts: list[str]
) -> list[tuple[tuple[bytes, ...], Entry]]:
    """Match ``parts`` one level at a time below ``prefix``, in walk order."""
    tests = [compile_name(part) for part in parts]
    try:
        start = finder.follow(prefix)
    except PathMissing:
        return []
    if start.directory is None:
        return []
    finder.kept.at(start.names)
    level = [(start.names, start.directory)]
    found: list[tuple[tuple[bytes, ...], Entry]] = []
    for test in tests:
        found = [
            ((*names, entry.name), entry)
            for names, directory in level
            for entry in directory.entries
            if test(_text(entry.name))
        ]
        level = [
            (names, finder.directory(entry))
            for names, entry in found
            if isinstance(entry, Subdirectory)
        ]
    return found


def _matcher(pick: Pick) -> PatternMatcher | None:
    if not pick.exclude:
        return None
    try:
        matcher = PatternMatcher(list(pick.exclude))
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    return matcher if matcher.patterns else None


def _parts(target: bytes) -> list[bytes]:
    return [name for name in target.split(b"/") if name not in (b"", b".")]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(names: list[bytes]) -> str:
    return b"/".join(names).decode("utf-8", "backslashreplace")
