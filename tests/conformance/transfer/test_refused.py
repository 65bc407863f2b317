"""Names at a destination that cannot be changed: they stay, and all else is done."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import Seen, differences, look
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.test_ordinary_user import give_away
from tests.conformance.transfer.tools import (
    Claim,
    Done,
    Tool,
    claimants,
    every_tool,
    filesync_process,
)

LARGE = 300_000
ANOTHER = 1234
"""A user who is neither the superuser nor the ordinary one."""


@pytest.fixture
def frozen(stage: Stage) -> Iterator["Frozen"]:
    made = Frozen(stage.dst)
    yield made
    made.thaw()


class Frozen:
    """What nobody may change, not even the superuser."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def freeze(self, *names: str, flag: str = "i") -> None:
        for name in names:
            done = subprocess.run(["chattr", f"+{flag}", self._root / name], check=False)
            if done.returncode:
                pytest.skip("this file system has no immutable files")

    def thaw(self) -> None:
        if self._root.exists():
            subprocess.run(["chattr", "-R", "-f", "-i", "-a", self._root], check=False)


def content(root: Path) -> dict[bytes, tuple[str, bytes]]:
    """Return the kinds and contents of what a tree has."""
    return {path: (one.kind, one.what) for path, one in look(root).items()}


def of(seen: dict[bytes, Seen], *names: bytes) -> dict[bytes, Seen]:
    return {name: seen[name] for name in names}


def make_all(root: Path, data: bytes, *names: str) -> None:
    for name in names:
        make(root / name, data)


def make_sticky(directory: Path) -> None:
    """Make a directory the superuser's, in which everybody may make names."""
    os.chown(directory, 0, 0)
    directory.chmod(0o1777)


def give_both_away(stage: Stage) -> None:
    give_away(stage.src)
    give_away(stage.dst)


def synced_in_part(tool: Tool, stage: Stage) -> Done:
    """Sync, which is to say that not all could be done."""
    done = tool.sync(stage.src, stage.dst)
    assert done.code == 23
    return done


def assert_syncs(tool: Tool, stage: Stage) -> None:
    """Now nothing is in the way."""
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


needs_flags = pytest.mark.needs("chattr")


@needs_flags
@every_tool
def test_an_immutable_file_stays_and_all_else_is_done(
    tool: Tool, stage: Stage, frozen: Frozen
) -> None:
    for name in ("changed", "d/large", "d/new", "other"):
        make(stage.src / name, b"new" * (LARGE if name.endswith("large") else 1))
    make_all(stage.dst, b"it was so", "changed", "d/large", "d/gone")
    make_all(stage.dst, b"it was so", "gone/in/stays", "gone/in/goes", "gone/goes")
    stays = (b"changed", b"d/large", b"gone/in/stays")
    frozen.freeze(*map(os.fsdecode, stays))
    before = of(look(stage.dst), *stays)
    for _ in range(2):
        done = synced_in_part(tool, stage)
        assert all(os.fsdecode(path) in done.err for path in stays)
        assert "Operation not permitted" in done.err
        after = look(stage.dst)
        assert of(after, *stays) == before
        assert set(after) == {
            *(b"", b"changed", b"other", b"d", b"d/large", b"d/new"),
            *(b"gone", b"gone/in", b"gone/in/stays"),
        }
        source = look(stage.src)
        for path in (b"other", b"d/new", b"d"):
            assert after[path] == source[path]
    frozen.thaw()
    assert_syncs(tool, stage)


@needs_flags
@every_tool
def test_what_becomes_another_kind_and_cannot_stays(
    tool: Tool, stage: Stage, frozen: Frozen
) -> None:
    make(stage.src / "file", b"new")
    make(stage.src / "directory/in", b"new")
    (stage.src / "link").symlink_to("file")
    make(stage.src / "last", b"new")
    make(stage.dst / "file/kept", b"old")
    make(stage.dst / "file/gone", b"old")
    make(stage.dst / "directory", b"old")
    make(stage.dst / "link", b"old")
    frozen.freeze("file/kept", "directory", "link")
    done = synced_in_part(tool, stage)
    for name in ("file", "directory", "link"):
        assert name in done.err
    kinds = {path: one.kind for path, one in look(stage.dst).items()}
    assert kinds == {
        b"": "directory",
        b"file": "directory",
        b"file/kept": "file",
        b"directory": "file",
        b"link": "file",
        b"last": "file",
    }
    frozen.thaw()
    assert_syncs(tool, stage)


@needs_flags
@every_tool
def test_what_an_immutable_directory_does_not_take_is_named(
    tool: Tool, stage: Stage, frozen: Frozen
) -> None:
    make_all(stage.src, b"new", "shut/new", "shut/sub/new", "shut/fresh/new", "open")
    make_all(stage.dst, b"old", "shut/gone/in", "shut/sub/gone", "shut/old")
    frozen.freeze("shut")
    done = synced_in_part(tool, stage)
    assert ("shut/new" if tool.is_ours else "shut/.new.") in done.err
    assert "shut/fresh" in done.err
    assert set(look(stage.dst)) == {
        *(b"", b"open", b"shut", b"shut/sub", b"shut/sub/new", b"shut/gone", b"shut/old")
    }
    frozen.thaw()
    assert_syncs(tool, stage)


