"""Destinations on which other file systems are mounted."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import look
from tests.conformance.transfer.tools import (
    Claim,
    Tool,
    claimants,
    every_tool,
    ours_and_rsync,
)
from tests.mounting import mount, tmpfs

pytestmark = pytest.mark.needs("mount")


@pytest.fixture
def mounted(stage: Stage) -> Iterator[Path]:
    """A destination with a file system of its own at ``disk``, and another directory at ``bound``."""
    where = (stage.root / "elsewhere", stage.dst / "bound")
    for path in where:
        path.mkdir(parents=True)
    with tmpfs(stage.dst / "disk"), mount("--bind", *where):
        yield stage.dst


def fill(root: Path, text: str) -> None:
    for top in (root / "disk", root / "bound", root):
        for name in ("file", "in/file", "in/deep/other"):
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text} of {path.relative_to(root)}")
            path.chmod(0o640)
        (top / "link").symlink_to(f"{text}/somewhere")
        (top / "large").write_bytes(text.encode() * 3_000_000)
        os.setxattr(top / "in/file", "user.kept", text.encode())
        os.chown(top / "large", 1234, 4321)
        os.mkfifo(top / "in/fifo")
        os.utime(top / "in/file", ns=(0, 987_654_321))


@ours_and_rsync
def test_what_is_mounted_below_a_destination_is_synced_like_all_else(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    fill(stage.src, "new")
    for name in ("disk/old", "bound/old", "disk/in/gone/deep", "disk/link", "bound/large"):
        path = mounted / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    tool.must_sync(stage.src, stage.dst)
    assert look(mounted) == look(stage.src)
    # What has moved over a border; what is another kind; what changed; what has other metadata.
    (stage.src / "disk/in").rename(stage.src / "moved")
    (stage.src / "in").rename(stage.src / "disk/into")
    (stage.src / "large").rename(stage.src / "bound/in/large")
    (stage.src / "bound/link").unlink()
    (stage.src / "bound/link").mkdir()
    (stage.src / "bound/file").unlink()
    (stage.src / "bound/file").symlink_to("in/file")
    (stage.src / "disk/large").write_bytes(b"changed" * 500_000)
    (stage.src / "disk/file").chmod(0o4755)
    tool.must_sync(stage.src, stage.dst)
    assert look(mounted) == look(stage.src)
    tool.must_sync(stage.src, stage.dst)


@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("is_there", [False, True])
def test_a_hard_link_over_a_border_is_a_copy_and_is_said_to_be_one(
    tool: Tool, stage: Stage, mounted: Path, *, is_there: bool
) -> None:
    for name in ("first", "disk/name", "bound/name") if is_there else ():
        (mounted / name).write_text("another")
    (stage.src / "bound").mkdir(parents=True)
    (stage.src / "disk").mkdir()
    (stage.src / "disk/name").write_text("one")
    for name in ("first", "bound/name"):
        os.link(stage.src / "disk/name", stage.src / name)
    done = tool.sync(stage.src, stage.dst)
    assert done.code == 23
    assert "hard link" in done.err
    assert {(mounted / name).read_text() for name in ("first", "disk/name", "bound/name")} == {
        "one"
    }


@claimants(Claim.NAMES_LOSSES)
def test_a_mount_point_that_would_have_to_go_stays_whole_is_named_and_all_else_is_done(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    for name in ("new", "bound"):  # a file in the place of what is mounted
        path = stage.src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
    for name in ("disk/kept", "bound/kept", "gone/file"):
        path = mounted / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept")
    for _ in range(2):
        done = tool.sync(stage.src, stage.dst)
        assert done.code == 23
        for name in ("disk", "bound"):
            assert f"'{name}', at the destination, cannot be changed: Device" in done.err
        assert set(look(mounted)) == {
            *(b"", b"new", b"disk", b"disk/kept", b"bound", b"bound/kept")
        }


@claimants(Claim.NAMES_LOSSES)
def test_what_is_mounted_in_a_directory_that_would_have_to_go_comes_back_with_it(
    tool: Tool, stage: Stage
) -> None:
    stage.src.mkdir()
    (stage.src / "top").write_text("a file in its place")
    for name in ("top/in/disk", "top/gone", "other/disk", "other/gone"):
        (stage.dst / name).mkdir(parents=True)
    disks = [stage.dst / "top/in/disk", stage.dst / "other/disk"]
    (stage.dst / "top/in").chmod(0o550)
    with ExitStack() as mounted:
        for disk in disks:
            mounted.enter_context(tmpfs(disk))
            (disk / "kept").write_text("kept")
        done = tool.sync(stage.src, stage.dst)
        assert done.code == 23
        assert "'top/in/disk', at the destination, cannot be changed: Device" in done.err
        assert "'top', at the destination, cannot be changed: Directory not empty" in done.err
        assert set(look(stage.dst)) == {
            *(b"", b"top", b"top/in", b"top/in/disk", b"top/in/disk/kept"),
            *(b"other", b"other/disk", b"other/disk/kept"),
        }
        assert (stage.dst / "top/in").stat().st_mode & 0o777 == 0o550
    tool.must_sync(stage.src, stage.dst)
    assert look(stage.dst) == look(stage.src)


@pytest.mark.needs("chattr")
@claimants(Claim.NAMES_LOSSES)  # rsync leaves a name of its own there
def test_an_append_only_directory_that_is_mounted_keeps_no_name_of_ours(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    for name in ("disk/log/new", "other"):
        path = stage.src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
    (mounted / "disk/log").mkdir()
    if subprocess.run(["chattr", "+a", mounted / "disk/log"], check=False).returncode:
        pytest.skip("this file system has no append-only directories")
    try:
        done = tool.sync(stage.src, stage.dst)
        assert done.code == 23
        assert "'disk/log/new', at the destination, cannot be changed" in done.err
        assert list((mounted / "disk/log").iterdir()) == []
        assert (mounted / "other").read_text() == "new"
    finally:
        subprocess.run(["chattr", "-a", mounted / "disk/log"], check=True)


@every_tool
def test_what_is_mounted_read_only_stays_and_all_else_is_done(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    for name in ("file", "bound/file", "bound/new/file", "disk/file"):
        path = stage.src / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
    for name in ("bound/file", "bound/gone", "disk/gone"):
        (mounted / name).write_text("it was so")
    before = {path: one for path, one in look(mounted).items() if path.startswith(b"bound")}
    subprocess.run(["mount", "-o", "remount,ro,bind", mounted / "bound"], check=True)
    for _ in range(2):
        done = tool.sync(stage.src, stage.dst)
        assert done.code == 23
        assert "bound" in done.err
        assert "Read-only file system" in done.err
        after = look(mounted)
        assert {path: one for path, one in after.items() if path.startswith(b"bound")} == before
        assert {path for path in after if not path.startswith(b"bound")} == {
            *(b"", b"file", b"disk", b"disk/file")
        }
