"""Updates keep every kind of metadata and every hard link."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from filesync.disk.updating.update import LocalTree, TreeUpdate
from filesync.disk.updating.visits import Visits
from filesync.disk.updating.work import WorkDirectory
from filesync.errors import MalformedManifest, StoreError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    Manifest,
    MemoryNodes,
    put,
    with_entries,
)
from tests.deep import dig
from tests.mounting import tmpfs
from tests.unit.update_driver import (
    Make,
    MakeFile,
    MakeLink,
    MakeSymlink,
    build,
    file,
    scanned,
    sync,
    tree_of,
    update,
)


def refusing(code: int) -> Callable[..., None]:
    """Return a system call that a file system refuses, as ``os`` tells of it."""

    def refuse(*args: object, **_: object) -> None:
        raise OSError(code, os.strerror(code), *args[:1])

    return refuse


# --- fidelity ----------------------------------------------------------------------------


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
    os.mkfifo(root / "fifo")
    os.chown(source / "fifo", 9, 9)
    for tree in (source, root):
        os.chmod(tree / "fifo", 0o6755)
    done = sync(root, source, atomic=atomic)
    assert done.stats.not_kept == {}
    assert os.getxattr(root / "n/f", "security.capability") == capability
    assert os.listxattr(root / "d/stays") == []


@pytest.mark.needs("root")
@pytest.mark.parametrize("atomic", [False, True])
def test_a_special_file_becomes_another_of_its_name(
    root: Path, source: Path, atomic: bool
) -> None:
    character, block = 0o640 | stat.S_IFCHR, 0o640 | stat.S_IFBLK
    root.mkdir()
    os.mkfifo(root / "fifo")
    os.mknod(source / "fifo", character, os.makedev(1, 3))
    for name, old, new in (
        ("minor", (character, 1, 3), (character, 1, 5)),
        ("major", (character, 1, 3), (character, 5, 3)),
        ("kind", (character, 1, 3), (block, 1, 3)),
    ):
        for tree, (mode, *numbers) in ((root, old), (source, new)):
            os.mknod(tree / name, mode, os.makedev(*numbers))
    done = sync(root, source, atomic=atomic)
    assert done.stats.not_kept == {}


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
    done = update(root, source, basis=None, target=target, groups=frozenset())
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
        fd = dig(path, 1500, "directory")
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


# --- hard links --------------------------------------------------------------------------


def test_a_name_that_leaves_its_group_gets_a_private_copy(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"data"), MakeLink("b", "a"), MakeLink("c", "a")])
    build(
        source, [MakeFile("a", b"data"), MakeLink("b", "a"), MakeFile("c", b"data", mode=0o600)]
    )
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "a").stat().st_ino == (root / "b").stat().st_ino == inode


def test_names_that_others_leave_are_not_made_anew(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"data"), *(MakeLink(name, "a") for name in "bcd")])
    build(source, [MakeFile("a", b"new"), MakeFile("c", b"data"), MakeLink("d", "c")])
    inode = (root / "c").stat().st_ino
    done = sync(root, source)
    assert done.stats.files_copied == 0
    assert (root / "c").stat().st_ino == (root / "d").stat().st_ino == inode
    assert inode != (root / "a").stat().st_ino


def test_a_group_whose_first_name_did_not_change_is_linked_from_it(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("a", b"data"), MakeLink("z/b", "a")])
    build(source, [MakeFile("a", b"data"), MakeLink("z/b", "a"), MakeLink("z/c", "a")])
    done = sync(root, source)
    assert done.fetched == []
    assert (root / "z/c").stat().st_ino == (root / "a").stat().st_ino
    assert done.stats.files_copied == 0


def test_a_group_changes_its_metadata_in_place(root: Path, source: Path) -> None:
    build(root, [MakeFile("a", b"data"), MakeLink("b", "a")])
    build(source, [MakeFile("a", b"data", mode=0o600), MakeLink("b", "a")])
    inode = (root / "a").stat().st_ino
    done = sync(root, source)
    assert (root / "b").stat().st_ino == inode
    assert done.stats.files_copied == 0


def test_an_inode_with_a_name_outside_of_the_tree_is_not_changed(
    root: Path, source: Path, tmp_path: Path
) -> None:
    build(root, [MakeFile("a", b"data"), MakeFile("m", b"moved"), MakeSymlink("l", "x")])
    build(source, [MakeFile("a", b"data", mode=0o777), MakeFile("n", b"moved", mode=0o777)])
    os.link(root / "a", tmp_path / "snapshot-a")
    os.link(root / "m", tmp_path / "snapshot-m")
    done = sync(root, source)
    assert done.fetched == []
    assert (done.stats.files_copied, done.stats.bytes_copied) == (2, len(b"data" + b"moved"))
    for name in ("snapshot-a", "snapshot-m"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644


def test_where_a_file_can_have_no_more_links_it_is_copied(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, [MakeFile("a", b"data"), MakeLink("b", "a")])

    target = scanned(source)
    monkeypatch.setattr(os, "link", refusing(errno.EMLINK))
    done = update(root, source, basis=None, target=target)
    assert done.stats.not_kept == {"hard link": 1}
    assert (root / "b").read_bytes() == b"data"


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("atomic", [False, True])
def test_where_there_are_no_symbolic_links_all_else_is_made(
    code: int, atomic: bool, root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, [MakeFile("d/a", b"data"), MakeSymlink("d/l", "a"), MakeFile("z", b"1")])
    target = scanned(source)
    monkeypatch.setattr(os, "symlink", refusing(code))
    done = update(root, source, basis=None, target=target, atomic=atomic, goes_on=True)
    assert done.stats.not_kept == {"symbolic link": 1}
    assert sorted(os.listdir(root / "d")) == ["a"]
    assert (root / "z").read_bytes() == b"1"


@pytest.mark.parametrize("call", ["fchmod", "fchown"])
def test_where_the_file_system_knows_no_modes_or_owners_files_are_made(
    call: str, root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    entry = msgspec.structs.replace(file(b"f", b"1"), mode=0o4711, uid=7, gid=8)
    (source / "f").write_bytes(b"1")
    monkeypatch.setattr(os, call, refusing(errno.ENOSYS))
    done = update(root, source, basis=None, target=tree_of(entry))
    assert (root / "f").read_bytes() == b"1"
    assert done.stats.not_kept


@pytest.mark.parametrize(
    ("call", "make"),
    [
        ("symlink", MakeSymlink("d/l", "elsewhere")),
        ("link", MakeLink("d/l", "d/a")),
        ("rename", MakeFile("d/l", b"content")),
        ("mknod", None),
    ],
)
def test_what_cannot_be_made_is_named_and_not_what_it_is_made_from(
    call: str, make: Make | None, root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root, [MakeFile("d/a", b"data")])
    build(source, [MakeFile("d/a", b"data"), *([make] if make is not None else [])])
    if make is None:
        os.mkfifo(source / "d/l")
    basis, target = scanned(root), scanned(source)
    monkeypatch.setattr(os, call, refusing(errno.EIO))
    with pytest.raises(StoreError, match=r"^'d/l': Input/output error"):
        update(root, source, basis=basis, target=target, atomic=True)


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


@pytest.mark.needs("mount")
def test_what_is_mounted_below_need_not_keep_all_either(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, [MakeFile("disk/f", b"data", mode=0o4711), MakeSymlink("disk/l", "x")])
    os.setxattr(source / "disk/f", "user.name", b"value")
    root.mkdir()
    with tmpfs(root / "disk", "size=1m") as disk:
        device = disk.stat().st_dev
        basis, target = scanned(root), scanned(source)

        def refuse_there(call: str) -> None:
            real = getattr(os, call)

            def refuse(*args: object, **kwargs: object) -> object:
                at = kwargs.get("dir_fd", args[0])
                if isinstance(at, int) and os.fstat(at).st_dev == device:
                    raise OSError(errno.EPERM, os.strerror(errno.EPERM))
                return real(*args, **kwargs)

            monkeypatch.setattr(os, call, refuse)

        for call in ("fchown", "fchmod", "setxattr", "symlink"):
            refuse_there(call)
        done = update(root, source, basis=basis, target=target, atomic=True, goes_on=True)
        assert below(disk) == ["f"]
        assert (disk / "f").read_bytes() == b"data"
    kinds = {"owner": 1, "mode": 2, "xattr": 1, "symbolic link": 1}  # a directory's mode, too
    assert done.stats.not_kept == kinds


# --- file systems that take names for one that differ in case alone --------------------------


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have updates believe that theirs is one: it shows what they do not even try."""
    monkeypatch.setattr(WorkDirectory, "folds_case", lambda _: True)


