"""A layer applied to its parent gives its child, to the nanosecond and the hard link."""

import io
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given

from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from tests.unit.layers.layer_trees import Tree, build, trees
from worker.layers import apply_layer, tar_blocks, tar_size
from worker.layers.changes import members
from worker.layers.member import FILE, LINK
from worker.snapshots import Snapshotter, open_snapshotter

A, B = ("link", 1, b""), ("link", 1, b"")
OTHER = ("link", 2, b"")


@contextmanager
def scratch() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def check(parent: Tree, child: Tree, kind: str) -> None:
    nodes = MemoryNodes()
    with scratch() as at:
        new_root = build(at / "new", child)
        new = Manifest(scan(new_root, nodes).tree, nodes)
        snapshotter = open_snapshotter(at / "state", nodes, kind=kind)
        try:
            old = Manifest(scan(build(at / "old", parent), nodes).tree, nodes)
            first = apply(snapshotter, None, b"".join(tar_blocks(None, old, at / "old")))
            assert snapshotter.get(first).tree == old.tree
            layer = b"".join(tar_blocks(old, new, new_root))
            assert len(layer) == tar_size(old, new)
            second = apply(snapshotter, first, layer)
            assert snapshotter.get(second).tree == new.tree
        finally:
            snapshotter.close()


def apply(snapshotter: Snapshotter, parent: str | None, layer: bytes) -> str:
    active = snapshotter.prepare(parent)
    done = apply_layer(io.BytesIO(layer), active.path)
    assert done.size == len(layer)
    return snapshotter.commit(active, hints=done.hints).id


@given(trees, trees)
@example({b"a": A, b"b": B}, {b"a": ("file", 1, b"group 1"), b"b": ("file", 1, b"group 1")})
@example({b"a": A, b"b": B}, {b"a": A, b"b": B, b"c": A})
@example({b"a": A, b"b": B}, {b"b": B, b"c": A})
@example({b"b": A, b"c": B}, {b"a": A, b"b": A, b"c": B})
@example({b"b": {b"x": A}, b"c": B}, {b"a": A, b"b": {b"x": A}, b"c": B})
@example({b"a": A, b"b": OTHER}, {b"a": OTHER, b"b": A})
def test_a_layer_on_a_copy_of_its_parent_gives_its_child(parent: Tree, child: Tree) -> None:
    check(parent, child, "copy")


@pytest.mark.needs("root")
@given(trees, trees)
@example({b"a": A, b"b": B}, {b"a": A, b"b": B, b"c": A})
@example({b"b": {b"x": A, b"y": A}}, {b"b": {b"x": A, b"y": A}, b"c": A})
def test_a_layer_on_an_overlay_of_its_parent_gives_its_child(parent: Tree, child: Tree) -> None:
    check(parent, child, "overlay")


@given(trees, trees)
@example({b"a": A}, {b"a": A, b"b": A})
@example({b"a": A, b"b": B}, {b"a": A, b"b": B, b"c": A})
def test_a_hard_link_is_to_an_earlier_file_of_the_same_layer(parent: Tree, child: Tree) -> None:
    nodes = MemoryNodes()
    with scratch() as at:
        old, new = (
            Manifest(scan(build(at / name, tree), nodes).tree, nodes)
            for name, tree in (("old", parent), ("new", child))
        )
        files = set()
        for member in members(old, new):
            assert member.kind != LINK or member.link in files
            files |= {member.path} if member.kind == FILE else set()


@pytest.mark.needs("tar", "root")
@given(trees)
def test_tar_unpacks_a_whole_tree_to_the_same_tree(tree: Tree) -> None:
    nodes = MemoryNodes()
    with scratch() as at:
        root = build(at / "new", tree)
        manifest = Manifest(scan(root, nodes).tree, nodes)
        (at / "out").mkdir()
        subprocess.run(
            ["tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "-C", at / "out"],
            input=b"".join(tar_blocks(None, manifest, root)),
            check=True,
        )
        assert scan(at / "out", nodes).tree == manifest.tree
