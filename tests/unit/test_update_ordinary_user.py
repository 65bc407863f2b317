"""Updates by a user who may not do everything: read-only directories, owners, devices."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filesync.digest import EMPTY
from filesync.disk.updating.update import LocalTree, TreeUpdate
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Special,
    Symlink,
    put,
    subdirectory,
    with_entries,
)
from tests.unit.ordinary import NOBODY, as_nobody
from tests.unit.update_driver import (
    Make,
    MakeDirectory,
    MakeFile,
    MakeLink,
    MakeSymlink,
    any_trees,
    build,
    check_update,
    scanned,
    update,
)

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that an ordinary user owns and can reach."""
    path = Path(tempfile.mkdtemp(prefix="update-"))
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


READ_ONLY: list[Make] = [
    MakeDirectory("ro", mode=0o555),
    MakeDirectory("ro/in", mode=0o500),
    MakeFile("ro/f", b"1", mode=0o444),
    MakeFile("ro/in/g", b"22", mode=0o400),
    MakeDirectory("gone", mode=0o555),
    MakeDirectory("gone/tree", mode=0o555),
    MakeFile("gone/tree/h", b"333", mode=0o444),
]


def test_read_only_directories_are_updated_moved_and_removed(work: Path) -> None:
    def check() -> None:
        root, source = work / "root", work / "source"
        build(root, READ_ONLY)
        build(
            source,
            [
                MakeDirectory("ro", mode=0o555),
                MakeDirectory("ro/in", mode=0o500),
                MakeFile("ro/in/g", b"22", mode=0o440),
                MakeFile("ro/in/new", b"4", mode=0o400),
                MakeDirectory("kept", mode=0o555),
                MakeDirectory("kept/tree", mode=0o555),
                MakeFile("kept/tree/h", b"333", mode=0o444),
            ],
        )
        source.chmod(0o555)
        target = scanned(source)
        for _ in range(2):
            done = update(root, source, basis=scanned(root), target=target)
            assert list(scanned(root).walk()) == list(target.walk())
            assert scanned(root).tree == target.tree
            assert done.stats.not_kept == {}
        empty = MemoryNodes()
        nothing = Manifest(put(empty, Directory(0o755, NOBODY, NOBODY, 0, (), ())), empty)
        update(root, source, basis=scanned(root), target=nothing)
        assert list(root.iterdir()) == []
        source.chmod(0o755)

    as_nobody(check)


