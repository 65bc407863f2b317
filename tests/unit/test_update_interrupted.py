"""Updates that were interrupted, and disks that are not what they were said to be."""

import os
import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.layout import RootTimes
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import (
    LocalError,
    MalformedManifest,
    StoreError,
)
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Manifest,
    MemoryNodes,
    put,
    subdirectory,
    with_entries,
)
from tests.unit.update_driver import (
    Contents,
    MakeDirectory,
    MakeFile,
    build,
    file,
    hand_in,
    scanned,
    sync,
    tree_of,
    update,
)


def test_an_interrupted_update_goes_on_from_a_scan_of_what_it_left(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile(f"old/{n}", b"%d" % n) for n in range(10)])
    build(source, [MakeFile(f"new/{n}", b"%d" % (n + 5)) for n in range(10)])
    target = scanned(source)
    one = TreeUpdate(root, basis=scanned(root), target=target)
    one.prepare()
    first, *_ = one.wanted()
    hand_in(one, [first], Contents(source, target))
    one.abort()
    one.abort()
    done = sync(root, source)
    assert len(done.fetched) == 4


@pytest.mark.parametrize("arrives", [False, True])
def test_the_directory_of_names_is_what_it_was_after_an_update_that_is_given_up(
    root: Path, source: Path, arrives: bool
) -> None:
    acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000000ffffffff")
    build(source, [MakeFile("d/new", b"1"), MakeFile("new", b"2")])
    root.mkdir()
    root.chmod(0o2750)
    os.setxattr(root, "system.posix_acl_default", acl)
    os.utime(root, ns=(0, 10**18))
    before, target = scanned(root), scanned(source)
    one: TreeUpdate
    if arrives:
        names = frozenset((b"d", b"new"))
        one = ArrivingUpdate(root, target.nodes, names=names, root_times=RootTimes.KEPT)
    else:
        entries = target.root.entries
        tree = put(target.nodes, with_entries(before.root, entries))
        target = Manifest(tree, target.nodes)
        one = TreeUpdate(root, basis=before, target=target, root_times=RootTimes.KEPT)
    one.prepare()
    assert "system.posix_acl_default" not in os.listxattr(root)
    one.abort()
    assert with_entries(scanned(root).root, ()) == before.root


def test_what_a_killed_update_left_is_swept(root: Path, source: Path) -> None:
    build(source, [MakeFile("a", b"1")])
    target = scanned(source)
    one = TreeUpdate(root, basis=None, target=target)
    one.prepare()
    left = [path.name for path in root.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".filesync-")
    one = TreeUpdate(root, basis=tree_of(), target=target)
    one.prepare()
    assert len(list(root.iterdir())) == 1
    assert left != [path.name for path in root.iterdir()]
    one.abort()
    assert list(root.iterdir()) == []


def test_a_target_with_one_of_our_names_is_refused(root: Path) -> None:
    target = tree_of(file(b".filesync-0123456789abcdef", b""))
    one = TreeUpdate(root, basis=None, target=target)
    with pytest.raises(MalformedManifest):
        one.prepare()
    one.abort()
    assert list(root.iterdir()) == []
    nodes = MemoryNodes()
    inner = put(
        nodes, with_entries(EMPTY_DIRECTORY, [file(b".filesync-0123456789abcdef", b"")])
    )
    entry = subdirectory(nodes, b"d", inner)
    target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, [entry])), nodes)
    update(root, root, basis=None, target=target)
    assert (root / "d/.filesync-0123456789abcdef").exists()


def test_an_update_that_was_not_prepared_or_has_ended_refuses_work(root: Path) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of())
    with pytest.raises(LocalError):
        one.finish()
    one.prepare()
    one.finish()
    with pytest.raises(LocalError):
        one.finish()


def test_a_name_that_the_basis_does_not_know_is_not_overwritten(root: Path) -> None:
    build(root, [MakeFile("a", b"precious")])
    one = TreeUpdate(root, basis=None, target=tree_of(file(b"a", b"1")))
    one.prepare()
    with pytest.raises(StoreError, match="'a'"):
        one.write_small([(next(one.wanted()), b"1")])
    one.abort()
    assert (root / "a").read_bytes() == b"precious"


