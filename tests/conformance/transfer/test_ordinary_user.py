"""The same by a user who may do nothing special, on both sides."""

import os
import re
import stat
from pathlib import Path

import pytest

from filesync.sync.remote.fields import MAX_NAMED
from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import differences, look
from tests.conformance.transfer.test_kinds import CAP_NET_RAW, make
from tests.conformance.transfer.tools import (
    NOBODY,
    TIMEOUT_S,
    Claim,
    Tool,
    claimants,
    every_tool,
    filesync_process,
    ours_and_rsync,
)
from tests.deep import dig


def give_away(root: Path) -> None:
    """Make all of a tree the ordinary user's."""
    for path in (root, *root.rglob("*")):
        mode = path.lstat().st_mode
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode))


def read_only(root: Path, *, version: int) -> Path:
    """Make a tree of read-only directories, in one of two versions."""
    for name in ("same", "ro/changed", "ro/in/changed", f"ro/only{version}", f"d{version}/f"):
        data = name if name == "same" else f"{name} {version}"
        make(root / name, data.encode(), mode=0o400 if version == 1 else 0o444)
    make(root / "file or directory" / "in" if version == 1 else root / "file or directory")
    for name, mode in (("ro/in", 0o500), ("ro", 0o555), (f"d{version}", 0o500)):
        (root / name).chmod(mode)
    root.chmod(0o555)
    give_away(root)
    return root