@needs_flags
@claimants(Claim.NAMES_LOSSES)
def test_an_append_only_directory_takes_what_is_new_and_keeps_what_it_has(
    tool: Tool, stage: Stage, frozen: Frozen
) -> None:
    make_all(stage.src, b"new", "log/new", "log/sub/new", "log/changed")
    make_all(stage.dst, b"it was so", "log/gone", "log/changed")
    frozen.freeze("log", flag="a")
    synced_in_part(tool, stage)
    assert {path: one[1] for path, one in content(stage.dst).items() if one[0] == "file"} == {
        path: content(where)[path][1]
        for where, path in (
            (stage.src, b"log/new"),
            (stage.src, b"log/sub/new"),
            (stage.dst, b"log/gone"),
            (stage.dst, b"log/changed"),
        )
    }
    assert (stage.dst / "log/changed").read_bytes() == b"it was so"
    frozen.thaw()
    assert_syncs(tool, stage)


@needs_flags
@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("flag", ["i", "a"])
@pytest.mark.parametrize("is_empty", [False, True])
def test_a_destination_that_takes_no_work_stays_as_it_is(
    tool: Tool, stage: Stage, frozen: Frozen, flag: str, is_empty: bool
) -> None:
    make(stage.src / "new", b"new")
    stage.dst.mkdir()
    if not is_empty:
        make(stage.dst / "old", b"old")
    frozen.freeze(".", flag=flag)
    before = look(stage.dst)
    done = synced_in_part(tool, stage)
    assert "Operation not permitted" in done.err
    assert look(stage.dst) == before


@needs_flags
@claimants(Claim.NAMES_LOSSES)  # rsync's ends in a wait for ever, or with other content
@pytest.mark.parametrize("size", [0, 3, 20_000, LARGE])
def test_other_names_of_what_is_refused_get_its_content(
    tool: Tool, stage: Stage, frozen: Frozen, size: int
) -> None:
    make(stage.src / "a/first", b"n" * size)
    make(stage.src / "copy/of it", b"n" * size)
    (stage.src / "c").mkdir()
    for name in ("b", "c/third"):
        os.link(stage.src / "a/first", stage.src / name)
    make(stage.dst / "a/first", b"old")
    make(stage.dst / "c/third", b"old")
    frozen.freeze("a/first")
    synced_in_part(tool, stage)
    for name in ("b", "c/third", "copy/of it"):
        assert (stage.dst / name).read_bytes() == b"n" * size
    assert (stage.dst / "b").samefile(stage.dst / "c/third")
    assert (stage.dst / "b").stat().st_nlink == 2
    assert (stage.dst / "a/first").read_bytes() == b"old"
    frozen.thaw()
    assert_syncs(tool, stage)


@needs_flags
@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("size", [0, 3, LARGE])
def test_names_of_a_file_whose_first_name_has_no_directory_are_one_file(
    tool: Tool, stage: Stage, frozen: Frozen, size: int
) -> None:
    make(stage.src / "shut/new/first", b"n" * size)
    (stage.src / "t").mkdir()
    for name in ("t/second", "z"):
        os.link(stage.src / "shut/new/first", stage.src / name)
    (stage.dst / "shut").mkdir(parents=True)
    frozen.freeze("shut")
    synced_in_part(tool, stage)
    assert (stage.dst / "z").read_bytes() == b"n" * size
    assert (stage.dst / "z").samefile(stage.dst / "t/second")
    frozen.thaw()
    assert_syncs(tool, stage)


@needs_flags
@claimants(Claim.NAMES_LOSSES)
def test_what_comes_back_is_as_it_was(tool: Tool, stage: Stage, frozen: Frozen) -> None:
    for name in ("gone/shut/wanted", "gone/shut/in/wanted too"):
        make(stage.dst / name, name.encode() * LARGE, mode=0o640)
    (stage.dst / "gone/shut").chmod(0o510)
    make(stage.src / "new", b"gone/shut/wanted" * LARGE)
    frozen.freeze("gone/shut", "gone/shut/wanted")
    before = look(stage.dst)
    synced_in_part(tool, stage)
    after = look(stage.dst)
    for path in (b"gone/shut", b"gone/shut/wanted"):
        assert after[path] == before[path]
    assert after[b"new"] == look(stage.src)[b"new"]


