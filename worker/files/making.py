"""MakeDirectory, MakeFile, MakeSymlink and Remove.

Links on the way to a path are followed inside the root. A link at the end of the path is
followed by MakeDirectory alone, which looks for a directory there. MakeFile and MakeSymlink
replace it and Remove removes it: BuildKit's mkfile would write through it, which "replacing
what is there" does not say, and which lets one planted link pick the file that is written.
"""

import os

from filesync.digest import digest_of
from filesync.disk.content import write_all
from filesync.disk.handles import NEW_FLAGS
from filesync.errors import PathMissing
from filesync.glob import compile_name, is_pattern, unescape
from filesync.select import clean
from worker.files.attributes import Attributes, set_open, set_unopened
from worker.files.errors import BadPath, PathInTheWay
from worker.files.tree import Tree, changing, join, text_of
from worker.wire.ops import MakeDirectory, MakeFile, MakeSymlink, Remove


def make_directory(tree: Tree, op: MakeDirectory) -> None:
    """Make the directory and its missing parents, all with the op's mode and owner.

    Raises:
        PathInTheWay: something that is no directory is there, or above.
    """
    place = tree.find(os.fsencode(op.path))
    tree.make_directories(place, owner=tree.owner_of(op.owner), mode=op.mode)


def make_file(tree: Tree, op: MakeFile, *, now_ns: int | None) -> None:
    """Write the file anew; other names that the old one has keep the old content.

    Raises:
        PathInTheWay: a directory is there, or something above is none.
        BadPath: the path is the root.
    """
    above, name = _parent(tree, op.path)
    uid, gid = tree.owner_of(op.owner) or _ourselves()
    path = join(above, name)
    with changing(path), tree.handles.pinned(above) as fd:
        tree.make_way(fd, path)
        file = os.open(name, NEW_FLAGS, 0o600, dir_fd=fd)
        try:
            write_all(file, op.data, 0)
            set_open(file, Attributes(uid, gid, op.mode, now_ns))
        finally:
            os.close(file)
    tree.touch(above)
    tree.hints[path] = (len(op.data), digest_of(op.data))


def make_symlink(tree: Tree, op: MakeSymlink, *, now_ns: int | None) -> None:
    """Make the link; its text is kept to the letter and looked at by nobody.

    Raises:
        PathInTheWay: a directory is there, or something above is none.
        BadPath: the path is the root, or the text cannot be a link's.
    """
    target = os.fsencode(op.target)
    if not target or b"\0" in target or len(target) > 4095:
        raise BadPath(f"{text_of(os.fsencode(op.path))}: no link can have the text it is given")
    above, name = _parent(tree, op.path)
    uid, gid = tree.owner_of(op.owner) or _ourselves()
    path = join(above, name)
    with changing(path), tree.handles.pinned(above) as fd:
        tree.make_way(fd, path)
        os.symlink(target, name, dir_fd=fd)
        set_unopened(fd, name, Attributes(uid, gid, 0o777, now_ns))
    tree.touch(above)


def remove(tree: Tree, op: Remove) -> None:
    """Remove the path, or all that match the pattern; a pattern that matches nothing is fine.

    Raises:
        PathMissing: a literal path is not there, and that is not ``missing_ok``.
        BadPath: the path is the root.
    """
    names = [os.fsdecode(name) for name in clean(os.fsencode(op.path))]
    if not names:
        raise BadPath("the root itself cannot be removed")
    first = next((i for i, n in enumerate(names) if is_pattern(n)), len(names))
    if op.wildcard and first < len(names):
        start = tree.find(_joined([unescape(name) for name in names[:first]]))
        if start.is_directory and not start.missing:
            for path in _expand(tree, start.found, names[first:]):
                tree.remove(path)
        return
    if op.wildcard:
        names = [unescape(name) for name in names]
    found = _existing(tree, names)
    if found is not None:
        tree.remove(found)
    elif not op.missing_ok:
        raise PathMissing(text_of(os.fsencode(op.path)))


def _parent(tree: Tree, path: str) -> tuple[bytes, bytes]:
    """Return the directory that ``path`` is in, made if it was not there, and the name."""
    names = clean(os.fsencode(path))
    if not names or b"\0" in names[-1]:
        raise BadPath(f"{text_of(os.fsencode(path))} does not name anything below the root")
    return tree.make_directories(tree.find(b"/".join(names[:-1]))), names[-1]


def _existing(tree: Tree, names: list[str]) -> bytes | None:
    """Return the path that ``names`` lead to, a link at the end not followed."""
    try:
        above = tree.find(_joined(names[:-1]))
    except PathInTheWay:
        return None
    if above.missing or not above.is_directory:
        return None
    name = os.fsencode(names[-1])
    if b"\0" in name:
        return None
    path = join(above.found, name)
    try:
        os.stat(name, dir_fd=tree.handles.open(above.found), follow_symlinks=False)
    except FileNotFoundError:
        return None
    return path


def _expand(tree: Tree, start: bytes, patterns: list[str]) -> list[bytes]:
    """Return what the patterns match, level by level, through real directories only."""
    level = [start]
    for depth, pattern in enumerate(patterns):
        test = compile_name(pattern)
        is_last = depth == len(patterns) - 1
        level = [
            join(above, name)
            for above in level
            for name in _names(tree.handles.open(above), directories_only=not is_last)
            if test(os.fsdecode(name))
        ]
    return level


def _names(fd: int, *, directories_only: bool) -> list[bytes]:
    with os.scandir(fd) as entries:
        return sorted(
            os.fsencode(entry.name)
            for entry in entries
            if not directories_only or entry.is_dir(follow_symlinks=False)
        )


def _joined(names: list[str]) -> bytes:
    return os.fsencode("/".join(names))


def _ourselves() -> tuple[int, int]:
    return os.geteuid(), os.getegid()