@every_tool
def test_read_only_directories_come_change_and_go(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    empty = stage.root / "empty"
    empty.mkdir(mode=0o700)
    os.chown(empty, NOBODY, NOBODY)
    for src in (
        read_only(stage.src, version=1),
        read_only(stage.root / "other", version=2),
        stage.src,
        empty,
    ):
        ordinary.must_sync(src, stage.dst)
        assert differences(src, stage.dst) == []


@every_tool
def test_a_destination_in_a_read_only_directory_is_filled(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/file", b"1")
    stage.dst.mkdir(mode=0o700)
    for root in (stage.src, stage.dst):
        give_away(root)
    ordinary.must_sync(stage.src, stage.dst)  # starts servers, which write beside it
    make(stage.src / "d/file", b"2, now")
    give_away(stage.src)
    stage.root.chmod(0o555)
    try:
        ordinary.must_sync(stage.src, stage.dst)
        assert differences(stage.src, stage.dst) == []
    finally:
        stage.root.chmod(0o755)


@every_tool
def test_a_destination_that_cannot_be_made_is_a_sentence_that_names_it(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "file", b"1")
    shut = stage.root / "shut"
    shut.mkdir(mode=0o555)
    done = ordinary.sync(stage.src, shut / "dst")
    assert done.code not in (0, 2)
    assert "shut/dst" in done.err
    assert os.listdir(shut) == []


@every_tool
def test_an_owner_is_no_loss_to_who_cannot_give_files_away(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for number in range(5):
        make(stage.src / f"d/{number}", b"%d" % number, owner=number * 1000)
    (stage.src / "link").symlink_to("d")
    ordinary.must_sync(stage.src, stage.dst)
    wanted, found = look(stage.src), look(stage.dst)
    assert {path: seen._replace(owner=(0, 0)) for path, seen in wanted.items()} == {
        path: seen._replace(owner=(0, 0)) for path, seen in found.items()
    }
    assert {seen.owner for seen in found.values()} == {(NOBODY, NOBODY)}


@claimants(Claim.NO_LISTS)
def test_files_of_others_are_not_told_of_again_to_who_cannot_give_files_away(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for number in range(300):
        make(stage.src / f"{number % 3}/a name of some length {number}", b"1", owner=number)
    os.chown(stage.src / "0", 7, 7)
    (stage.src / "link").symlink_to("0")
    ordinary.must_sync(stage.src, stage.dst)
    assert ordinary.must_sync(stage.src, stage.dst).moved < 2_000
    make(stage.src / "1/new", b"2", owner=8)
    ordinary.must_sync(stage.src, stage.dst)
    assert (stage.dst / "1/new").read_bytes() == b"2"
    assert look(stage.dst)[b"1/new"].owner == (NOBODY, NOBODY)


@claimants(Claim.NAMES_LOSSES)
def test_what_cannot_be_kept_is_told_once_by_kind_and_count(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for number in range(3):
        make(stage.src / f"file{number}", b"1")
        os.setxattr(stage.src / f"file{number}", "security.capability", CAP_NET_RAW)
        os.mknod(stage.src / f"device{number}", stat.S_IFCHR | 0o644, os.makedev(1, 3))
    make(stage.src / "plain", b"2")
    give_away(stage.src)
    for number in range(3):
        os.setxattr(stage.src / f"file{number}", "security.capability", CAP_NET_RAW)
    done = ordinary.sync(stage.src, stage.dst)
    assert done.code == 23
    (line,) = [line for line in done.err.splitlines() if "could not be kept" in line]
    assert re.search(r"\b3 devices\b", line)
    assert re.search(r"\b3 xattrs\b", line)
    assert sorted(os.listdir(stage.dst)) == ["file0", "file1", "file2", "plain"]
    assert (stage.dst / "file0").read_bytes() == b"1"


@every_tool
def test_what_may_not_be_read_is_named_and_all_else_comes(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/secret", b"1", mode=0o600)
    make(stage.src / "large secret", bytes(3 << 20), mode=0o600)
    make(stage.src / "shut/in", b"2")
    make(stage.src / "d/open", b"3")
    (stage.src / "shut").chmod(0o700)
    for _ in range(2):
        done = ordinary.sync(stage.src, stage.dst)
        assert done.code == 23
        for name in ("d/secret", "large secret", "shut"):
            (line,) = {line for line in done.err.splitlines() if name in line}
            assert "ermission denied" in line
        assert (stage.dst / "d/open").read_bytes() == b"3"
        assert not (stage.dst / "d/secret").exists()
        assert not (stage.dst / "shut/in").exists()
        make(stage.src / "d/open", b"3")
    (stage.src / "d/secret").chmod(0o644)
    (stage.src / "large secret").chmod(0o644)
    (stage.src / "shut").chmod(0o755)
    ordinary.must_sync(stage.src, stage.dst)
    assert (stage.dst / "d/secret").read_bytes() == b"1"
    assert (stage.dst / "large secret").stat().st_size == 3 << 20
    assert (stage.dst / "shut/in").read_bytes() == b"2"


@every_tool
def test_nothing_is_deleted_while_a_directory_cannot_be_read(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name in ("gone", "shut/in", "same"):
        make(stage.src / name, b"1")
    ordinary.must_sync(stage.src, stage.dst)
    (stage.src / "gone").unlink()
    make(stage.src / "same", b"2, now")
    (stage.src / "shut").chmod(0o700)
    done = ordinary.sync(stage.src, stage.dst)
    assert done.code == 23
    assert (stage.dst / "gone").read_bytes() == b"1"
    assert (stage.dst / "shut/in").read_bytes() == b"1"
    assert (stage.dst / "same").read_bytes() == b"2, now"
    (stage.src / "shut").chmod(0o755)
    ordinary.must_sync(stage.src, stage.dst)
    assert sorted(os.listdir(stage.dst)) == ["same", "shut"]


@claimants(Claim.NAMES_LOSSES)
def test_nothing_of_any_source_is_deleted_while_one_cannot_be_read(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name in ("a/secret", "b/gone", "b/stays"):
        make(stage.src / name, b"1")
    ordinary.must_sync(stage.src, stage.dst)
    for number in range(MAX_NAMED + 50):
        make(stage.src / f"a/secret{number}", b"1", mode=0o600)
    (stage.src / "b/gone").unlink()
    sources, dest = (f"{stage.src}/a", f"{stage.src}/b"), f"{stage.dst}"
    match tool.name:
        case "filesync-to-server":
            dest = f"{ordinary.servers.filesync()}/dst"
        case "filesync-from-server":
            address = ordinary.servers.filesync()
            sources = (f"{address}/src/a", f"{address}/src/b")
        case _:
            pass
    running = filesync_process(
        ["sync", "--delete", *sources, dest], user=NOBODY, cache=ordinary.servers.cache
    )
    _, err = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 23, err
    assert len(re.findall(r"a/secret\d+' cannot be read", err)) >= MAX_NAMED
    assert "nothing was deleted" in err
    is_cut = tool.name == "filesync-from-server"
    assert ("50 more cannot be read" in err) == is_cut
    assert sorted(os.listdir(stage.dst / "b")) == ["gone", "stays"]
    assert os.listdir(stage.dst / "a") == ["secret"]


@every_tool
def test_a_file_that_may_not_be_read_is_replaced_or_deleted_and_no_loss(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name, size in (("small", 3), ("large", 3 << 20), ("empty", 0), ("d/linked", 4)):
        make(stage.src / name, bytes(size))
        make(stage.dst / name, b"another" * size, mode=0o600)  # the superuser's
    os.link(stage.dst / "d/linked", stage.dst / "d/gone too")
    make(stage.dst / "gone", b"1", mode=0o600)
    for directory in (stage.dst, stage.dst / "d"):
        os.chown(directory, NOBODY, NOBODY)
    make(stage.dst / "own", b"2", mode=0o000)
    os.chown(stage.dst / "own", NOBODY, NOBODY)
    make(stage.src / "own", b"3")
    for _ in range(2):
        ordinary.must_sync(stage.src, stage.dst)
        wanted = {path: one._replace(owner=(0, 0)) for path, one in look(stage.src).items()}
        found = {path: one._replace(owner=(0, 0)) for path, one in look(stage.dst).items()}
        assert found == wanted


@every_tool
def test_a_directory_that_may_not_be_read_and_is_left_out_is_left_alone(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/file", b"1")
    for name in ("shut/in", "d/shut/in"):
        make(stage.dst / name, b"2")
        (stage.dst / name).parent.chmod(0o700)
    for directory in (stage.dst, stage.dst / "d"):
        os.chown(directory, NOBODY, NOBODY)
    done = ordinary.sync(stage.src, stage.dst, excludes=["shut"])
    assert done.code == 0, done
    assert (stage.dst / "d/file").read_bytes() == b"1"
    assert (stage.dst / "shut/in").read_bytes() == b"2"
    assert (stage.dst / "d/shut/in").read_bytes() == b"2"


@every_tool
def test_a_directory_that_may_not_be_read_is_named_where_something_is_to_be_done_with_it(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/file", b"1")
    make(stage.dst / "d/in", b"2")
    (stage.dst / "d").chmod(0o700)
    os.chown(stage.dst, NOBODY, NOBODY)
    for _ in range(2):
        done = ordinary.sync(stage.src, stage.dst)
        assert done.code == 23
        assert re.search(r"\bd\b.*ermission denied", done.err)
        assert (stage.dst / "d/in").read_bytes() == b"2"
        (stage.src / "d/file").unlink(missing_ok=True)  # from now on it is only to be deleted
        if (stage.src / "d").exists():
            (stage.src / "d").rmdir()


@claimants(Claim.NAMES_LOSSES)  # rsync deletes nothing in later directories
def test_what_may_not_be_read_at_a_destination_keeps_nothing_else_from_being_done(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name in ("a", "d/b", "now a file", "e/given/in"):
        make(stage.src / name, b"1")
    for name in (
        "d/gone",
        "gone/in",
        "gone/below/shut/in",
        "shut/in",
        "d/shut/in",
        "e/given/in",
    ):
        make(stage.dst / name, b"2")
    make(stage.dst / "now a file/shut/in", b"3")
    for path in sorted(stage.dst.rglob("*")):
        if path.name in ("shut", "given"):
            path.chmod(0o700)  # the superuser's
        elif path.is_dir():
            os.chown(path, NOBODY, NOBODY)
    os.chown(stage.dst, NOBODY, NOBODY)
    stays = {"shut", "d/shut", "gone/below/shut", "now a file/shut", "e/given"}
    for _ in range(2):
        done = ordinary.sync(stage.src, stage.dst)
        assert done.code == 23, done
        for name in stays:
            assert re.search(rf"{name}\b.*ermission denied", done.err)
        there = {str(path.relative_to(stage.dst)) for path in stage.dst.rglob("*")}
        above = {"gone", "gone/below", "now a file", "e"}
        assert there == {"a", "d", "d/b"} | above | stays | {f"{name}/in" for name in stays}
        assert (stage.dst / "e/given/in").read_bytes() == b"2"


def plainly(
    ordinary: Tool, stage: Stage, *options: str, what: str | None = "", into: str = ""
) -> tuple[int, str, str]:
    """Sync ``what`` of the source, or itself, without --delete; return the code and what was said."""
    name = "src" if what is None else f"src/{what}"
    source, dest = f"{stage.root}/{name}", f"{stage.dst}{into}"
    match ordinary.name:
        case "filesync-to-server":
            dest = f"{ordinary.servers.filesync()}/dst{into}"
        case "filesync-from-server":
            source = f"{ordinary.servers.filesync()}/{name}"
        case _:
            pass
    running = filesync_process(
        ["sync", *options, source, dest], user=NOBODY, cache=ordinary.servers.cache
    )
    out, err = running.communicate(timeout=TIMEOUT_S)
    return running.returncode, out, err


@claimants(Claim.NAMES_LOSSES)
def test_a_directory_that_may_not_be_read_and_is_not_given_is_left_alone(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "file", b"1")
    make(stage.dst / "shut/in", b"2")
    (stage.dst / "shut").chmod(0o700)
    os.chown(stage.dst, NOBODY, NOBODY)
    assert plainly(ordinary, stage) == (0, "", "")
    assert (stage.dst / "file").read_bytes() == b"1"
    assert (stage.dst / "shut/in").read_bytes() == b"2"


@claimants(Claim.NAMES_LOSSES)
def test_a_file_goes_into_a_directory_of_another_whose_time_is_nobodys_loss(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "file", b"1")
    stage.dst.mkdir()
    stage.dst.chmod(0o1777)
    os.utime(stage.dst, ns=(0, 0))
    assert plainly(ordinary, stage, what="file") == (0, "", "")
    assert (stage.dst / "file").read_bytes() == b"1"


@claimants(Claim.NAMES_LOSSES)
def test_a_directory_is_made_in_a_read_only_one_of_ones_own_which_stays_read_only(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/file", b"1")
    stage.dst.mkdir()
    os.chown(stage.dst, NOBODY, NOBODY)
    stage.dst.chmod(0o555)
    for _ in range(2):
        assert plainly(ordinary, stage, what="d") == (0, "", "")
        assert (stage.dst / "d/file").read_bytes() == b"1"
        assert stat.S_IMODE(stage.dst.stat().st_mode) == 0o555


@claimants(Claim.NAMES_LOSSES)  # rsync sets none on read-only directories
def test_xattrs_of_what_its_owner_may_not_write_are_kept(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name in ("small", "large", "d/in"):
        make(stage.src / name, bytes(3 << 20) if name == "large" else b"1", mode=0o400)
    (stage.src / "d").chmod(0o555)
    give_away(stage.src)
    for value in (b"1", b"2", None):
        for path in stage.src.rglob("*"):
            if value is None:
                os.removexattr(path, "user.x")
            else:
                os.setxattr(path, "user.x", value)
        ordinary.must_sync(stage.src, stage.dst)
        assert differences(stage.src, stage.dst) == []


@every_tool
def test_a_source_that_may_not_be_read_is_named(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "file", b"1")
    stage.src.chmod(0o700)
    done = ordinary.sync(stage.src, stage.dst)
    assert done.code not in (0, 2)
    assert re.search(r"src\b.*ermission denied", done.err)


@every_tool
def test_a_source_in_a_directory_that_may_not_be_entered_is_not_said_to_be_missing(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "shut/in/file", b"1")
    (stage.src / "shut").chmod(0o700)
    done = ordinary.sync(stage.src / "shut/in", stage.dst)
    assert done.code not in (0, 2)
    assert "ermission denied" in done.err


@claimants(Claim.NAMES_LOSSES)
def test_what_has_the_group_of_a_setgid_directory_has_not_changed(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/file", b"1")
    (stage.src / "link").symlink_to("d")
    assert plainly(ordinary, stage) == (0, "", "")
    for path in (stage.dst, *stage.dst.rglob("*")):
        os.chown(path, NOBODY, 100, follow_symlinks=False)
    for options in (("--itemize",), ("--itemize", "--delete")):
        assert plainly(ordinary, stage, *options) == (0, "", "")


@ours_and_rsync
@pytest.mark.parametrize("where", ["same", "gone", "linked"])
def test_anothers_file_is_made_anew_where_it_has_the_content_and_not_the_rest(
    ordinary: Tool, tool: Tool, stage: Stage, where: str
) -> None:
    """Nobody but its owner changes its mode and times, and whoever may write in its directory replaces it."""
    make(stage.src / "d/file", b"1" * 30_000, mode=0o640)
    make(stage.src / "d/mine", b"2")
    make(stage.dst / "d" / {"gone": "gone"}.get(where, "file"), b"1" * 30_000)
    if where == "linked":
        for root in (stage.src, stage.dst):
            os.link(root / "d/file", root / "d/link")
    for root in (stage.src, stage.dst):
        give_away(root)
    for path in (stage.dst / "d").iterdir():
        os.utime(path, ns=(0, 5))
        os.chown(path, 7, 7)
    ordinary.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    assert (stage.dst / "d/file").stat().st_uid == NOBODY


def part_of_it_anothers(stage: Stage) -> None:
    """Make a destination in which some directories are another's, and what changes there."""
    for name in ("open/new", "shut/mine/new", "shut/sub/new", "shut/changed", "top"):
        make(stage.src / name, b"new")
    (stage.src / "shut/link").symlink_to("top")
    for name in ("open/gone", "shut/gone", "shut/changed", "shut/mine/gone", "gone/shut/in"):
        make(stage.dst / name, b"it was so")
    for root in (stage.src, stage.dst):
        give_away(root)
    for name in ("shut", "gone/shut"):
        os.chown(stage.dst / name, 0, 0)
    (stage.dst / "shut").chmod(0o555)


@every_tool
def test_what_is_in_a_directory_that_may_not_be_written_stays_and_all_else_is_done(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    part_of_it_anothers(stage)
    before = {path: one for path, one in look(stage.dst).items() if b"shut" in path}
    for _ in range(2):
        done = ordinary.sync(stage.src, stage.dst)
        assert done.code == 23
        after = look(stage.dst)
        for path in (b"open/new", b"shut/mine/new", b"top"):
            assert after.pop(path) == look(stage.src)[path]
        assert b"shut/mine/gone" not in after
        for path in (b"shut", b"shut/gone", b"shut/changed", b"gone/shut", b"gone/shut/in"):
            assert after.pop(path) == before[path]
        # rsync removes what it may of what has to stay.
        assert set(after) <= {b"", b"open", b"gone", b"shut/mine"}
        assert "shut" in done.err
        assert "ermission denied" in done.err


@claimants(Claim.NAMES_LOSSES)
def test_a_dry_run_says_that_a_destination_may_not_be_made(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    """In another's directory; and in one's own, which is opened up only for what is in it."""
    make(stage.src / "file", b"1")
    (stage.dst / "own").mkdir(parents=True, mode=0o555)
    (stage.dst / "another's").mkdir()
    for root in (stage.src, stage.dst):
        give_away(root)
    os.chown(stage.dst / "another's", 0, 0)
    codes = []
    for into in ("/another's", "/another's/new", "/own/new", "/own"):
        for what in (None, ""):
            said = plainly(ordinary, stage, "--dry-run", "--verbose", what=what, into=into)
            assert said == plainly(ordinary, stage, "--verbose", what=what, into=into)
            codes.append(said[0])
    assert codes == [23, 23, 1, 1, 1, 1, 0, 0]


@claimants(Claim.NAMES_LOSSES)
def test_anothers_directory_that_cannot_go_comes_back_beside_a_read_only_one_that_goes(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "new", b"new")
    for name in ("read only/in", "sticky/in"):
        make(stage.dst / name, b"old")
    (stage.dst / "read only").chmod(0o500)
    for root in (stage.src, stage.dst):
        give_away(root)
    for name in ("sticky/in", "sticky"):
        os.chown(stage.dst / name, 0, 0)
    (stage.dst / "sticky").chmod(0o1777)
    before = look(stage.dst)
    done = ordinary.sync(stage.src, stage.dst)
    assert done.code == 23
    assert "'sticky/in', at the destination, cannot be changed" in done.err
    after = look(stage.dst)
    assert set(after) == {b"", b"new", b"sticky", b"sticky/in"}
    assert after[b"sticky/in"] == before[b"sticky/in"]
    assert after[b"sticky"].mode == before[b"sticky"].mode


@ours_and_rsync
@pytest.mark.parametrize("name", ["empty", "mine/in/empty"])
def test_anothers_read_only_directory_goes_if_it_is_empty(
    ordinary: Tool, tool: Tool, stage: Stage, name: str
) -> None:
    make(stage.src / "file", b"1")
    (stage.dst / name).mkdir(parents=True)
    for root in (stage.src, stage.dst):
        give_away(root)
    os.chown(stage.dst / name, 0, 0)
    (stage.dst / name).chmod(0o555)
    ordinary.must_sync(stage.src, stage.dst)
    assert set(look(stage.dst)) == {b"", b"file"}


@claimants(Claim.NAMES_LOSSES)
def test_a_dry_run_lists_what_a_run_then_does_where_not_all_may_be_written(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    part_of_it_anothers(stage)
    said = plainly(ordinary, stage, "--dry-run", "--itemize-changes")
    done = plainly(ordinary, stage, "--itemize-changes")
    assert said == done
    assert done[0] == 23
    assert "shut/changed" not in done[1]
    assert "shut/mine/new" in done[1]


@claimants(Claim.LONG_PATHS)
def test_a_directory_that_may_not_be_written_may_be_deep_down(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for root in (stage.src, stage.dst):
        root.mkdir()
        fd = dig(root, 1200)
        for depth in range(1201):
            os.chown(root / ("d/" * depth), NOBODY, NOBODY)
        if root == stage.src:
            os.mkdir("new", dir_fd=fd)
        else:
            os.chown(fd, 0, 0)
        os.close(fd)
    make(stage.src / "file", b"1")
    done = ordinary.sync(stage.src, stage.dst)
    assert done.code == 23
    assert "cannot be written" in done.err
    assert (stage.dst / "file").read_bytes() == b"1"


@claimants(Claim.NAMES_LOSSES)
def test_a_destination_that_may_not_be_written_is_named_and_stays_as_it_is(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name in ("file", "d/new"):
        make(stage.src / name, b"1")
    make(stage.dst / "d/in", b"2")
    before = look(stage.dst)
    for what in ("", "d", "file"):
        code, _, err = plainly(ordinary, stage, what=what)
        assert code == 23
        assert "Permission denied; its names were left as they are" in err
        assert look(stage.dst) == before


@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("words", ["--update", "--ignore-existing", "--existing"])
def test_what_does_not_come_stays_whoever_owns_the_sources(
    ordinary: Tool, tool: Tool, stage: Stage, words: str
) -> None:
    for root, text in ((stage.src, b"new"), (stage.dst, b"old")):
        make(root / "d/both", text)
        make(root / "d/newer", text)
        make(root / f"d/{text.decode()} only", text)
        os.utime(root / "d/both", ns=(0, 10**18 + (text == b"new")))
        os.utime(root / "d/newer", ns=(0, 10**18 + (text == b"old")))
    give_away(stage.dst)
    source, dest = f"{stage.src}/", str(stage.dst)
    if tool.name == "filesync-to-server":
        dest = f"{ordinary.servers.filesync()}/dst"
    elif tool.name == "filesync-from-server":
        source = f"{ordinary.servers.filesync()}/src/"
    said = []
    for more in ([], ["--dry-run"], ["--itemize"]):
        running = filesync_process(
            ["sync", words, "--delete", *more, source, dest],
            user=NOBODY,
            cache=ordinary.servers.cache,
        )
        out, err = running.communicate(timeout=TIMEOUT_S)
        assert running.returncode == 0, err
        said.append(out)
    assert said[1:] == ["", ""]  # all was done at once
    seen = {path.name: path.read_text() for path in (stage.dst / "d").iterdir()}
    both = "new" if words != "--ignore-existing" else "old"
    newer = "new" if words == "--existing" else "old"
    only = {} if words == "--existing" else {"new only": "new"}
    assert seen == {"both": both, "newer": newer} | only