TWINS: list[Make] = [
    MakeFile("Case", b"1"),
    MakeFile("case", b"22"),
    MakeFile("D/x", b"3"),
    MakeFile("d/y", b"4"),
    MakeFile("e/f/\u00c4", b"5"),
    MakeSymlink("e/f/\u00e4", "x"),
    MakeFile("z", b"6"),
]
FIRSTS = ["Case", "D", "D/x", "e", "e/f", "e/f/\u00c4", "z"]


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.usefixtures("folding")
@pytest.mark.parametrize("atomic", [False, True])
def test_of_names_that_are_one_the_first_is_made_and_the_others_are_counted(
    atomic: bool, root: Path, source: Path
) -> None:
    build(source, TWINS)
    for _ in range(2):
        root.mkdir(exist_ok=True)
        basis, target = scanned(root), scanned(source)
        done = update(root, source, basis=basis, target=target, atomic=atomic, goes_on=True)
        assert done.stats.not_kept == {"differently cased name": 3}
        assert below(root) == FIRSTS
        assert (root / "Case").read_bytes() == b"1"


@pytest.mark.usefixtures("folding")
def test_names_that_are_one_are_counted_though_somebody_has_walked_the_trees_before(
    root: Path, source: Path
) -> None:
    root.mkdir()
    build(source, TWINS)
    basis, target = scanned(root), scanned(source)
    visits = Visits(basis, target)
    assert list(visits.common())
    one = TreeUpdate(
        root,
        basis=basis,
        target=target,
        visits=visits,
        local=[LocalTree(target, source)],
        goes_on=True,
    )
    one.prepare()
    assert not list(one.wanted())
    assert one.finish().not_kept == {"differently cased name": 3}
    assert below(root) == FIRSTS


