"""What the old tree has is used for the new one, as long as it is still that."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning.scan import scan
from filesync.disk.updating import reuse, visits
from filesync.disk.updating.reuse import Reusable
from filesync.disk.updating.visits import Visits
from filesync.manifest import Manifest, Subdirectory
from tests.unit.counting_nodes import CountingNodes
from tests.unit.update_driver import (
    MakeFifo,
    MakeFile,
    MakeSymlink,
    build,
    scanned,
    sync,
    update,
)


def shrink(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [shrink, become_a_fifo])
@pytest.mark.parametrize("old", ["old", "gone/old"])
def test_an_old_file_that_has_changed_since_the_scan_is_not_renamed(
    root: Path, source: Path, old: str, change: Callable[[Path], None]
) -> None:
    build(root, [MakeFile(old, b"content")])
    build(source, [MakeFile("new", b"content")])
    basis, target = scanned(root), scanned(source)
    change(root / old)
    done = update(root, source, basis=basis, target=target)
    assert [wanted.size for wanted in done.fetched] == [len(b"content")]
    assert scanned(root).tree == target.tree


@pytest.mark.parametrize("old", ["old", "gone/old"])
def test_of_an_old_file_that_has_grown_since_the_scan_what_it_was_is_copied(
    root: Path, source: Path, old: str
) -> None:
    build(root, [MakeFile(old, b"content")])
    build(source, [MakeFile("new", b"content")])
    basis, target = scanned(root), scanned(source)
    (root / old).write_bytes(b"content and more")
    assert update(root, source, basis=basis, target=target).fetched == []
    assert scanned(root).tree == target.tree


def test_what_an_empty_file_replaces_is_used_for_another(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"content")])
    build(source, [MakeFile("a"), MakeFile("b", b"content")])
    assert sync(root, source).fetched == []


def test_nothing_is_kept_of_a_replaced_file_that_nobody_needs(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, [MakeFile("a", b"1"), MakeFile("b", b"2")])
    build(source, [MakeFile("a"), MakeFile("c", b"2")])
    linked: list[object] = []
    monkeypatch.setattr(os, "link", lambda *names, **_: linked.append(names))
    assert sync(root, source).fetched == []
    assert linked == []


def test_what_an_untouched_directory_has_is_copied_wherever_it_is(
    root: Path, source: Path
) -> None:
    old = [
        MakeFile("a/b/c/f", b"1" * 1000),
        MakeFile("a/b/g", b"2" * 1000),
        MakeFile("z/h", b"h"),
    ]
    build(root, old)
    build(source, [*old, MakeFile("n/f", b"1" * 1000), MakeFile("z/g", b"2" * 1000)])
    inode = (root / "a/b/g").stat().st_ino
    assert sync(root, source).fetched == []
    assert (root / "a/b/g").stat().st_ino == inode


def test_what_an_untouched_directory_had_when_it_was_scanned_is_verified(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("a/f", b"1" * 1000)])
    build(source, [MakeFile("a/f", b"1" * 1000), MakeFile("n/f", b"1" * 1000)])
    basis, target = scanned(root), scanned(source)
    (root / "a/f").write_bytes(b"2" * 1000)
    assert len(update(root, source, basis=basis, target=target).fetched) == 1
    assert (root / "n/f").read_bytes() == b"1" * 1000


def test_a_large_tree_is_not_looked_through_for_a_few_bytes(root: Path, source: Path) -> None:
    old = [MakeFile(f"a/{number}", b"1" if number else b"2" * 100) for number in range(10)]
    build(root, old)
    build(source, [*old, MakeFile("n", b"2" * 100)])
    assert len(sync(root, source).fetched) == 1


def test_what_stays_is_used_however_much_is_needed(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "MAX_REMEMBERED", 1)
    build(root, [MakeFile("a", b"1"), MakeFile("b", b"2")])
    build(source, [MakeFile(name, b"1" if name in "ac" else b"2") for name in "abcd"])
    assert sync(root, source).fetched == []


def test_a_directory_is_moved_before_anything_is_taken_out_of_it(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("gone/d/f", b"1"), MakeFile("gone/d/g", b"2"), MakeFile("gone/h")])
    build(source, [MakeFile("a", b"1"), MakeFile("n/d/f", b"1"), MakeFile("n/d/g", b"2")])
    inodes = [(root / "gone" / path).stat().st_ino for path in ("d", "d/f", "d/g")]
    assert len(sync(root, source).fetched) == 1  # a: what has moved is not looked into again
    assert [(root / "n" / path).stat().st_ino for path in ("d", "d/f", "d/g")] == inodes


def test_a_content_that_moved_with_its_directory_is_found_elsewhere(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("gone/d/f", b"1"), MakeFile("z/f", b"1"), MakeFile("z/g", b"2")])
    build(source, [MakeFile("new/f", b"1"), MakeFile("other", b"1")])
    assert sync(root, source).fetched == []


def test_no_more_of_the_old_tree_is_remembered_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr(reuse, "MAX_REUSABLE", 2)
    build(root, [MakeFile(f"{d}/{f}", f"{d}{f}".encode()) for d in "abcde" for f in "fgh"])
    old = scanned(root)
    reusable = Reusable(old)
    for entry in old.root.entries:
        reusable.note_aside(b"", entry, entry.name)
    assert reusable.file(digest_of(b"af")) is not None
    assert reusable.file(digest_of(b"ef")) is None
    assert len(reusable.files) == 2
    trees = [entry.tree for entry in old.root.entries if isinstance(entry, Subdirectory)]
    assert [reusable.take_tree(tree) is not None for tree in trees] == [True] * 2 + [False] * 3


def test_a_link_gets_its_new_time_in_place_unless_another_name_has_the_old_one(
    root: Path, source: Path, tmp_path: Path
) -> None:
    for path, time_ns in ((root, 1), (source, 2)):
        build(path, [MakeSymlink("alone", "x", time_ns), MakeSymlink("shared", "x", time_ns)])
    os.link(root / "shared", tmp_path / "other", follow_symlinks=False)
    inode = (root / "alone").lstat().st_ino
    sync(root, source)
    assert (root / "alone").lstat().st_ino == inode
    assert (tmp_path / "other").lstat().st_mtime_ns == 1


def test_a_link_that_cannot_be_made_anew_does_not_stay_as_it_was(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    build(root, [MakeSymlink("link", "old"), MakeFifo("fifo")])
    build(source, [MakeSymlink("link", "new"), MakeFifo("fifo", mode=0o644)])
    basis, target = scanned(root), scanned(source)
    monkeypatch.setattr(os, "symlink", refuse)
    done = update(root, source, basis=basis, target=target, goes_on=True)
    assert done.stats.not_kept == {"symbolic link": 1}
    assert os.listdir(root) == ["fifo"]


def test_what_is_in_directories_that_come_and_go_is_counted(root: Path, source: Path) -> None:
    build(root, [MakeFile("gone/d/f", b"1"), MakeFile("gone/g", b"2"), MakeFile("a")])
    build(source, [MakeFile("new/d/e/f", b"3"), MakeFile("a", b"4")])
    done = sync(root, source)
    assert (done.stats.created, done.stats.deleted) == (4, 4)


@pytest.mark.parametrize(("few", "reads"), [(100, 0), (6, 2), (1, 3)])
def test_directories_are_read_again_at_each_walk_unless_they_are_few(
    source: Path, monkeypatch: pytest.MonkeyPatch, few: int, reads: int
) -> None:
    monkeypatch.setattr(visits, "MAX_REMEMBERED", few)
    build(source, [MakeFile("a/b/c"), MakeFile("a/d")])
    nodes = CountingNodes()
    walked = Visits(None, Manifest(scan(source, nodes).tree, nodes))
    walked.is_settled = True
    paths = [visit.path for visit in walked]
    before = nodes.reads
    assert [visit.path for visit in walked] == paths == [b"", b"a", b"a/b"]
    assert nodes.reads - before == reads
