"""Syncs that stay on one file system (``-x``, ``-xx``): what is mounted in a source, or at the destination."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import look
from tests.conformance.transfer.test_as_rsync import RSYNC, ours
from tests.conformance.transfer.tools import NOBODY, Claim, Tool, claimants, every_tool
from tests.mounting import mount, tmpfs

pytestmark = pytest.mark.needs("mount")
EITHER = pytest.mark.parametrize(
    "words", [["-x"], ["-xx"], ["-x", "--delete"], ["-xx", "--delete"]]
)


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} below {root.name}")


@pytest.fixture
def mounted(stage: Stage) -> Iterator[Path]:
    """A source with a file system of its own at ``a/disk``, and one beside it, bound into it in two ways."""
    write(stage.src, "f", "a/f", "a/disk/hidden", "b/f", "bound", "z/f")
    (stage.src / "same").mkdir()
    with ExitStack() as stack:
        stack.enter_context(tmpfs(stage.src / "a/disk"))
        stack.enter_context(tmpfs(stage.root / "other"))
        write(stage.src, "a/disk/in", "a/disk/deep/in")
        write(stage.root, "other/file")
        stack.enter_context(mount("--bind", stage.root / "other/file", stage.src / "bound"))
        stack.enter_context(mount("--bind", stage.src / "b", stage.src / "same"))
        (stage.src / "a/disk").chmod(0o1751)
        os.chown(stage.src / "a/disk", 1234, 4321)
        os.utime(stage.src / "a/disk", ns=(0, 987_654_321))
        yield stage.src


def names(root: Path) -> set[str]:
    return {os.fsdecode(path) for path in look(root)} - {""}


ALL = {"f", "a", "a/f", "b", "b/f", "bound", "same", "same/f", "z", "z/f"}


@every_tool
def test_a_mount_point_arrives_empty_as_what_is_mounted_there_and_a_file_that_is_bound_whole(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    for _ in range(2):
        tool.must_sync(mounted, stage.dst, options=["-x"])
        assert names(stage.dst) == ALL | {"a/disk"}
        assert look(stage.dst)[b"a/disk"] == look(mounted)[b"a/disk"]
        assert (stage.dst / "bound").read_text() == "other/file below " + stage.root.name
        write(stage.src, "new")  # the next one goes by what is there
        (stage.src / "new").unlink()


@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("listed", ["a/disk/in", "a/disk/", "a/disk/deep/in"])
def test_what_is_listed_in_what_is_mounted_is_named(
    tool: Tool, stage: Stage, mounted: Path, listed: str, is_there: bool
) -> None:
    (stage.root / "list").write_text(f"{listed}\na/f\n")
    if is_there:
        write(stage.dst, "there")
    options = ["-x", f"--files-from={stage.root}/list"]
    done = tool.sync(mounted, stage.dst, options=options, deletes=False)
    assert done.code == 23
    assert f"{listed.rstrip('/')}' cannot be read: Invalid cross-device link" in done.err
    assert names(stage.dst) - {"there"} == {"a", "a/f", "a/disk"}
    done = tool.sync(mounted, stage.dst, options=options[1:], deletes=False)
    assert done.code == 0


@every_tool
def test_doubled_it_leaves_mount_points_out_and_removes_what_came_of_them(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    tool.must_sync(mounted, stage.dst, options=["-xx"])
    assert names(stage.dst) == ALL
    tool.must_sync(mounted, stage.dst)
    assert {"a/disk/in", "a/disk/deep/in"} < names(stage.dst)
    tool.must_sync(mounted, stage.dst, options=["-xx"])
    assert names(stage.dst) == ALL


@every_tool
def test_what_the_destination_has_where_another_file_system_is_mounted_in_the_source_stays(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    tool.must_sync(mounted, stage.dst)
    write(stage.dst, "a/disk/extra.o", "a/disk/more/extra", "a/extra", "extra/disk/f")
    for words in (["-x"], ["-x", "--exclude=*.o", "--delete-excluded"]):
        tool.must_sync(mounted, stage.dst, options=words)
        below = {"in", "deep", "deep/in", "extra.o", "more", "more/extra"}
        assert names(stage.dst) == ALL | {"a/disk"} | {f"a/disk/{name}" for name in below}
        assert look(stage.dst)[b"a/disk"] == look(mounted)[b"a/disk"]
    tool.must_sync(mounted, stage.dst)
    assert look(stage.dst) == look(mounted)


@every_tool
def test_nothing_is_deleted_that_is_mounted_at_the_destination_and_what_is_given_goes_there(
    tool: Tool, stage: Stage
) -> None:
    write(stage.src, "f", "given/f", "given/deep/f")
    write(stage.dst, "extra", "gone/extra", "gone/in/extra")
    with (
        tmpfs(stage.dst / "given"),
        tmpfs(stage.dst / "gone/in/disk"),
        tmpfs(stage.dst / "disk"),
    ):
        write(stage.dst, "given/kept", "given/deep/kept", "gone/in/disk/kept", "disk/kept/f")
        for words in (["-x"], ["-xx"]):
            tool.must_sync(stage.src, stage.dst, options=words)
            assert names(stage.dst) == {
                *("f", "given", "given/f", "given/kept"),
                *("given/deep", "given/deep/f", "given/deep/kept"),
                *("gone", "gone/in", "gone/in/disk", "gone/in/disk/kept"),
                *("disk", "disk/kept", "disk/kept/f"),
            }
    tool.must_sync(stage.src, stage.dst, options=["-x"])
    assert look(stage.dst) == look(stage.src)


@every_tool
def test_a_destination_that_is_mounted_itself_is_synced_as_any(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    with tmpfs(stage.dst):
        write(stage.dst, "extra", "a/extra/f", "a/disk/kept")
        tool.must_sync(mounted, stage.dst, options=["-x"])
        assert names(stage.dst) == ALL | {"a/disk", "a/disk/kept"}


@every_tool
def test_a_destination_on_what_is_mounted_in_the_source_gets_nothing_of_itself(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    backup = mounted / "a/disk/backup"
    for name in ("first", "second"):
        write(mounted, name)
        tool.must_sync(mounted, backup, options=["-x"])
        assert names(backup) == ALL | {"a/disk"} | (
            {"first"} if name == "first" else {"first", "second"}
        )
        assert (backup / name).read_text() == (mounted / name).read_text()


@every_tool
def test_a_source_that_is_mounted_itself_or_is_a_link_to_that_comes_with_what_is_on_it(
    tool: Tool, stage: Stage, mounted: Path
) -> None:
    (stage.root / "link").symlink_to(mounted / "a/disk")
    links = ["link"] if "daemon" not in tool.name and "server" not in tool.name else []
    for source in (mounted / "a/disk", *(stage.root / name for name in links)):
        tool.must_sync(source, stage.dst, options=["-xx"])
        assert look(stage.dst) == look(mounted / "a/disk")
        subprocess.run(["rm", "-r", stage.dst], check=True)


@every_tool
def test_a_mount_point_that_is_shut_to_this_user_arrives_empty(
    ordinary: Tool, stage: Stage
) -> None:
    write(stage.src, "f")
    for path in (stage.src, stage.src / "f"):
        os.chown(path, NOBODY, NOBODY)
    with tmpfs(stage.src / "shut"):
        write(stage.src, "shut/in")
        (stage.src / "shut").chmod(0o700)
        word = "--one-file-system"
        ordinary.must_sync(stage.src, stage.dst, options=[word])
        assert names(stage.dst) == {"f", "shut"}
        assert (stage.dst / "shut").stat().st_mode & 0o777 == 0o700
        ordinary.must_sync(stage.src, stage.dst, options=[word, word])
        assert names(stage.dst) == {"f"}


SOURCES = (
    ["src/"],
    ["src"],
    ["src/a", "src/b"],
    ["src/a/disk", "src/a", "src/bound"],
    ["src/a/disk", "other"],
    ["two/", "src/"],
    ["src/", "two/"],
    ["src/a/disk/", "two/a/"],
    ["two/a/", "src/a/"],
    ["src/a/disk/", "two/a/disk/"],
    ["src/a/disk", "two/a/disk"],
    ["src/a/", "src/a/disk"],
)


@EITHER
@pytest.mark.needs("rsync")
@pytest.mark.parametrize("sources", SOURCES, ids=" ".join)
@claimants(Claim.NAMES_LOSSES)
def test_several_sources_each_on_its_own_come_out_as_by_rsync_as_a_dry_run_said_and_once(
    tool: Tool, stage: Stage, mounted: Path, sources: list[str], words: list[str]
) -> None:
    write(stage.root, "two/a/disk/of-two", "two/z/f")
    theirs = stage.root / "theirs"
    for root in (stage.dst, theirs):
        write(
            root, "a/disk/kept", "a/extra", "z/gone", "src/a/disk/kept", "src/extra", "b/x/gone"
        )
        write(root, "disk/gone")
    done = subprocess.run([*RSYNC, *words, *sources, f"{theirs}/"], cwd=stage.root, check=True)
    with tmpfs(stage.dst / "z"), tmpfs(theirs / "z"):
        for root in (stage.dst, theirs):
            write(root, "z/deep/kept")
            os.utime(root / "z", ns=(0, 0))
        done = subprocess.run(
            [*RSYNC, *words, *sources, f"{theirs}/"], cwd=stage.root, check=False
        )
        said = ours(tool, stage, [*words, "-n", "-i"], sources)
        assert ours(tool, stage, [*words, "-i"], sources) == said
        assert said[0] == done.returncode
        assert names(stage.dst) == names(theirs)
        assert ours(tool, stage, [*words, "-i"], sources) == (said[0], "")
