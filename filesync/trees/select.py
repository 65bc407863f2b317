"""Selectors: the subpaths that an operation reads of a tree, and the subset that they leave.

A subset has all that an operation needs to find what it reads, by the same path, as if the
whole tree were there: every directory and link on the way, what links lead to, and all below a
directory that is named. For every pick, ``matched`` gives the same on a tree and on its subset.
Of a directory that is only on the way nobody reads the attributes, so a subset has it as a
neutral one: its digests depend on what is read and on nothing else.

The rules are those of Dockerfile's COPY: links are followed inside the root only, '..' never
leaves it, a path's own '..' is removed before any link is looked at, and the directories that
a pattern's wildcards pass through are real ones, not links to them.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from e2b_dockerfile_utils import PatternMatcher

from filesync.errors import PathMissing, UsageError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
)
from filesync.trees.find import Finder, Kept, Place, bytes_of, clean, text_of
from filesync.trees.glob import DEEP, compile_name, is_pattern, unescape

__all__ = [
    "Match",
    "Pick",
    "Selector",
    "clean",
    "matched",
    "pattern_of",
    "resolve",
    "select",
]


class Pick(msgspec.Struct, frozen=True):
    """One path, or Go ``path.Match`` pattern, with all that lies below it.

    Attributes:
        path: '/'-separated, relative to the tree's root; a leading '/' changes nothing.
        exclude: .dockerignore-like patterns; what they match is left out. Relative to the
            directory that ``path`` names; for a file that a wildcard matches, its name. With
            ``parents`` to the root, or to what stands before a '/./' in ``path``.
        wildcard: ``path`` is a pattern ('*' and '?' stop at '/'); one that matches nothing
            picks nothing. Without it, or without a wildcard in it, a path that is not there
            is an error; so is it where what stands before the first wildcard is no directory.
        parents: the attributes of the directories on the way are read too, and in a pattern
            the name '**' stands for any number of directories, none too. A pattern of which
            the beginning is not there picks nothing.
    """

    path: Annotated[str, msgspec.Meta(max_length=4096)]
    exclude: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()
    wildcard: bool = False
    parents: bool = False


class Selector(msgspec.Struct, frozen=True):
    """The union of its picks."""

    picks: Annotated[tuple[Pick, ...], msgspec.Meta(max_length=10_000)]


def select(manifest: Manifest, selector: Selector, nodes: Nodes) -> Manifest:
    """Return the subset of ``manifest`` that ``selector`` names.

    New directory nodes go to ``nodes``, which must also hold ``manifest``'s own (a
    ``LayeredNodes`` over them does). Only directories on the way are read; one that is picked
    whole keeps its digest. The root is always there, even with no picks.

    Raises:
        PathMissing: a literal path, or what a pattern begins with, is not there.
        UsageError: a pattern is malformed, or a path has too many links.
    """
    finder = Finder(manifest)
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
    return b"/".join(Finder(manifest).follow(clean(path)).names)


class Match(msgspec.Struct, frozen=True):
    """A path that a pick names, before (``path``) and after (``real``) its last link.

    A link that a wildcard matches and that leads nowhere stands for itself.
    """

    path: bytes
    real: bytes


def matched(manifest: Manifest, pick: Pick) -> list[Match]:
    """Return what ``pick`` names, in walk order of the names it matches.

    A directory stands for all below it; ``pick.exclude`` is applied to matched files, but what
    it leaves out below a directory is the caller's to leave out.

    Raises:
        PathMissing: a literal path, or what a pattern begins with, is not there.
        UsageError: a pattern is malformed, or a path has too many links.
    """
    return [
        Match(b"/".join(path), b"/".join(place.names))
        for path, place, _ in _find(Finder(manifest), pick, _matcher(pick))
    ]


def pattern_of(pick: Pick) -> tuple[list[bytes], list[str]]:
    """Return the names that a pick's path begins with, and the parts that match names below them.

    Each part is for one level. Where '**' stands for any number of them, all that is there is
    matched: a pick may name less.
    """
    prefix, parts = _pattern_of(pick)
    if pick.parents and DEEP in parts:
        parts = [*parts[: parts.index(DEEP)], "*"]
    return prefix, parts


def _pattern_of(pick: Pick) -> tuple[list[bytes], list[str]]:
    names = clean(bytes_of(pick.path))
    if not pick.wildcard:
        return names, []
    parts = [text_of(name) for name in names]
    first = next((i for i, part in enumerate(parts) if is_pattern(part)), len(parts))
    return [bytes_of(unescape(part)) for part in parts[:first]], parts[first:]


# --- what is kept ---------------------------------------------------------------------------


class _Filter(msgspec.Struct, frozen=True):
    """A pick's excludes at some directory below what the pick names."""

    matcher: PatternMatcher
    prefix: str

    def keeps(self, name: str) -> bool:
        return not self.matcher.matches(self.prefix + name)

    def may_keep_under(self, name: str) -> bool:
        return self.keeps(name) or self.matcher.may_match_under(self.prefix + name)

    def under(self, name: str) -> "_Filter":
        return _Filter(self.matcher, f"{self.prefix}{name}/")


class _Reduced(msgspec.Struct, frozen=True):
    """A directory of the subset on its way.

    ``kept`` is None where only the filters decide.
    """

    directory: Directory
    kept: Kept | None
    filters: tuple[_Filter, ...]
    drop_if_empty: bool = False


