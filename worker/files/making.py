"""MakeDirectory and MakeFile.

Links on the way to a path are followed inside the root. A link at the end of the path is
followed by MakeDirectory alone, which looks for a directory there. MakeFile replaces it:
BuildKit's mkfile would write through it, which "replacing what is there" does not say, and
which lets one planted link pick the file that is written.
"""

import os

from filesync.digest import digest_of
from filesync.disk.content import write_all
from filesync.disk.handles import NEW_FLAGS
from filesync.trees.select import clean
from worker.files.attributes import Attributes, set_open
from worker.files.errors import BadPath
from worker.files.tree import Tree, changing, join, text_of
from worker.wire.ops import MakeDirectory, MakeFile


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


def _parent(tree: Tree, path: str) -> tuple[bytes, bytes]:
    """Return the directory that ``path`` is in, made if it was not there, and the name."""
    names = clean(os.fsencode(path))
    if not names or b"\0" in names[-1]:
        raise BadPath(f"{text_of(os.fsencode(path))} does not name anything below the root")
    return tree.make_directories(tree.find(b"/".join(names[:-1]))), names[-1]


def _ourselves() -> tuple[int, int]:
    return os.geteuid(), os.getegid()
