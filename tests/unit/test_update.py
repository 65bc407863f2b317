"""Updates: what is kept, what is done, and above all what is not done."""

import errno
import os
import shutil
import stat
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from filesync.digest import digest_of
from filesync.disk.update import LocalTree, TreeUpdate
from filesync.errors import (
    ContentCorrupt,
    LocalError,
    MalformedManifest,
    StoreError,
)
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    File,
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
    MakeLink,
    MakeSymlink,
    Updated,
    build,
    hand_in,
    scanned,
    update,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def sync(root: Path, source: Path, *, atomic: bool = False) -> Updated:
    """Update ``root`` to what ``source`` holds and check that it does."""
    basis = scanned(root) if root.exists() else None
    target = scanned(source)
    done = update(root, source, basis=basis, target=target, atomic=atomic)
    assert list(scanned(root).walk()) == list(target.walk())
    assert scanned(root).tree == target.tree
    return done


def tree_of(*entries: Entry) -> Manifest:
    nodes = MemoryNodes()
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)


def file(name: bytes, data: bytes, *, mode: int = 0o644, link: bytes = b"") -> File:
    me = os.geteuid()
    return File(name, mode, me, me, 0, len(data), digest_of(data), link)


# --- work that is not done ------------------------------------------------------------------


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
    assert done.stats.directories_moved == 1
    assert done.stats.files_moved == done.stats.files_copied == 0


def test_a_directory_within_a_removed_one_is_moved_out_of_it(root: Path, source: Path) -> None:
    build(root, [MakeFile("gone/x/kept/f", b"1"), MakeFile("gone/other", b"2")])
    build(source, [MakeFile("kept/f", b"1")])
    done = sync(root, source)
    assert done.fetched == []
    assert done.stats.directories_moved == 1


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
    done = sync(root, source)
    assert done.fetched == []
    assert (done.stats.files_moved, done.stats.files_copied) == (1, 2)


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
    assert done.stats.metadata_changed == 2


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


# --- other trees of this machine ------------------------------------------------------------


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


# --- fidelity -------------------------------------------------------------------------------


