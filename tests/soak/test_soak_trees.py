"""What ``make soak`` syncs: trees that change, and what it sees of them."""

import os
import random
from pathlib import Path

from tests.soak.trees import BEING_MADE, Tree, contents, differences, hash_of, listed, ours


def test_a_tree_changes_again_and_again_in_the_same_ways_for_the_same_seed(
    tmp_path: Path,
) -> None:
    one, same = (
        Tree(tmp_path / name, random.Random(1), big_bytes=100_000) for name in ("one", "same")
    )
    for _ in range(5):
        before = listed(one.root)
        one.change()
        same.change()
        assert differences(before, listed(one.root))
        assert set(contents(one.root)) == set(contents(same.root))


def test_what_a_tree_has_held_at_any_time_is_known(tmp_path: Path) -> None:
    tree, rng = Tree(tmp_path / "tree", random.Random(1)), random.Random(2)
    held = set(contents(tree.root))
    for change in (tree.change, *[lambda: tree.disturb(rng)] * 9, tree.change):
        change()
        held |= set(contents(tree.root))
    assert held <= tree.history
    (tree.root / "mixed").write_bytes(b"what nobody wrote")
    assert set(contents(tree.root)) - held == {("mixed", hash_of(tree.root / "mixed"))}


def test_two_trees_differ_in_modes_times_links_and_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for file in "abcde":
            (tmp_path / name / file).write_bytes(b"1")
        (tmp_path / name / "link").symlink_to("a")
        for path in (*(tmp_path / name).iterdir(), tmp_path / name):
            os.utime(path, ns=(1, 1), follow_symlinks=False)
    one, other = tmp_path / "one", tmp_path / "other"
    assert differences(listed(one), listed(other)) == []
    (other / "a").chmod(0o600)
    os.utime(other / "b", ns=(1, 2))
    (other / "c").write_bytes(b"2")
    os.utime(other / "c", ns=(1, 1))
    (other / "e").unlink()
    os.link(other / "d", other / "e")
    (other / "link").unlink()
    (other / "link").symlink_to("b")
    os.utime(other / "link", ns=(1, 1), follow_symlinks=False)
    os.utime(other, ns=(1, 1))
    found = differences(listed(one), listed(other))
    assert [line.partition(":")[0] for line in found] == ["a", "b", "c", "e", "link"]


def test_what_a_sync_is_still_making_is_neither_old_nor_new(tmp_path: Path) -> None:
    for path in ("old/file", "new/file", ".filesync-0123456789abcdef/file"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"1")
    (tmp_path / "new").chmod(BEING_MADE)
    assert [path for path, _ in contents(tmp_path)] == ["old/file"]
    assert ours(tmp_path) == [".filesync-0123456789abcdef"]