@pytest.mark.parametrize("moment", ["before", "prepared"])
def test_a_directory_that_becomes_a_link_never_leads_outside(
    root: Path, source: Path, tmp_path: Path, moment: str
) -> None:
    outside = tmp_path / "outside"
    build(outside, [MakeFile("f", b"outside"), MakeFile("g", b"outside"), MakeDirectory("s")])
    before = scanned(outside)
    build(
        root,
        [MakeFile("d/f", b"1"), MakeFile("d/g", b"gone"), MakeDirectory("d/s", mode=0o700)],
    )
    build(
        source, [MakeFile("d/f", b"2"), MakeFile("d/h", b"3", mode=0o777), MakeDirectory("d/s")]
    )
    target = scanned(source)
    one = TreeUpdate(root, basis=scanned(root), target=target)

    def flip() -> None:
        (root / "d").rename(tmp_path / "aside")
        (root / "d").symlink_to(outside)

    if moment == "before":
        flip()
        with pytest.raises(StoreError):
            one.prepare()
    else:
        one.prepare()
        flip()
        # The directory that is held open is the old one, wherever it stands now.
        hand_in(one, list(one.wanted()), Contents(source, target))
        one.finish()
        assert (tmp_path / "aside/h").exists()
    one.abort()
    assert scanned(outside).tree == before.tree


def test_a_directory_that_is_flipped_all_the_time_never_leads_outside(
    root: Path, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    build(outside, [MakeFile(f"e/{n}", b"outside") for n in range(3)])
    before = scanned(outside)
    names = [f"d/e/{n}" for n in range(3)]
    build(source, [MakeFile(name, b"new", mode=0o777) for name in names])
    target = scanned(source)
    aside = tmp_path / "aside"

    def flip(done: threading.Event) -> None:
        while not done.is_set():
            with suppress(OSError):
                (root / "d").rename(aside)
                (root / "d").symlink_to(outside)
                (root / "d").unlink()
                aside.rename(root / "d")

    for _ in range(60):
        for path in (root, aside):
            shutil.rmtree(path, ignore_errors=True)
        build(root, [MakeFile(name, b"old" * 9) for name in names])
        basis = scanned(root)
        done = threading.Event()
        flipper = threading.Thread(target=flip, args=(done,))
        flipper.start()
        try:
            with suppress(StoreError):
                update(root, source, basis=basis, target=target)
        finally:
            done.set()
            flipper.join()
    assert scanned(outside).tree == before.tree


def test_a_file_that_becomes_a_link_is_not_followed(
    root: Path, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    build(outside, [MakeFile("f", b"1", mode=0o600)])
    build(root, [MakeFile("a", b"1")])
    build(source, [MakeFile("a", b"1", mode=0o777)])
    basis, target = scanned(root), scanned(source)
    (root / "a").unlink()
    (root / "a").symlink_to(outside / "f")
    done = update(root, source, basis=basis, target=target)
    assert len(done.fetched) == 1
    assert scanned(root).tree == target.tree
    assert stat.S_IMODE((outside / "f").stat().st_mode) == 0o600


def test_an_atomic_update_never_shows_half_a_file(root: Path) -> None:
    build(root, [MakeFile("a", b"old" * 50_000), MakeFile("b", b"old")])
    new = b"new" * 50_000
    target = tree_of(file(b"a", new), file(b"b", b"new"), file(b"c", new[1:]))
    one = TreeUpdate(root, basis=scanned(root), target=target, atomic=True)
    one.prepare()
    assert (root / "a").read_bytes() == b"old" * 50_000
    a, b, c = one.wanted()
    for wanted, content in ((a, new), (c, new[1:])):
        large = one.open_large(wanted)
        large.write(0, content[:70_000])
        assert (root / "a").read_bytes()[:3] == (b"old" if wanted is a else b"new")
        assert not (root / "c").exists()
        large.write(70_000, content[70_000:])
        large.finish()
    assert (root / "b").read_bytes() == b"old"
    one.write_small([(b, b"new")])
    one.finish()
    assert sorted(path.name for path in root.iterdir()) == ["a", "b", "c"]