@pytest.mark.needs("root")
@pytest.mark.parametrize("atomic", [False, True])
def test_owners_modes_xattrs_capabilities_and_devices_are_kept(
    root: Path, source: Path, atomic: bool
) -> None:
    makes = [MakeFile(f"d/{n}", b"%d" % n) for n in range(4)]
    build(root, [*makes, MakeFile("d/stays", b"s"), MakeSymlink("d/l", "x")])
    build(
        source,
        [*makes, MakeFile("d/stays", b"s"), MakeSymlink("d/l", "x"), MakeFile("n/f", b"n")],
    )
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    for name in ("d/1", "n/f"):
        os.chown(source / name, 1000, 1001)
        os.chmod(source / name, 0o6755)
        os.setxattr(source / name, "security.capability", capability)
        os.setxattr(source / name, "user.test", b"value\0")
    os.setxattr(root / "d/stays", "user.old", b"must go")
    os.setxattr(root / "d", "user.old", b"must go too")
    os.setxattr(source / "d", "user.directory", b"v")
    os.chown(source / "n", 12, 13)
    os.chmod(source / "n", 0o3555)
    os.chown(source / "d/l", 7, 8, follow_symlinks=False)
    os.setxattr(source / "d/l", "trusted.t", b"1", follow_symlinks=False)
    os.mknod(source / "null", 0o640 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(source / "fifo")
    done = sync(root, source, atomic=atomic)
    assert done.stats.not_kept == {}
    assert os.getxattr(root / "n/f", "security.capability") == capability
    assert os.listxattr(root / "d/stays") == []


def test_xattrs_that_steer_the_machine_are_not_set(root: Path, source: Path) -> None:
    xattrs = ((b"trusted.overlay.opaque", b"y"),)
    entry = msgspec.structs.replace(file(b"f", b""), xattrs=xattrs)
    done = update(root, source, basis=None, target=tree_of(entry))
    assert os.listxattr(root / "f") == []
    assert done.stats.not_kept["xattr"] == 1


def test_owners_are_left_alone_on_request(root: Path, source: Path) -> None:
    entries = [msgspec.structs.replace(file(b"f", b""), uid=1234, gid=1234)]
    nodes = MemoryNodes()
    header = msgspec.structs.replace(EMPTY_DIRECTORY, uid=1234)
    target = Manifest(put(nodes, with_entries(header, entries)), nodes)
    done = update(root, source, basis=None, target=target, preserve_owner=False)
    assert (root / "f").stat().st_uid == root.stat().st_uid == os.geteuid()
    assert done.stats.not_kept == {}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_umask_changes_nothing(root: Path, source: Path, umask: int) -> None:
    build(source, [MakeFile("d/a", b"1", mode=0o666), MakeFile("d/b", b"2", mode=0o4777)])
    before = os.umask(umask)
    try:
        sync(root, source)
    finally:
        os.umask(before)


def test_a_default_acl_is_not_inherited(root: Path, source: Path) -> None:
    acl = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000000ffffffff")
    build(root, [MakeFile("d/old", b"1")])
    for path in (root, root / "d"):
        os.setxattr(path, "system.posix_acl_default", acl)
    build(source, [MakeFile("d/old", b"1"), MakeFile("d/new", b"2"), MakeFile("e/f", b"3")])
    os.setxattr(source / "d", "system.posix_acl_default", acl)
    sync(root, source)


def test_zeros_become_holes(root: Path, source: Path) -> None:
    build(
        source,
        [MakeFile("disk", bytes(8 << 20) + b"end"), MakeFile("copy", bytes(8 << 20) + b"end")],
    )
    sync(root, source)
    for name in ("disk", "copy"):
        assert (root / name).stat().st_blocks * 512 < 1 << 20


def test_names_are_bytes(root: Path, source: Path) -> None:
    for name in (
        b"\xff\xfe",
        b"new\nline",
        b"\x1b[31m",
        b"..foo",
        b"foo..",
        b"...",
        b" ",
        b"-rf",
    ):
        os.mkdir(os.fsencode(source) + b"/" + name)
        with open(os.fsencode(source) + b"/" + name + b"/" + name, "wb") as out:
            out.write(name)
    sync(root, source)


def test_trees_deeper_than_a_path_can_be_long(root: Path, source: Path) -> None:
    def deepen(path: Path, data: bytes) -> None:
        path.mkdir(exist_ok=True)
        fd = os.open(path, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("directory", dir_fd=fd)
            below = os.open("directory", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        out = os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        os.write(out, data)
        os.close(out)
        os.close(fd)

    deepen(source, b"1")
    nodes = scanned(source)
    one = TreeUpdate(root, basis=None, target=nodes)
    one.prepare()
    one.write_small([(wanted, b"1") for wanted in one.wanted()])
    one.finish()
    assert scanned(root).tree == nodes.tree
    # Python's own rmtree, with which pytest cleans up, would recurse too deep.
    for path, basis in ((root, nodes), (source, scanned(source))):
        one = TreeUpdate(path, basis=basis, target=tree_of())
        one.prepare()
        one.finish()
        assert list(path.iterdir()) == []


# --- hard links -----------------------------------------------------------------------------


def test_a_name_that_leaves_its_group_gets_a_private_copy(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"data"), MakeLink("b", "a"), MakeLink("c", "a")])
    build(
        source, [MakeFile("a", b"data"), MakeLink("b", "a"), MakeFile("c", b"data", mode=0o600)]
    )
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "a").stat().st_ino == (root / "b").stat().st_ino == inode


