"""What one sync is to do: what is there, what shall be, what differs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
from e2b_dockerfile_utils import PatternMatcher

from filesync.diff import diff
from filesync.digest import Digest, digest_of
from filesync.disk.handles import shown
from filesync.disk.scan import scan
from filesync.disk.statcache import StatCache
from filesync.errors import StoreError, UsageError
from filesync.manifest import (
    Directory,
    Entry,
    Expansion,
    Manifest,
    Nodes,
    Subdirectory,
    canonical_links,
    grow,
    put,
    with_entries,
)
from filesync.overlay import overlay
from filesync.transfer.places_disk import Place


class Excludes:
    """What a sync leaves alone, by patterns like those of .dockerignore.

    Raises:
        UsageError: a pattern is malformed.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        try:
            self._matcher = PatternMatcher(list(patterns))
        except ValueError as exc:
            raise UsageError(str(exc)) from exc

    def excludes(self, path: str) -> bool:
        """Say whether ``path`` is left out."""
        return bool(self._matcher.matches(path))

    def may_prune(self, directory: str) -> bool:
        """Say whether all below an excluded directory is left out as well."""
        return not self._matcher.may_match_under(directory)


class _AllBut:
    """Leaves out everything but one name."""

    def __init__(self, name: bytes) -> None:
        self._name = os.fsdecode(name)

    def excludes(self, path: str) -> bool:
        return path != self._name

    def may_prune(self, directory: str) -> bool:
        return True


def scan_place(
    place: Place, nodes: Nodes, *, excludes: Sequence[str] = (), caches: Path | None
) -> Manifest:
    """Return the manifest of what ``place`` names; its nodes go to ``nodes``. Blocks.

    Raises:
        UsageError: a pattern is malformed.
        StoreError: something cannot be read.
        SourceChanged: a file changed at every try.
    """
    if place.only is not None:
        found = scan(place.root, nodes, excludes=_AllBut(place.only))
        return Manifest(found.tree, nodes)
    filtered = Excludes(excludes) if excludes else None
    with _cache(place, caches) or nullcontext() as cache:
        found = scan(place.root, nodes, cache=cache, excludes=filtered)
    return Manifest(found.tree, nodes)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a place holds and shall hold."""

    basis: Manifest
    target: Manifest

    @property
    def is_done(self) -> bool:
        """Nothing differs."""
        return self.basis.tree == self.target.tree

    def changes(self) -> Iterator[str]:
        """Yield a line for each name that is added (+), changed (~) or removed (-)."""
        for change in diff(self.basis, self.target):
            prefix = change.path + b"/" if change.path else b""
            for entry in change.removed:
                yield f"- {_line(prefix, entry)}"
            for _, entry in change.changed:
                yield f"~ {_line(prefix, entry)}"
            for entry in change.added:
                yield f"+ {_line(prefix, entry)}"
                if isinstance(entry, Subdirectory):
                    below = Manifest(entry.tree, self.target.nodes)
                    yield from (
                        f"+ {_line(prefix + entry.name + b'/' + path[: -len(one.name)], one)}"
                        for path, one in below.walk()
                    )


def make_plan(
    basis: Manifest,
    top: Manifest,
    nodes: Nodes,
    *,
    only: bytes | None = None,
    delete: bool,
    excludes: Sequence[str] = (),
) -> Plan:
    """Return what brings ``top`` to the place that holds ``basis``.

    Args:
        basis: what is there, all of it.
        top: what was given.
        nodes: holds both, and gets what is new.
        only: the place is one name, and ``top`` a directory of one file.
        delete: what ``top`` does not have goes, but for what is excluded.
        excludes: what ``top`` was scanned without.
    """
    if only is not None:
        given = [msgspec.structs.replace(entry, name=only) for entry in top.root.entries]
        tree = canonical_links(nodes, put(nodes, with_entries(basis.root, given)))
        return Plan(basis, Manifest(tree, nodes))
    if not delete:
        return Plan(basis, overlay(basis, top))
    if not excludes:
        return Plan(basis, top)
    kept = canonical_links(nodes, _excluded_only(basis, nodes, Excludes(excludes)))
    return Plan(basis, overlay(Manifest(kept, nodes), top))


@dataclass(frozen=True, slots=True)
class _At:
    directory: Directory
    prefix: bytes


def _excluded_only(basis: Manifest, nodes: Nodes, excludes: Excludes) -> Digest:
    """Return the tree of what ``excludes`` leaves out of ``basis``."""

    def expand(at: _At) -> Expansion[_At]:
        entries: list[Entry] = []
        children: list[tuple[bytes, _At]] = []
        for entry in at.directory.entries:
            path = at.prefix + entry.name
            if isinstance(entry, Subdirectory):
                is_out = excludes.excludes(os.fsdecode(path))
                if is_out and excludes.may_prune(os.fsdecode(path)):
                    entries.append(entry)
                else:
                    below = _At(basis.directory(entry.tree), path + b"/")
                    children.append((entry.name, below))
            elif excludes.excludes(os.fsdecode(path)):
                entries.append(entry)
        return Expansion(at.directory, entries, children, drop_if_empty=True)

    return grow(nodes, _At(basis.root, b""), expand)


def _cache(place: Place, caches: Path | None) -> StatCache | None:
    """Open the stat cache for ``place``; a sync without one is slower, not wrong."""
    if caches is None:
        return None
    try:
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = digest_of(os.path.realpath(place.root).encode(errors="surrogateescape")).hex()[
            :32
        ]
        return StatCache(caches / f"{name}.db")
    except (OSError, StoreError):
        return None


def _line(prefix: bytes, entry: Entry) -> str:
    slash = b"/" if isinstance(entry, Subdirectory) else b""
    return shown(prefix + entry.name + slash)
