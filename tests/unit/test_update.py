"""Updates: what is done, and above all what is not done."""

from pathlib import Path

import pytest

from filesync.disk.content import PIECE_BYTES
from filesync.disk.scanning.scan import scan
from filesync.disk.updating import write
from filesync.disk.updating.update import LocalTree, TreeUpdate
from filesync.manifest import Manifest
from tests.unit.counting_nodes import CountingNodes
from tests.unit.update_driver import (
    MakeDirectory,
    MakeFile,
    build,
    scanned,
    sync,
    update,
)

# --- work that is not done ---------------------------------------------------------------


def test_equal_trees_want_nothing_and_leave_even_the_roots_mtime(
    root: Path, source: Path
) -> None:
    for path in (root, source):
        build(path, [MakeFile("a", b"data"), MakeDirectory("d")])
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "a").stat().st_ino == inode


def test_a_changed_file_is_all_that_is_fetched(root: Path, source: Path) -> None:
    makes = [MakeFile(f"d{n}/f", b"%d" % n) for n in range(20)]
    build(root, makes)
    build(source, [MakeFile("d7/f", b"other"), *makes])
    untouched = (root / "d3/f").stat().st_ctime_ns
    done = sync(root, source)
    assert done.fetched_bytes == 5
    assert done.fetched[0].replaces == 1
    assert (root / "d3/f").stat().st_ctime_ns == untouched


def test_a_moved_directory_is_one_rename_and_wants_nothing(root: Path, source: Path) -> None:
    inside = [f"deep/{n}" for n in range(30)]
    build(root, [MakeFile(f"old/{name}", name.encode()) for name in inside])
    build(source, [MakeFile(f"elsewhere/new/{name}", name.encode()) for name in inside])
    inode = (root / "old/deep/3").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "elsewhere/new/deep/3").stat().st_ino == inode
    assert done.stats.files_copied == 0


def test_a_directory_within_a_removed_one_is_moved_out_of_it(root: Path, source: Path) -> None:
    build(root, [MakeFile("gone/x/kept/f", b"1"), MakeFile("gone/other", b"2")])
    build(source, [MakeFile("kept/f", b"1")])
    inode = (root / "gone/x/kept").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "kept").stat().st_ino == inode


def test_a_directory_that_lost_a_part_is_not_moved_as_a_whole(root: Path, source: Path) -> None:
    build(root, [MakeFile("gone/in/f", b"1"), MakeFile("gone/g", b"2")])
    build(
        source,
        [
            MakeFile("a/f", b"1"),
            MakeFile("b/in/f", b"1"),
            MakeFile("b/g", b"2"),
        ],
    )
    sync(root, source)


def test_a_directory_that_moved_with_the_one_around_it_is_not_moved_again(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("gone/x/in/f", b"1")])
    build(source, [MakeFile("a/x/in/f", b"1"), MakeFile("b/in/f", b"1")])
    inode = (root / "gone/x/in").stat().st_ino
    sync(root, source)
    assert (root / "a/x/in").stat().st_ino == inode


def test_a_renamed_file_is_renamed(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"content"), MakeFile("b", b"more")])
    build(source, [MakeFile("sub/new", b"content", mode=0o4711), MakeFile("b", b"more")])
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "sub/new").stat().st_ino == inode


def test_a_removed_content_that_is_needed_thrice_is_moved_once_and_copied_twice(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("a", b"content")])
    build(source, [MakeFile(name, b"content") for name in ("x", "y", "z")])
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert [path.stat().st_ino for path in root.iterdir()].count(inode) == 1
    assert done.stats.files_copied == 2


def test_files_that_swap_their_contents_want_nothing(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"one" * 10_000), MakeFile("b", b"two" * 10_000)])
    build(source, [MakeFile("a", b"two" * 10_000), MakeFile("b", b"one" * 10_000)])
    assert sync(root, source).fetched == []


def test_a_copy_of_a_file_that_stays_is_made_here(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"content" * 9)])
    build(source, [MakeFile("a", b"content" * 9), MakeFile("b", b"content" * 9, mode=0o600)])
    assert sync(root, source).fetched == []


def test_metadata_changes_want_nothing_and_keep_the_inode(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"data"), MakeFile("c", b"data2")])
    build(source, [MakeFile("a", b"data", mode=0o4755), MakeFile("c", b"data2", mtime_ns=77)])
    inodes = {name: (root / name).stat().st_ino for name in ("a", "c")}
    done = sync(root, source)
    assert done.fetched == []
    assert inodes == {name: (root / name).stat().st_ino for name in ("a", "c")}


