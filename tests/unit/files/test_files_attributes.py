"""What a copy keeps of its source, and what owner and mode change."""

import os
import socket
import stat
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning.scan import scan
from filesync.errors import LocalError, StoreError
from filesync.manifest import Manifest, MemoryNodes
from worker.files import BadMode, InputTree, perform
from worker.files.mode import parse_mode
from worker.wire.ops import Copy, FileOp, MakeDirectory, MakeFile

Lay = Callable[[Mapping[str, str]], Path]
CopyBoth = Callable[..., Path]
Run = Callable[..., Mapping[bytes, tuple[int, bytes]]]
NOW_NS = 1_000_000_000_000_000_000
TIME_NS = 1_234_567_890_123_456_789
# Version 2, cap_net_raw permitted.
CAPABILITY = bytes.fromhex("0000000200200000000000000000000000000000")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def owner_of(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


@pytest.mark.needs("root")
def test_keeps_owner_modes_times_and_xattrs(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({"d/file": "f", "d/link": "-> x", "d/sub/x": "x"})
    os.chown(source / "d/file", 1000, 2000)
    os.chown(source / "d/link", 1001, 2001, follow_symlinks=False)
    os.chown(source / "d/sub", 1002, 2002)
    (source / "d/file").chmod(0o6751)
    (source / "d/sub").chmod(0o3711)
    os.setxattr(source / "d/file", "security.capability", CAPABILITY)
    os.setxattr(source / "d/sub", "trusted.note", b"n\0")
    os.setxattr(source / "d/link", "trusted.note", b"on a link", follow_symlinks=False)
    for name in ("d/file", "d/link", "d/sub"):
        os.utime(source / name, ns=(TIME_NS, TIME_NS), follow_symlinks=False)

    root = copy_both(source, {}, Copy(0, "d", "/"))

    assert owner_of(root / "file") == (1000, 2000)
    assert owner_of(root / "link") == (1001, 2001)
    assert owner_of(root / "sub") == (1002, 2002)
    assert mode_of(root / "file") == 0o6751
    assert mode_of(root / "sub") == 0o3711
    assert os.getxattr(root / "file", "security.capability") == CAPABILITY
    assert os.getxattr(root / "sub", "trusted.note") == b"n\0"
    assert os.getxattr(root / "link", "trusted.note", follow_symlinks=False) == b"on a link"
    assert [os.lstat(root / n).st_mtime_ns for n in ("file", "link", "sub")] == [TIME_NS] * 3


@pytest.mark.needs("root")
def test_the_destination_directory_has_nothing_of_the_source_directory_but_its_time(
    lay: Lay, copy_both: CopyBoth
) -> None:
    source = lay({"d/": "700", "d/f": "f"})
    os.chown(source / "d", 5, 5)
    os.utime(source / "d", ns=(TIME_NS, TIME_NS))

    root = copy_both(source, {"there/": "711"}, Copy(0, "d", "/new"), Copy(0, "d", "/there"))

    assert (mode_of(root / "new"), owner_of(root / "new")) == (0o755, (0, 0))
    assert mode_of(root / "there") == 0o711
    assert [os.lstat(root / n).st_mtime_ns for n in ("new", "there")] == [TIME_NS] * 2


@pytest.mark.needs("root")
def test_an_owner_is_for_all_that_is_copied_and_for_parents_that_are_made(
    lay: Lay, copy_both: CopyBoth
) -> None:
    source = lay({"d/f": "f", "d/l": "-> f", "d/s/x": "x"})
    accounts = {
        "etc/passwd": "root:x:0:0::/:\nme:x:7:8::/:\n",
        "etc/group": "crew:x:9:\n",
        "there/": "",
    }

    root = copy_both(
        source,
        accounts,
        Copy(0, "d", "/a/b", owner="me:crew"),
        Copy(0, "d/f", "/there/f", owner="12"),
        Copy(0, "d/f", "/g", owner="me"),
    )

    for name in ("a", "a/b", "a/b/f", "a/b/l", "a/b/s", "a/b/s/x"):
        assert owner_of(root / name) == (7, 9)
    assert owner_of(root / "there") == (0, 0)
    assert owner_of(root / "there/f") == (12, 12)
    assert owner_of(root / "g") == (7, 8)


@pytest.mark.needs("root")
def test_a_setuid_bit_and_no_inherited_group_survive_a_change_of_owner(
    lay: Lay, copy_both: CopyBoth
) -> None:
    source = lay({"su": "s"})
    (source / "su").chmod(0o4755)

    root = copy_both(source, {"d/": "2777"}, Copy(0, "su", "/d/e/", owner="33:44"))

    assert (mode_of(root / "d/e/su"), owner_of(root / "d/e/su")) == (0o4755, (33, 44))
    assert mode_of(root / "d/e") == 0o755


def test_a_mode_is_for_all_that_is_copied(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({"d/plain": "p", "d/tool": "t", "d/s/x": "x"})
    (source / "d/tool").chmod(0o700)

    root = copy_both(
        source,
        {"n/s/": "700"},
        Copy(0, "d", "/n", mode="u=rwX,go=rX"),
        Copy(0, "d", "/o", mode="0750"),
    )

    modes = {n: mode_of(root / n) for n in ("n/plain", "n/tool", "n/s", "o/plain", "o/s", "o")}
    assert modes == {
        "n/plain": 0o644,
        "n/tool": 0o755,
        "n/s": 0o755,
        "o/plain": 0o750,
        "o/s": 0o750,
        "o": 0o750,
    }


@pytest.mark.parametrize(
    ("text", "mode", "is_directory", "wanted"),
    [
        ("0644", 0o755, False, 0o644),
        ("4755", 0o644, False, 0o4755),
        ("00755", 0, True, 0o755),
        ("+x", 0o640, False, 0o751),
        ("a-w", 0o666, False, 0o444),
        ("u+s,g+s,+t", 0o755, False, 0o7755),
        ("go=", 0o777, False, 0o700),
        ("g=u", 0o740, False, 0o770),
        ("u=rw,g=r,o=", 0o777, False, 0o640),
        ("+X", 0o644, False, 0o644),
        ("+X", 0o644, True, 0o755),
        ("+X", 0o744, False, 0o755),
        ("u-x+w", 0o500, False, 0o600),
        ("a+x,u+s", 0o644, False, 0o4755),
        ("o-r,+t", 0o644, False, 0o1640),
        ("u=rwX,go=rX", 0o644, False, 0o644),
        ("u=rwX,go=rX", 0o6755, False, 0o755),
        ("u=rwx", 0o6755, False, 0o2755),
        ("g=", 0o6755, True, 0o4705),
        ("o=rx", 0o7777, False, 0o7775),
        ("a=rx", 0o7777, True, 0o1555),
        ("=r", 0o7777, False, 0o1444),
        ("u=rxs", 0o2755, False, 0o6555),
        ("u=g", 0o4750, False, 0o4550),
    ],
)
def test_modes_are_those_of_chmod(
    text: str, mode: int, is_directory: bool, wanted: int
) -> None:
    change = parse_mode(text)

    assert change is not None
    assert change(mode, is_directory) == wanted


@pytest.mark.parametrize(
    "text", ["8", "07778", "10000", "u", "rw", "u=rw,", "u=q", "u=rw;", "٦٤٤"]
)
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(BadMode, match="no mode"):
        parse_mode(text)


@pytest.mark.parametrize(
    ("mode", "made"),
    [
        ("700", 0o700),
        ("0644", 0o644),
        ("777", 0o755),
        ("1777", 0o755),
        ("7", 0o005),
        ("000", 0),
        ("u=rwx,go=", 0o755),
        ("a+w", 0o755),
    ],
)
def test_directories_made_on_the_way_have_an_octal_mode_but_for_what_only_owners_write(
    lay: Lay, copy_both: CopyBoth, mode: str, made: int
) -> None:
    root = copy_both(
        lay({"f": "f", "d/x/y/z": "z"}),
        {"there/": "711"},
        Copy(0, "f", "/a/b/", mode=mode),
        Copy(0, "d", "/a/b/c", mode=mode),
        Copy(0, "f", "/there/n/f", mode=mode),
    )

    assert {mode_of(root / name) for name in ("a", "a/b", "a/b/c", "there/n")} == {made}
    assert mode_of(root / "there") == 0o711


def test_hard_links_inside_a_copy_stay_hard_links(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({"d/a": "same", "d/z/": "", "e/": ""})
    for name in ("d/b", "d/z/c", "e/d"):
        os.link(source / "d/a", source / name)

    root = copy_both(source, {"n/b": "old"}, Copy(0, "d", "/n"), Copy(0, "d/z", "/alone"))

    assert os.stat(root / "n/a").st_nlink == 3
    assert os.path.samefile(root / "n/a", root / "n/z/c")
    assert os.path.samefile(root / "n/a", root / "n/b")
    assert os.stat(root / "alone/c").st_nlink == 1


def test_each_match_is_a_copy_of_its_own(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({"m/1/a": "first", "m/2/a": "other", "m/3/": "", "m/same": "same"})
    os.link(source / "m/1/a", source / "m/3/b")
    os.link(source / "m/same", source / "m/too")

    root = copy_both(source, {}, Copy(0, "m/*", "/n/", wildcard=True))

    assert (root / "n/a").read_text() == "other"
    assert (root / "n/b").read_text() == "first"
    assert os.stat(root / "n/same").st_nlink == os.stat(root / "n/too").st_nlink == 1


def test_a_file_with_two_names_is_not_written_through(lay: Lay, run: Run) -> None:
    root = lay({"x": "old"})
    os.link(root / "x", root / "y")

    run(root, Copy(0, "f", "/x"), MakeFile("/y", b"made"), source=lay({"f": "new"}))

    assert ((root / "x").read_text(), (root / "y").read_text()) == ("new", "made")


def test_holes_stay_holes(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({})
    with (source / "disk").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"in the middle")
        file.truncate(16 << 20)

    root = copy_both(source, {}, Copy(0, "disk", "/"))

    status = os.stat(root / "disk")
    assert status.st_size == 16 << 20
    assert status.st_blocks * 512 < 1 << 20
    assert (root / "disk").read_bytes() == (source / "disk").read_bytes()


def test_large_files_are_copied_whole(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({})
    (source / "large").write_bytes(bytes(range(256)) * 5000 + b"end")

    root = copy_both(source, {}, Copy(0, "large", "/"))

    assert (root / "large").read_bytes() == (source / "large").read_bytes()


def test_falls_back_where_the_kernel_cannot_copy(
    lay: Lay, copy_both: CopyBoth, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    source = lay({})
    (source / "large").write_bytes(bytes(range(256)) * 5000 + b"end")

    root = copy_both(source, {}, Copy(0, "large", "/"))

    assert (root / "large").read_bytes() == (source / "large").read_bytes()


@pytest.mark.needs("root")
def test_special_files_are_made_again(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({"d/": ""})
    os.mkfifo(source / "d/pipe", 0o640)
    os.mknod(source / "d/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.utime(source / "d/null", ns=(TIME_NS, TIME_NS))

    root = copy_both(source, {"n/pipe": "in the way"}, Copy(0, "d", "/n", mode="a+r"))

    assert stat.S_ISFIFO(os.lstat(root / "n/pipe").st_mode)
    assert mode_of(root / "n/pipe") == 0o644
    assert os.lstat(root / "n/null").st_rdev == os.makedev(1, 3)
    assert os.lstat(root / "n/null").st_mtime_ns == TIME_NS


@pytest.mark.needs("root")
def test_parents_keep_their_attributes_and_times(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay({"a/b/f": "f"})
    (source / "a").chmod(0o750)
    os.chown(source / "a/b", 3, 4)
    for name in ("a/b/f", "a/b", "a"):
        os.utime(source / name, ns=(TIME_NS, TIME_NS))

    root = copy_both(source, {}, Copy(0, "a/b/f", "/n", parents=True))

    assert mode_of(root / "n/a") == 0o750
    assert owner_of(root / "n/a/b") == (3, 4)
    assert [os.lstat(root / n).st_mtime_ns for n in ("n/a", "n/a/b")] == [TIME_NS] * 2
    assert os.lstat(root / "n").st_mtime_ns == NOW_NS


def test_equal_ops_leave_equal_trees_when_a_time_is_given(lay: Lay) -> None:
    source = lay({"d/f": "f"})
    nodes = MemoryNodes()
    given = InputTree(source, Manifest(scan(source, nodes).tree, nodes))
    actions = (
        Copy(0, "d", "/n/m"),
        MakeDirectory("/k/l"),
        MakeFile("/k/f", b"x"),
    )
    trees = set()
    for _ in range(2):
        root = lay({})
        os.utime(root, ns=(TIME_NS, TIME_NS))
        perform(FileOp(actions, scratch=True), root=root, inputs={0: given}, now_ns=NOW_NS)
        assert os.stat(root).st_mtime_ns == TIME_NS
        trees.add(scan(root, nodes).tree)

    assert len(trees) == 1


def test_hints_are_of_what_still_stands(lay: Lay, run: Run) -> None:
    hints = run(
        lay({}),
        Copy(0, "/", "/n"),
        MakeFile("/n/b", b"made"),
        source=lay({"a": "a", "b": "bb", "d/c": "c", "l": "-> a"}),
    )

    assert hints == {
        b"n/a": (1, digest_of(b"a")),
        b"n/b": (4, digest_of(b"made")),
        b"n/d/c": (1, digest_of(b"c")),
    }


@pytest.mark.parametrize(
    "kind", ["longer", "shorter", "gone", "link", "fifo", "socket", "large"]
)
def test_an_input_that_is_not_what_its_manifest_says_is_an_error(
    lay: Lay, kind: str, tmp_path: Path
) -> None:
    source = lay({"f": "x" * (300_000 if kind == "large" else 5)})
    nodes = MemoryNodes()
    given = InputTree(source, Manifest(scan(source, nodes).tree, nodes))
    path = source / "f"
    path.unlink()
    match kind:
        case "longer":
            path.write_text("xxxxxx")
        case "shorter" | "large":
            path.write_text("xxxx")
        case "link":
            (tmp_path / "e").write_text("xxxxx")
            path.symlink_to(tmp_path / "e")
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):
                listener.bind(path.name)
        case _:
            assert kind == "gone"

    with pytest.raises(StoreError):
        perform(
            FileOp((Copy(0, "f", "/"),), scratch=True),
            root=lay({}),
            inputs={0: given},
            now_ns=None,
        )


def test_an_input_that_was_not_given_is_our_own_mistake(lay: Lay) -> None:
    with pytest.raises(LocalError, match="input 3"):
        perform(FileOp((Copy(3, "f", "/"),)), root=lay({}), inputs={}, now_ns=None)
