"""Hard links in a layer: which names are written as files, which as links, which not at all.

A group that is what it was in the parent is not written. Any other is written whole, its first
name as a file and the rest as links to that, though its content may be in the parent: who
unpacks a layer by itself, as podman and docker's overlay2 do, has no file of another layer to
link to. So an overlay's names are never links of a file that was copied up without them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from filesync.manifest import Directory, File, Manifest, Subdirectory

LinkPlan = Mapping[bytes, bytes | None]
"""By path: None if it stays as it is, itself if it is written as a file, else what it links to.

Has the files of which the parent's or the child's group has several names, and no others.
"""

_Inode = bytes | tuple[bytes]
"""A group's name, or the path of a file that has no other, which a tuple sets apart."""


def link_plan(parent: Manifest | None, child: Manifest) -> LinkPlan:
    """Return how the hard links of ``child`` are written on top of ``parent``."""
    paths = {path for tree in (parent, child) if tree for path in _linked(tree)}
    if not paths:
        return {}
    ordered = sorted(paths, key=lambda path: path.split(b"/"))
    old = _files(parent, ordered) if parent is not None else {}
    new = _files(child, ordered)
    stays = {path for path in new if path in old and _same(old[path], new[path])}
    heirs: dict[_Inode, _Inode] = {}
    groups: dict[_Inode, list[bytes]] = {}
    for path in ordered:
        if path in new:
            inode = _inode(path, new[path])
            groups.setdefault(inode, []).append(path)
            if path in stays:
                # An inode of the parent can go on in one of the child's only.
                heirs.setdefault(_inode(path, old[path]), inode)
    plan: dict[bytes, bytes | None] = {}
    for inode, names in groups.items():
        sources = {_inode(path, old[path]) for path in names if path in stays}
        is_old = stays.issuperset(names) and len(sources) == 1
        is_there = is_old and heirs[sources.pop()] == inode
        plan.update(dict.fromkeys(names, None if is_there else names[0]))
    return plan


class Groups:
    """The hard links of a tree, looked for when the first is asked of."""

    def __init__(self, tree: Manifest | None) -> None:
        self._tree = tree
        self._found: tuple[dict[bytes, File], dict[bytes, list[bytes]]] | None = None

    def others(self, path: bytes) -> Sequence[bytes]:
        """Return the other names of the file that ``path`` is in the tree."""
        if self._tree is None:
            return ()
        files, groups = self._found or self._find(self._tree)
        entry = files.get(path)
        return () if entry is None else [name for name in groups[entry.link] if name != path]

    def _find(self, tree: Manifest) -> tuple[dict[bytes, File], dict[bytes, list[bytes]]]:
        files = _files(tree, sorted(_linked(tree), key=lambda path: path.split(b"/")))
        groups: dict[bytes, list[bytes]] = {}
        for path, entry in files.items():
            groups.setdefault(entry.link, []).append(path)
        self._found = files, groups
        return self._found


NO_GROUPS: Final = Groups(None)


def _inode(path: bytes, entry: File) -> _Inode:
    return entry.link or (path,)


def _same(a: File, b: File) -> bool:
    return msgspec.structs.replace(a, link=b"") == msgspec.structs.replace(b, link=b"")


def _linked(manifest: Manifest) -> Iterator[bytes]:
    """Yield the paths of files that are in groups, entering only directories that have some."""
    if not manifest.summary.links:
        return
    stack: list[tuple[bytes, Directory]] = [(b"", manifest.root)]
    while stack:
        prefix, directory = stack.pop()
        for entry in directory.entries:
            if isinstance(entry, File) and entry.link:
                yield prefix + entry.name
            elif isinstance(entry, Subdirectory) and entry.links:
                stack.append((prefix + entry.name + b"/", manifest.directory(entry.tree)))


def _files(manifest: Manifest, paths: Iterable[bytes]) -> dict[bytes, File]:
    """Return the files that stand at ``paths``, reading each directory once."""
    read: dict[bytes, Directory | None] = {b"": manifest.root}

    def directory(path: bytes) -> Directory | None:
        todo = []
        while path not in read:
            todo.append(path)
            path = path.rpartition(b"/")[0]
        for below in reversed(todo):
            above = read[below.rpartition(b"/")[0]]
            entry = above.find(below.rpartition(b"/")[2]) if above else None
            read[below] = (
                manifest.directory(entry.tree) if isinstance(entry, Subdirectory) else None
            )
            path = below
        return read[path]

    found: dict[bytes, File] = {}
    for path in paths:
        where, _, name = path.rpartition(b"/")
        entry = at.find(name) if (at := directory(where)) else None
        if isinstance(entry, File):
            found[path] = entry
    return found