@pytest.mark.usefixtures("folding")
def test_what_is_there_keeps_its_name_unless_that_goes(root: Path, source: Path) -> None:
    build(root, [MakeFile("case", b"old"), MakeFile("gone", b"g")])
    build(source, [MakeFile("CASE", b"1"), MakeFile("case", b"2"), MakeFile("GONE", b"3")])
    done = update(root, source, basis=scanned(root), target=scanned(source), goes_on=True)
    assert done.stats.not_kept == {"differently cased name": 1}
    assert below(root) == ["GONE", "case"]
    assert (root / "case").read_bytes() == b"2"


@pytest.mark.usefixtures("folding")
@pytest.mark.parametrize("size", [0, 2, 100_000])
@pytest.mark.parametrize("first", ["a", "d/a"])
def test_nothing_is_linked_to_a_name_that_leads_to_another_file(
    root: Path, source: Path, first: str, size: int
) -> None:
    build(source, [MakeFile(first.upper(), b"1"), MakeFile(first, b"2" * size)])
    build(source, [MakeLink(name, first) for name in ("e", "f")])
    done = update(root, source, basis=None, target=scanned(source), goes_on=True)
    assert done.stats.not_kept == {"differently cased name": 1}
    assert (root / "e").read_bytes() == b"2" * size
    assert (root / "e").samefile(root / "f")
    assert (root / first.upper()).read_bytes() == b"1"


@pytest.mark.usefixtures("folding")
def test_who_makes_a_tree_that_must_equal_its_digest_is_told_of_names_that_cannot_be(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(source, [*TWINS, MakeSymlink("l", "x")])
    target = scanned(source)
    monkeypatch.setattr(os, "symlink", refusing(errno.EPERM))
    lacks = r"root': this file system cannot have all names of the tree \(differently cased name: 3, symbolic link: 1\)"
    with pytest.raises(StoreError, match=lacks):
        update(root, source, basis=None, target=target)
    assert below(root) == FIRSTS


def test_where_names_that_differ_in_case_are_two_both_are_made(
    root: Path, source: Path
) -> None:
    build(source, TWINS)
    done = update(root, source, basis=None, target=scanned(source))
    assert done.stats.not_kept == {}
    assert below(root) == below(source)
