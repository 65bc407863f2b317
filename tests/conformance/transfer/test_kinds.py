"""Every kind of inode, with all that belongs to it."""

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import data_extents, differences, look
from tests.conformance.transfer.tools import Claim, Tool, claimants, every_tool, ours_and_rsync

CAP_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""``security.capability``: version 2, effective."""
MEBIBYTE = 1 << 20


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX ACL of (tag, permissions, id) as the kernel stores it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NO_ID = 0xFFFFFFFF
ACL = acl((1, 6, NO_ID), (2, 4, 1234), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID))
DEFAULT_ACL = acl((1, 7, NO_ID), (2, 7, 77), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))


def make(path: Path, data: bytes = b"", *, mode: int = 0o644, owner: int = 0) -> Path:
    """Make a file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.chown(path, owner, owner)
    path.chmod(mode)
    return path


def every_kind(root: Path) -> None:
    """Make a tree with every kind of inode and what can be special about it."""
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1644, 0o6711):
        make(root / f"file-{mode:o}", b"%o" % mode, mode=mode, owner=mode)
    for mode in (0o000, 0o500, 0o755, 0o1777, 0o2775, 0o3770):
        make(root / f"dir-{mode:o}/in", b"inside").parent.chmod(mode)
    make(root / "a/first", b"linked")
    for name in ("a/second", "b/c/third", "zz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(root / "a/first", root / name)
    targets = ("a/first", "/etc/passwd", "../outside", "nowhere", "loop", "dir-755", "x" * 4000)
    for name, target in zip("abcdefg", targets, strict=True):
        (root / f"link-{name}").symlink_to(target)
    (root / "loop").symlink_to("link-e")
    os.lchown(root / "link-a", 12, 34)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(259, 300_000))
    (root / "empty").mkdir()


@every_tool
def test_one_tree_with_every_kind_of_inode_arrives(tool: Tool, stage: Stage) -> None:
    every_kind(stage.src)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    before = look(stage.dst)
    tool.must_sync(stage.src, stage.dst)
    assert look(stage.dst) == before


@claimants(Claim.SKIPS_SOCKETS)
def test_a_socket_is_skipped_with_a_note_and_all_else_arrives(tool: Tool, stage: Stage) -> None:
    make(stage.src / "d/file", b"1")
    for number in range(2):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(stage.src / f"d/socket{number}"))
    done = tool.must_sync(stage.src, stage.dst)
    assert "2 sockets" in done.err
    assert [path for path in look(stage.dst) if path] == [b"d", b"d/file"]


@every_tool
def test_an_empty_tree_and_empty_files_arrive(tool: Tool, stage: Stage) -> None:
    stage.src.mkdir(mode=0o750)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    for number in range(50):
        make(stage.src / f"d{number % 3}/{number}")
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


ODD_NAMES = [
    b"new\nline",
    b"\xff\xfe not utf-8",
    b"\x1b[31mred",
    b"\x9b31m",
    b"back\\slash",
    b"#hash",
    b"\\#012",
    b"-rf",
    b"--delete",
    b" ",
    b"trailing ",
    b"...",
    b"..foo",
    b"foo..",
    b"*[a-z]?",
    b"host:path",
    b"n" * 255,
    "\u00e9".encode(),
    "e\u0301".encode(),
    b"Case",
    b"case",
    b"CASE",
    b"\x01\x02\x7f",
    b"\r",
    b"~",
    b"$(touch x)",
    b"'\"`",
]