def test_a_group_whose_first_name_did_not_change_is_linked_from_it(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("a", b"data"), MakeLink("z/b", "a")])
    build(source, [MakeFile("a", b"data"), MakeLink("z/b", "a"), MakeLink("z/c", "a")])
    done = sync(root, source)
    assert done.fetched == []
    assert done.stats.links_made == 1
    assert done.stats.files_copied == 0


def test_a_group_changes_its_metadata_in_place(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"data"), MakeLink("b", "a")])
    build(source, [MakeFile("a", b"data", mode=0o600), MakeLink("b", "a")])
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert (root / "b").stat().st_ino == inode
    assert (done.stats.links_made, done.stats.files_copied) == (0, 0)


def test_an_inode_with_a_name_outside_of_the_tree_is_not_changed(
    root: Path, source: Path, tmp_path: Path
) -> None:
    build(root, [MakeFile("a", b"data"), MakeFile("m", b"moved"), MakeSymlink("l", "x")])
    build(source, [MakeFile("a", b"data", mode=0o777), MakeFile("n", b"moved", mode=0o777)])
    os.link(root / "a", tmp_path / "snapshot-a")
    os.link(root / "m", tmp_path / "snapshot-m")
    done = sync(root, source)
    assert done.fetched == []
    for name in ("snapshot-a", "snapshot-m"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644


def test_where_a_file_can_have_no_more_links_it_is_copied(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, [MakeFile("a", b"data"), MakeLink("b", "a")])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    target = scanned(source)
    monkeypatch.setattr(os, "link", refuse)
    done = update(root, source, basis=None, target=target)
    assert done.stats.not_kept == {"hard link": 1}
    assert (root / "b").read_bytes() == b"data"


@pytest.mark.parametrize(
    "group",
    [
        [file(b"a", b"1", link=b"ABCDEFGH"), file(b"b", b"1", link=b"ABCDEFGH")],
        [
            file(b"a", b"1", link=blake3(b"a").digest()[:8]),
            file(b"b", b"1", mode=0o600, link=blake3(b"a").digest()[:8]),
        ],
        [
            file(b"a", b"1", link=blake3(b"a").digest()[:8]),
            file(b"b", b"22", link=blake3(b"a").digest()[:8]),
        ],
    ],
    ids=["misnamed", "two modes", "two contents"],
)
def test_a_group_that_is_not_one_file_is_refused(root: Path, group: list[Entry]) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of(*group))
    one.prepare()
    one.write_small([(wanted, b"1") for wanted in one.wanted()])
    with pytest.raises(MalformedManifest):
        one.finish()
    one.abort()
    assert not [path for path in root.iterdir() if path.name.startswith(".filesync-")]


# --- contents that come ---------------------------------------------------------------------


def test_small_contents_are_verified_before_any_is_written(root: Path) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of(file(b"a", b"1"), file(b"b", b"2")))
    one.prepare()
    a, b = one.wanted()
    with pytest.raises(ContentCorrupt):
        one.write_small([(a, b"1"), (b, b"x")])
    assert not (root / "a").exists()
    assert [wanted.ticket for wanted in one.wanted()] == [a.ticket, b.ticket]
    one.write_small([(a, b"1"), (b, memoryview(b"2"))])
    assert list(one.wanted()) == []
    one.finish()
    assert (root / "b").read_bytes() == b"2"


def test_a_size_that_the_manifest_lies_about_is_corrupt(root: Path) -> None:
    entry = msgspec.structs.replace(file(b"a", b"data"), size=3)
    one = TreeUpdate(root, basis=None, target=tree_of(entry))
    one.prepare()
    with pytest.raises(ContentCorrupt):
        one.write_small([(next(one.wanted()), b"data")])
    one.abort()


def test_an_empty_file_with_another_files_digest_is_refused(root: Path) -> None:
    entry = msgspec.structs.replace(file(b"a", b"data"), size=0)
    one = TreeUpdate(root, basis=None, target=tree_of(entry))
    with pytest.raises(MalformedManifest):
        one.prepare()
    one.abort()