@pytest.mark.parametrize("atomic", [False, True])
def test_what_only_its_mode_keeps_from_being_read_is_updated(work: Path, atomic: bool) -> None:
    """Nobody's scan could not read such a tree, so the manifests are made here."""
    for name, mode in (("root", 0o644), ("source", 0o600)):
        build(
            work / name,
            [
                MakeFile("shut/f", b"same", mode=0o000),
                MakeFile("shut/g", name.encode(), mode=0o000),
                MakeFile("h", b"same", mode=mode & 0o200),
                MakeLink("i", "h"),
                MakeDirectory("shut/in", mode=0o000 if name == "root" else 0o100),
            ],
        )
        (work / name / "shut").chmod(0o000)
        for path in [work / name, *(work / name).rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    basis, target = scanned(work / "root"), scanned(work / "source")

    def check() -> None:
        one = TreeUpdate(work / "root", basis=basis, target=target, atomic=atomic)
        one.prepare()
        one.write_small([(wanted, b"source") for wanted in one.wanted()])
        assert one.finish().not_kept == {}

    as_nobody(check)
    assert scanned(work / "root").tree == target.tree


def test_what_an_ordinary_user_cannot_keep_is_counted_and_no_error(work: Path) -> None:
    nodes = MemoryNodes()
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    entries: list[Entry] = [
        File(b"owned", 0o644, 0, 0, 5, 0, EMPTY, b"", ((b"security.capability", capability),)),
        File(b"owned2", 0o2755, 0, 0, 5, 0, EMPTY, b"", ((b"trusted.x", b"1"),)),
        Special(b"device", stat.S_IFCHR | 0o600, NOBODY, NOBODY, 5, 1, 3),
        Special(b"fifo", stat.S_IFIFO | 0o640, NOBODY, NOBODY, 5),
        Symlink(b"link", 0, 0, 5, b"anywhere"),
    ]
    inner = put(nodes, Directory(0o755, 0, 0, 7, (), ()))
    entries.append(subdirectory(nodes, b"zdir", inner))
    header = with_entries(EMPTY_DIRECTORY, entries)
    target = Manifest(put(nodes, header), nodes)

    def check() -> None:
        one = TreeUpdate(work / "root", basis=None, target=target)
        one.prepare()
        assert list(one.wanted()) == []
        lost = one.finish().not_kept
        assert lost == {"owner": 5, "xattr": 2, "device": 1}, lost
        one = TreeUpdate(work / "root2", basis=None, target=target, groups=frozenset())
        one.prepare()
        assert one.finish().not_kept == {"xattr": 2, "device": 1}
        assert stat.S_IMODE((work / "root2/fifo").stat().st_mode) == 0o640
        assert (work / "root/owned").stat().st_mtime_ns == 5
        assert (work / "root/link").lstat().st_mtime_ns == 5

    as_nobody(check)


def test_a_group_that_no_directory_can_be_given_here_is_counted_and_no_error(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel says EINVAL of a group that a container's user namespace does not map.
    nodes = MemoryNodes()
    file = File(b"f", 0o644, NOBODY, 1234, 5, 0, EMPTY)
    inner = put(nodes, Directory(0o2755, NOBODY, 1234, 7, (), (file,)))
    target = Manifest(
        put(nodes, with_entries(EMPTY_DIRECTORY, [subdirectory(nodes, b"d", inner)])), nodes
    )

    def check() -> None:
        def refuse(fd: int, uid: int, gid: int) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        monkeypatch.setattr(os, "fchown", refuse)
        one = TreeUpdate(work / "root", basis=None, target=target, groups=frozenset([1234]))
        one.prepare()
        assert one.finish().not_kept == {"group": 2}

    as_nobody(check)


def test_a_fifo_that_loses_setgid_is_counted(work: Path) -> None:
    nodes = MemoryNodes()
    fifo = Special(b"fifo", stat.S_IFIFO | 0o2640, NOBODY, 1234, 5)
    target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, [fifo])), nodes)
    os.mkfifo(work / "fifo", 0o640)
    os.chown(work / "fifo", NOBODY, 1234)
    basis = scanned(work)

    def check() -> None:
        one = TreeUpdate(work, basis=basis, target=target, groups=frozenset())
        one.prepare()
        assert one.finish().not_kept == {"mode": 1}

    as_nobody(check)


def test_local_trees_that_cannot_be_read_are_passed_over(work: Path) -> None:
    build(work / "other", [MakeFile("a", b"1", mode=0o600), MakeSymlink("l", "a")])
    local = LocalTree(scanned(work / "other"), work / "other")
    build(work / "source", [MakeFile("a", b"1")])
    for path in [work / "source", work / "source/a"]:
        os.chown(path, NOBODY, NOBODY)

    def check() -> None:
        target = scanned(work / "source")
        done = update(work / "root", work / "source", basis=None, target=target, local=[local])
        assert len(done.fetched) == 1
        assert scanned(work / "root").tree == target.tree

    as_nobody(check)


def test_any_tree_becomes_any_other_for_an_ordinary_user() -> None:
    trees = any_trees(
        modes=[0o644, 0o755, 0o400, 0o555, 0o4755, 0o2711],
        directory_modes=[0o755, 0o700, 0o500, 0o555, 0o2755, 0o1777],
    )

    @settings(suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(trees, trees, st.booleans())
    def check(before: list[Make], changes: list[Make], atomic: bool) -> None:
        check_update(before, changes, atomic=atomic)
        check_update(before, [*changes[:3], *before], atomic=atomic)

    as_nobody(check)
