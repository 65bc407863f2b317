"""A tree becomes another."""

import os
import stat
from itertools import product
from pathlib import Path

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import differences, look
from tests.conformance.transfer.test_kinds import every_kind, make
from tests.conformance.transfer.tools import Claim, Tool, claimants, every_tool

KINDS = ("nothing", "file", "linked", "empty-dir", "full-dir", "link", "fifo", "device")


def put(path: Path, kind: str) -> None:
    """Make what ``kind`` says at ``path``."""
    match kind:
        case "file":
            make(path, b"file " + os.fsencode(path.name))
        case "linked":
            make(path, b"linked " + os.fsencode(path.name))
            os.link(path, path.parent / f"{path.name}-again")
        case "empty-dir":
            path.mkdir()
        case "full-dir":
            make(path / "in/file", b"inside")
            (path / "in/link").symlink_to("file")
        case "link":
            path.symlink_to(path.name + " elsewhere")
        case "fifo":
            os.mkfifo(path)
        case "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 7))
        case _:
            assert kind == "nothing"


@every_tool
def test_every_kind_becomes_every_other_and_back(tool: Tool, stage: Stage) -> None:
    other = stage.root / "other"
    for root in (stage.src, other):
        root.mkdir()
    for one, two in product(KINDS, KINDS):
        put(stage.src / f"{one} to {two}", one)
        put(other / f"{one} to {two}", two)
    for src in (stage.src, other, stage.src):
        tool.must_sync(src, stage.dst)
        assert differences(src, stage.dst) == []


@every_tool
def test_what_is_gone_goes_and_what_stands_in_other_trees_stays(
    tool: Tool, stage: Stage
) -> None:
    stage.src.mkdir()
    every_kind(stage.dst)
    every_kind(stage.root / "other")
    before = look(stage.root / "other")
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    assert look(stage.root / "other") == before


@every_tool
def test_an_unchanged_tree_is_not_touched(tool: Tool, stage: Stage) -> None:
    every_kind(stage.src)
    make(stage.src / "a/large", bytes(3_000_000))
    tool.must_sync(stage.src, stage.dst)

    def inodes() -> dict[Path, tuple[int, int]]:
        found = {path: path.lstat() for path in stage.dst.rglob("*")}
        return {path: (st.st_ino, st.st_mtime_ns) for path, st in found.items()}

    before = inodes()
    done = tool.must_sync(stage.src, stage.dst)
    assert inodes() == before
    assert done.moved < 20_000


@every_tool
def test_metadata_alone_changes_without_content(tool: Tool, stage: Stage) -> None:
    make(stage.src / "d/file", b"x" * 200_000)
    make(stage.src / "d/other", b"y")
    tool.must_sync(stage.src, stage.dst)
    (stage.src / "d/file").chmod(0o4711)
    os.chown(stage.src / "d/other", 5, 6)
    os.setxattr(stage.src / "d", "user.x", b"1")
    (stage.src / "d").chmod(0o711)
    done = tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    assert done.moved < 20_000


@claimants(Claim.CONTENT_DECIDES)
def test_content_that_neither_size_nor_time_shows_arrives(tool: Tool, stage: Stage) -> None:
    for root, data in ((stage.src, b"right"), (stage.dst, b"wrong")):
        os.utime(make(root / "file", data), ns=(0, 0))
        os.utime(root, ns=(0, 0))
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    for root in (stage.dst, stage.src):
        (root / "file").write_bytes(b"again" if root is stage.src else b"wrong")
        os.utime(root / "file", ns=(0, 0))
        tool.must_sync(stage.src, stage.dst)
        assert differences(stage.src, stage.dst) == []


@every_tool
def test_what_is_left_alone_keeps_the_directory_that_a_file_would_replace(
    tool: Tool, stage: Stage
) -> None:
    make(stage.src / "name", b"file")
    make(stage.src / "other", b"arrives")
    make(stage.dst / "name/in/kept", b"precious")
    for _ in range(2):
        done = tool.sync(stage.src, stage.dst, excludes=["kept"])
        assert done.code == 23
        assert "name" in done.err
        assert (stage.dst / "name/in/kept").read_bytes() == b"precious"
        assert (stage.dst / "other").read_bytes() == b"arrives"