DATA = bytes(range(256)) * 1000


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
@pytest.mark.parametrize("replaced", [b"", b"old"])
def test_large_files_come_in_any_order(root: Path, order: list[int], replaced: bytes) -> None:
    root.mkdir()
    if replaced:
        (root / "a").write_bytes(replaced)
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    assert (large.basis_fd is not None) == bool(replaced)
    for piece in order:
        large.write(piece * 64_000, DATA[piece * 64_000 :][:64_000])
    if replaced:
        assert (root / "a").read_bytes() == replaced
    large.finish()
    large.abort()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_parts_of_a_large_file_are_copied_from_the_one_it_replaces(root: Path) -> None:
    root.mkdir()
    (root / "a").write_bytes(DATA[100_000:] + DATA[:100_000])
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    large.copy(0, basis_offset=len(DATA) - 100_000, length=100_000)
    large.copy(100_000, basis_offset=0, length=len(DATA) - 100_000)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("replaced", [b"", b"old"])
def test_a_corrupt_large_file_is_removed_and_still_wanted(
    root: Path, replaced: bytes, in_order: bool
) -> None:
    root.mkdir()
    if replaced:
        (root / "a").write_bytes(replaced)
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    wanted = next(one.wanted())
    large = one.open_large(wanted)
    pieces = [(0, DATA[:1000]), (1000, bytes(len(DATA) - 1000))]
    for offset, data in pieces if in_order else reversed(pieces):
        large.write(offset, data)
    with pytest.raises(ContentCorrupt):
        large.finish()
    assert (root / "a").exists() == bool(replaced)
    with pytest.raises(LocalError):
        one.finish()
    large = one.open_large(wanted)
    large.write(0, DATA)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_bytes_past_the_end_of_a_large_file_are_refused(root: Path) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    for offset, data in ((len(DATA) - 1, b"12"), (-1, b"12"), (1 << 70, b"1")):
        with pytest.raises(ContentCorrupt):
            large.write(offset, data)
    with pytest.raises(ContentCorrupt):
        large.copy(0, basis_offset=0, length=1)
    large.abort()
    one.abort()
    assert list(root.iterdir()) == []


def test_several_threads_write_at_once(root: Path, source: Path) -> None:
    build(source, [MakeFile(f"{n % 7}/{n}", b"%d" % n * 50) for n in range(700)])
    target = scanned(source)
    contents = Contents(source, target)
    one = TreeUpdate(root, basis=None, target=target)
    one.prepare()
    wanted = list(one.wanted())
    failures: list[BaseException] = []

    def write(part: int) -> None:
        try:
            for at in range(part * 10, len(wanted), 40):
                one.write_small([(w, contents[w.digest]) for w in wanted[at : at + 10]])
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    one.finish()
    assert scanned(root).tree == target.tree


# --- interruption, and a disk that is not what it was said to be ----------------------------


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
    with pytest.raises(MalformedManifest):
        TreeUpdate(root, basis=None, target=tree_of(file(b".filesync-0123", b"")))
    nodes = MemoryNodes()
    inner = put(nodes, with_entries(EMPTY_DIRECTORY, [file(b".filesync-0123", b"")]))
    entry = subdirectory(nodes, b"d", inner)
    target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, [entry])), nodes)
    update(root, root, basis=None, target=target)
    assert (root / "d/.filesync-0123").exists()


def test_staging_keeps_the_root_free_of_other_names(root: Path, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    one = TreeUpdate(root, basis=None, target=tree_of(), staging=staging)
    one.prepare()
    assert list(root.iterdir()) == []
    assert len(list(staging.iterdir())) == 1
    one.finish()
    assert list(staging.iterdir()) == []


def test_staging_on_another_file_system_is_refused(root: Path) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of(), staging=Path("/proc"))
    with pytest.raises(StoreError, match="file system"):
        one.prepare()
    one.abort()


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