def test_a_large_content_is_fetched_once_and_a_small_one_as_often_as_it_stands(
    root: Path, source: Path
) -> None:
    large, small = b"l" * 20_000, b"s"
    build(source, [MakeFile(f"{n}/{n}", data) for n, data in enumerate([large, small] * 3)])
    done = sync(root, source)
    assert sorted(one.size for one in done.fetched) == [1, 1, 1, 20_000]
    assert done.stats.files_copied == 2


def test_empty_files_are_not_wanted(root: Path, source: Path) -> None:
    build(source, [MakeFile("a"), MakeFile("b", mode=0o600)])
    assert sync(root, source).fetched == []


# --- other trees of this machine ---------------------------------------------------------


def test_contents_of_local_trees_are_copied(root: Path, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    build(other, [MakeFile("x/y", b"1" * 5000), MakeFile("big", b"2" * 3_000_000)])
    build(source, [MakeFile("a", b"1" * 5000), MakeFile("b", b"2" * 3_000_000)])
    build(source, [MakeFile("c", b"3"), MakeFile("again", b"1" * 5000, mode=0o600)])
    target = scanned(source)
    done = update(
        root, source, basis=None, target=target, local=[LocalTree(scanned(other), other)]
    )
    assert [one.size for one in done.fetched] == [1]
    assert scanned(root).tree == target.tree
    # A hard link would let whoever writes to the other tree write to this one.
    assert all(path.stat().st_nlink == 1 for path in root.rglob("*") if path.is_file())


def test_a_local_tree_is_looked_through_where_something_is_missing_and_no_further(
    root: Path, source: Path
) -> None:
    many = [MakeFile(f"d{n % 10}/e{n}/f", b"%d" % n) for n in range(100)]
    many += [MakeFile("d5/e15-/f", b"beside")]
    build(root, many)
    build(source, [*many, MakeFile("d5/e15/new", b"new"), MakeFile("d6/e16/g", b"other")])
    nodes = CountingNodes()
    target = Manifest(scan(source, nodes).tree, nodes)
    one = TreeUpdate(
        root, basis=scanned(root), target=target, local=[LocalTree(target, source)]
    )
    nodes.reads, differing = 0, 5
    one.prepare()
    assert list(one.wanted()) == []
    assert nodes.reads <= 3 * differing  # by the walk, by the look, and the root's header
    one.finish()
    assert (root / "d5/e15/new").read_bytes() == b"new"
    assert (root / "d6/e16/g").read_bytes() == b"other"


@pytest.mark.parametrize("size", [5000, 3_000_000])
def test_rotten_local_contents_are_wanted_instead(
    root: Path, source: Path, tmp_path: Path, size: int
) -> None:
    other = tmp_path / "other"
    for path in (other, source):
        build(path, [MakeFile("a", b"1" * size), MakeFile("b", b"2"), MakeFile("c", b"3")])
    local = LocalTree(scanned(other), other)
    (other / "a").write_bytes(b"1" * (size - 1) + b"0")
    (other / "b").unlink()
    (other / "b").symlink_to("c")
    target = scanned(source)
    gone = LocalTree(local.manifest, tmp_path / "nowhere")
    done = update(root, source, basis=None, target=target, local=[gone, local])
    assert sorted(one.size for one in done.fetched) == [1, size]
    assert scanned(root).tree == target.tree


def test_who_paces_copies_is_told_of_each_piece_and_of_no_hole(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_FICLONE", 0)  # some file systems would copy no bytes
    build(source, [MakeFile("large", b"x" * (3 * PIECE_BYTES + 5)), MakeFile("small", b"yz")])
    with (source / "sparse").open("wb") as sparse:
        sparse.write(b"1")
        sparse.truncate(64 << 20)
    target = scanned(source)
    told: list[int] = []
    local = [LocalTree(target, source)]
    update = TreeUpdate(root, basis=None, target=target, local=local, on_copied=told.append)
    update.prepare()
    assert list(update.wanted()) == []
    update.finish()
    assert max(told) <= PIECE_BYTES
    assert told.count(0) == 3
    data = 3 * PIECE_BYTES + 5 + 2
    assert data < sum(told) <= data + PIECE_BYTES
    assert scanned(root).tree == target.tree
