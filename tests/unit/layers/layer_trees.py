"""Random trees on disk, for tests of layers."""

import os
from pathlib import Path

from hypothesis import strategies as st

Leaf = tuple[str, int, bytes]
"""Kind (file, link, symlink, fifo), a small number, and a text."""
Tree = dict[bytes, "Tree | Leaf"]

names = st.sampled_from([b"a", b"b", b"c", b"d.d", b"\xc3\xa9", b"\xff", b"n" * 120])
small = st.integers(0, 2)
texts = st.sampled_from([b"", b"x", b"y" * 600])
leaves = st.one_of(
    st.tuples(st.just("file"), small, texts),
    st.tuples(st.just("link"), small, st.just(b"")),
    st.tuples(st.just("link"), small, st.just(b"")),
    st.tuples(st.just("symlink"), small, st.sampled_from([b"a", b"/x/\xff", b"t" * 150])),
    st.tuples(st.just("fifo"), small, st.just(b"")),
)
trees: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(names, leaves, max_size=5),
    lambda below: st.dictionaries(names, leaves | below, max_size=5),
    max_leaves=14,
)


def build(at: Path, tree: Tree) -> Path:
    """Make the directory ``at`` hold ``tree``; the same tree is the same to the nanosecond."""
    at.mkdir()
    _fill(os.fsencode(at), tree, {})
    return at


def _fill(at: bytes, tree: Tree, linked: dict[int, bytes]) -> None:
    for name, what in sorted(tree.items()):
        path = os.path.join(at, name)
        if isinstance(what, dict):
            os.mkdir(path)
            _fill(path, what, linked)
        else:
            _make(path, what, linked)
    number = sum(len(name) for name in tree)
    os.chmod(at, 0o755 if number % 2 else 0o700)
    os.utime(at, ns=(0, number * 1_000_000_007))


def _make(path: bytes, leaf: Leaf, linked: dict[int, bytes]) -> None:
    kind, number, text = leaf
    if kind == "symlink":
        os.symlink(text, path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link" and number in linked:
        os.link(linked[number], path)
        return
    else:
        with open(path, "wb") as file:
            file.write(text or b"group %d" % number)
        os.chmod(path, 0o644 | number)
        if number:
            os.setxattr(path, b"user.number", b"%d\0" % number)
        if kind == "link":
            linked[number] = path
    os.utime(path, ns=(0, number * 999_999_999 - 1_500_000_000), follow_symlinks=False)
