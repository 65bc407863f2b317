"""A tree whose names all have one time."""

import os
from pathlib import Path

from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from filesync.trees.retime import with_times

AT_NS = 1_000_000_007


def test_a_tree_with_one_time_is_the_tree_that_touching_every_name_gives(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    (root / "a/b/empty").mkdir(parents=True)
    (root / "a/file").write_text("text")
    os.link(root / "a/file", root / "a/b/again")
    (root / "link").symlink_to("a/file")
    os.mkfifo(root / "fifo")
    nodes = MemoryNodes()
    before = scan(root, nodes)
    found = with_times(Manifest(before.tree, nodes), nodes, mtime_ns=AT_NS)
    for path in (*root.rglob("*"), root):
        os.utime(path, ns=(AT_NS, AT_NS), follow_symlinks=False)
    after = scan(root, nodes)
    assert found.tree == after.tree != before.tree
    assert found.summary.content == before.content