def _keep_pick(finder: "Finder", pick: Pick) -> None:
    matcher = _matcher(pick)
    for path, place, rest in _find(finder, pick, matcher):
        finder.kept.at(path, read=pick.parents)
        kept = finder.kept.at(place.names, read=pick.parents)
        if not place.is_directory or matcher is None:
            kept.whole = True
        else:
            kept.filters.append((matcher, "".join(f"{name}/" for name in rest)))


def _reduce(finder: "Finder", at: _Reduced) -> Expansion[_Reduced]:
    filters = at.filters
    below: dict[bytes, Kept] = {}
    if at.kept is not None:
        below = at.kept.below
        filters += tuple(_Filter(*pair) for pair in at.kept.filters)
    is_read = bool(filters) or at.kept is None or at.kept.is_read
    header = at.directory if is_read else EMPTY_DIRECTORY
    expansion: Expansion[_Reduced] = Expansion(header, [], [], drop_if_empty=at.drop_if_empty)
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
        elif kept is not None or any(f.keeps(text_of(entry.name)) for f in filters):
            expansion.entries.append(entry)
    return expansion


def _reduced_child(
    finder: "Finder", entry: Subdirectory, kept: Kept | None, filters: tuple[_Filter, ...]
) -> _Reduced | None:
    name = text_of(entry.name)
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


_Found = tuple[tuple[bytes, ...], Place, Sequence[str]]
"""A path before its last link, where that leads, and the names of it that excludes are asked about."""


def _find(finder: Finder, pick: Pick, matcher: PatternMatcher | None) -> list[_Found]:
    """Return all that ``pick`` names."""
    prefix, patterns = _pattern_of(pick)
    above = _above_pivot(pick)
    if not patterns:
        rest = [text_of(name) for name in prefix[above:]] if pick.parents else []
        return [(*_follow_literal(finder, prefix), rest)]
    found: list[_Found] = []
    depth, matches = _expand(finder, prefix, patterns, is_deep=pick.parents)
    for path, entry in matches:
        is_directory = isinstance(entry, Subdirectory)
        rest = [text_of(name) for name in (*prefix, *path[depth:])[above:]]
        asked = "/".join(rest) if pick.parents else rest[-1]
        if matcher is None or not _leaves_out(matcher, asked, pick, is_directory=is_directory):
            found.append((path, _follow_match(finder, path), rest if pick.parents else []))
    return found


def _above_pivot(pick: Pick) -> int:
    head, pivot, _ = pick.path.partition("/./")
    return len(clean(bytes_of(head))) if pivot and pick.parents else 0


def _leaves_out(matcher: PatternMatcher, asked: str, pick: Pick, *, is_directory: bool) -> bool:
    if not is_directory:
        return matcher.matches(asked)
    # Of a directory that is excluded, what lies below may be taken back in.
    return pick.parents and matcher.matches(asked) and not matcher.may_match_under(asked)


def _follow_literal(finder: Finder, names: list[bytes]) -> tuple[tuple[bytes, ...], Place]:
    place = finder.follow(names)
    before = finder.follow(names, follow_last=False)
    return before.names, place


def _follow_match(finder: Finder, path: tuple[bytes, ...]) -> Place:
    try:
        return finder.follow(path)
    except (PathMissing, UsageError):
        return Place(path, None)


_Level = list[tuple[tuple[bytes, ...], Directory]]
"""Directories, each with its path."""


def _expand(
    finder: Finder, prefix: list[bytes], parts: list[str], *, is_deep: bool
) -> tuple[int, list[tuple[tuple[bytes, ...], Entry]]]:
    """Match ``parts`` one level at a time below ``prefix``, in walk order.

    The number is how many names of each path stand for ``prefix``, whose links were followed.
    """
    tests = [(is_deep and part == DEEP, compile_name(part)) for part in parts]
    try:
        start, directory = finder.follow_to_directory(prefix)
    except PathMissing:
        if is_deep:
            return 0, []
        raise
    finder.kept.at(start)
    level: _Level = [(start, directory)]
    found: list[tuple[tuple[bytes, ...], Entry]] = []
    for number, (goes_down, test) in enumerate(tests, 1):
        if goes_down and number < len(tests):
            level = _all_below(finder, level)
            continue
        found = [
            ((*names, entry.name), entry)
            for names, directory in level
            for entry in directory.entries
            if test(text_of(entry.name))
        ]
        level = _directories(finder, found)
    return len(start), found


def _directories(finder: Finder, found: Iterable[tuple[tuple[bytes, ...], Entry]]) -> _Level:
    return [
        (names, finder.directory(entry))
        for names, entry in found
        if isinstance(entry, Subdirectory)
    ]


def _all_below(finder: Finder, level: _Level) -> _Level:
    """Return ``level`` with all directories below it, in walk order, each once."""
    known: dict[tuple[bytes, ...], Directory] = {}
    todo = list(level)
    while todo:
        names, directory = todo.pop()
        if names not in known:
            known[names] = directory
            below = [((*names, entry.name), entry) for entry in directory.entries]
            todo.extend(_directories(finder, below))
    return [(names, known[names]) for names in sorted(known)]


def _matcher(pick: Pick) -> PatternMatcher | None:
    if not pick.exclude:
        return None
    try:
        matcher = PatternMatcher(list(pick.exclude))
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    return matcher if matcher.patterns else None