@every_tool
def test_a_file_of_another_in_a_sticky_directory_stays_and_all_else_is_done(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make_all(stage.src, b"new", "sticky/theirs", "sticky/new", "other")
    make_all(stage.dst / "sticky", b"it was so", "theirs", "gone", "mine", "d/in")
    give_both_away(stage)
    for name in ("theirs", "gone", "d"):
        os.chown(stage.dst / "sticky" / name, ANOTHER, ANOTHER)
    make_sticky(stage.dst / "sticky")
    stays = (b"sticky/theirs", b"sticky/gone", b"sticky/d", b"sticky/d/in")
    before = of(look(stage.dst), *stays)
    for _ in range(2):
        done = synced_in_part(ordinary, stage)
        assert "sticky/theirs" in done.err
        after = look(stage.dst)
        assert of(after, *stays) == before
        assert set(after) == {b"", b"sticky", b"other", b"sticky/new", *stays}
    give_away(stage.dst)
    assert_syncs(ordinary, stage)


@claimants(Claim.NAMES_LOSSES)  # rsync lets its owner write to it, and leaves it so
def test_a_read_only_directory_that_has_to_stay_keeps_its_mode(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    stage.src.mkdir()
    make_all(stage.dst, b"it was so", "gone/sticky/theirs", "gone/in/mine", "gone/mine")
    give_both_away(stage)
    os.chown(stage.dst / "gone/sticky/theirs", ANOTHER, ANOTHER)
    make_sticky(stage.dst / "gone/sticky")
    (stage.dst / "gone").chmod(0o555)
    synced_in_part(ordinary, stage)
    after = look(stage.dst)
    assert set(after) == {b"", b"gone", b"gone/sticky", b"gone/sticky/theirs"}
    assert after[b"gone"].mode == 0o555


@every_tool
def test_a_name_that_is_refused_does_not_keep_others_from_being_deleted(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    stage.src.mkdir()
    make_all(stage.dst, b"it was so", "a/theirs", "a/mine", "b/mine", "c")
    give_both_away(stage)
    os.chown(stage.dst / "a/theirs", ANOTHER, ANOTHER)
    make_sticky(stage.dst / "a")
    synced_in_part(ordinary, stage)
    assert set(look(stage.dst)) == {b"", b"a", b"a/theirs"}


def sync_several(tool: Tool, stage: Stage, *names: str) -> tuple[int, str, str]:
    """Sync each of ``names`` into the destination; return code, output and errors."""
    server = tool.servers
    sources = [f"{stage.src}/{name}" for name in names]
    dest = str(stage.dst)
    if tool.name == "filesync-to-server":
        dest = f"{server.filesync()}/{stage.dst.relative_to(server.root)}"
    if tool.name == "filesync-from-server":
        there = f"{server.filesync()}/{stage.src.relative_to(server.root)}"
        sources = [f"{there}/{name}" for name in names]
    process = filesync_process(
        ["sync", "--json", *sources, dest], user=tool.user, cache=server.cache
    )
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@needs_flags
@claimants(Claim.NAMES_LOSSES)
def test_one_of_several_sources_whose_place_cannot_be_made_is_named(
    tool: Tool, stage: Stage, frozen: Frozen
) -> None:
    make_all(stage.src, b"new", "one/file", "two/file", "three/file")
    make(stage.dst / "two", b"old")
    frozen.freeze("two")
    for _ in range(2):
        code, out, err = sync_several(tool, stage, "one", "two", "three")
        assert code == 23, err
        assert "'two', at the destination, cannot be changed: Operation not permitted" in err
        assert '"refused": {"two": "Operation not permitted"}' in out
        assert set(look(stage.dst)) == {
            *(b"", b"one", b"one/file", b"two", b"three", b"three/file")
        }
    frozen.thaw()
    code, _, err = sync_several(tool, stage, "one", "two", "three")
    assert (code, err) == (0, "")
    assert content(stage.dst) == content(stage.src)


@claimants(Claim.NAMES_LOSSES)
def test_what_cannot_be_read_is_named_of_a_source_whose_place_cannot_be_made_too(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make_all(stage.src, b"new", "one/file", "two/file", "two/secret")
    make(stage.dst / "two", b"theirs")
    give_both_away(stage)
    (stage.src / "two/secret").chmod(0)
    os.chown(stage.src / "two/secret", ANOTHER, ANOTHER)
    for path in (stage.dst, stage.dst / "two"):
        os.chown(path, ANOTHER, ANOTHER)
    stage.dst.chmod(0o1777)
    code, _, err = sync_several(ordinary, stage, "one", "two")
    assert code == 23, err
    assert "two/secret" in err
    assert "'two', at the destination, cannot be changed: " in err
    assert (stage.dst / "one/file").read_bytes() == b"new"


@needs_flags
@claimants(Claim.NAMES_LOSSES)
def test_a_hundred_refused_names_are_told_and_the_rest_counted(
    tool: Tool, stage: Stage, frozen: Frozen
) -> None:
    stage.src.mkdir()
    for number in range(130):
        make(stage.dst / f"d{number % 3}/{number}", b"1")
    frozen.freeze(*(f"d{number}" for number in range(3)))
    done = synced_in_part(tool, stage)
    assert done.err.count("cannot be changed: Operation not permitted") == 100
    assert "30 more there cannot be changed" in done.err