@every_tool
def test_names_are_bytes(tool: Tool, stage: Stage) -> None:
    stage.src.mkdir()
    root = os.fsencode(stage.src)
    for name in ODD_NAMES:
        os.mkdir(root + b"/d" + name[:254])
        for path in (name, b"d" + name[:254] + b"/" + name):
            with open(root + b"/" + path, "wb") as file:
                file.write(path)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_times_before_1970_and_after_2106_are_kept_to_the_nanosecond(
    tool: Tool, stage: Stage
) -> None:
    times = (-(2**31) * 10**9 + 1, -1, 0, 1, 1_234_567_890_123_456_789, 2**32 * 10**9 + 999)
    for number, mtime_ns in enumerate(times):
        paths = [stage.src / f"{kind}{number}" for kind in ("file", "dir", "link", "fifo")]
        make(paths[0], b"%d" % number)
        paths[1].mkdir()
        paths[2].symlink_to("x")
        os.mkfifo(paths[3])
        for path in paths:
            os.utime(path, ns=(0, mtime_ns), follow_symlinks=False)
    os.utime(stage.src, ns=(0, -5))
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_setuid_and_capabilities_outlive_the_change_of_owner(tool: Tool, stage: Stage) -> None:
    for name, mode in (("setuid", 0o4755), ("capable", 0o755), ("both", 0o6755)):
        path = make(stage.src / name, b"#!", mode=mode, owner=1000)
        if name != "setuid":
            os.setxattr(path, "security.capability", CAP_NET_RAW)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    for path in stage.src.iterdir():
        found = os.listxattr(path)
        mode = path.stat().st_mode
        os.chown(path, 2000, 2000)  # drops both
        path.chmod(mode)
        if found:
            os.setxattr(path, "security.capability", CAP_NET_RAW)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_xattrs_and_acls_come_change_and_go(tool: Tool, stage: Stage) -> None:
    file, directory = make(stage.src / "d/file", b"1"), stage.src / "d"
    link, fifo = stage.src / "link", stage.src / "fifo"
    link.symlink_to("d")
    os.mkfifo(fifo)
    for path in (file, directory, stage.src):
        os.setxattr(path, "user.one", b"1")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "trusted.binary", bytes(range(256)))
        os.setxattr(path, "system.posix_acl_access", ACL)
    os.setxattr(directory, "system.posix_acl_default", DEFAULT_ACL)
    for path in (link, fifo):
        os.setxattr(path, "trusted.here", b"too", follow_symlinks=False)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    os.setxattr(file, "user.one", b"another")
    os.removexattr(file, "user.empty")
    os.removexattr(file, "system.posix_acl_access")
    os.removexattr(directory, "system.posix_acl_default")
    os.removexattr(link, "trusted.here", follow_symlinks=False)
    os.setxattr(directory, "user.large", b"x" * 3000)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_a_device_becomes_another(tool: Tool, stage: Stage) -> None:
    stage.src.mkdir()
    for minor in (3, 5):
        os.mknod(stage.src / "one", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        tool.must_sync(stage.src, stage.dst)
        assert differences(stage.src, stage.dst) == []
        (stage.src / "one").unlink()


HOLES: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "all-hole": (64 * MEBIBYTE, []),
    "no-hole": (MEBIBYTE, [(0, MEBIBYTE)]),
    "first": (8 * MEBIBYTE, [(7 * MEBIBYTE, MEBIBYTE)]),
    "last": (8 * MEBIBYTE, [(0, MEBIBYTE)]),
    "between": (9 * MEBIBYTE, [(0, 65_536), (4 * MEBIBYTE, 65_536), (9 * MEBIBYTE - 1, 1)]),
    "small": (40_960, [(0, 4096), (36_864, 4096)]),
    "odd-end": (5 * MEBIBYTE + 17, [(MEBIBYTE, 10)]),
}


@every_tool
def test_holes_are_holes_again(tool: Tool, stage: Stage) -> None:
    """Data may be where data was, and nowhere else."""
    stage.src.mkdir()
    for name, (size, data) in HOLES.items():
        with (stage.src / name).open("wb") as file:
            file.truncate(size)
            for offset, length in data:
                file.seek(offset)
                file.write(b"\xa5" * length)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    for name in HOLES:
        allowed = data_extents(stage.src / name)
        for start, end in data_extents(stage.dst / name):
            assert any(low <= start and end <= high for low, high in allowed), name


@ours_and_rsync
def test_ten_thousand_names_in_one_directory_arrive(tool: Tool, stage: Stage) -> None:
    stage.src.mkdir()
    for number in range(10_000):
        with open(f"{stage.src}/name {number}", "wb") as file:
            file.write(b"%d" % number)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_neither_umask_nor_a_default_acl_above_changes_what_arrives(
    tool: Tool, stage: Stage, umask: int
) -> None:
    os.setxattr(stage.root, "system.posix_acl_default", DEFAULT_ACL)
    stage.dst.mkdir()
    os.removexattr(stage.root, "system.posix_acl_default")
    every_kind(stage.src)
    done = tool.sync(stage.src, stage.dst, umask=umask)
    assert done.code == 0, done
    assert differences(stage.src, stage.dst) == []
