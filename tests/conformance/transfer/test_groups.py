"""Groups, by an ordinary user who is in some besides his own: files have those that he may give."""

import json
import os
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import differences, look
from tests.conformance.transfer.test_chown import ours
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.test_ordinary_user import give_away
from tests.conformance.transfer.tools import (
    GROUPS,
    NOBODY,
    Claim,
    Tool,
    claimants,
    every_tool,
)

FIRST, SECOND = GROUPS
OTHER = 70003


def every_group(root: Path) -> None:
    """Make a tree of the ordinary user's in which each kind of inode is of one of his groups."""
    for number in range(3):
        for path in (f"{number}/plain", f"{number}/large", f"{number}/script", f"d{number}/in"):
            make(root / path, b"%d" % number * (300_000 if path.endswith("large") else 1))
        os.link(root / f"{number}/plain", root / f"{number}/second name")
        (root / f"{number}/link").symlink_to("plain")
        os.mkfifo(root / f"{number}/fifo")
    give_away(root)
    for number, group in enumerate((NOBODY, FIRST, SECOND)):
        for one in (*(root / f"{number}").iterdir(), root / f"d{number}"):
            os.chown(one, -1, group, follow_symlinks=False)
        (root / f"{number}/script").chmod(0o2755)
        (root / f"d{number}").chmod(0o2775)


@every_tool
def test_groups_that_the_user_is_in_are_kept(ordinary: Tool, tool: Tool, stage: Stage) -> None:
    every_group(stage.src)
    ordinary.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@claimants(Claim.NO_LISTS)
def test_what_has_its_groups_is_not_told_of_again(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    every_group(stage.src)
    ordinary.must_sync(stage.src, stage.dst)
    assert ordinary.must_sync(stage.src, stage.dst).moved < 2_500


@pytest.mark.parametrize("group", [FIRST, SECOND, OTHER])
@claimants(Claim.NO_LISTS)
def test_what_is_partly_of_other_groups_is_not_told_of_again(
    ordinary: Tool, tool: Tool, stage: Stage, group: int
) -> None:
    for number in range(400):
        make(stage.src / f"d/{number % 4}/of the other group {number}", owner=OTHER)
        make(stage.src / f"d/{number % 4}/{number}")
        os.chown(stage.src / f"d/{number % 4}/{number}", NOBODY, group)
    for path in (stage.src, *stage.src.rglob("*")):
        if path.is_dir():
            os.chown(path, NOBODY, FIRST)
    ordinary.must_sync(stage.src, stage.dst)
    assert ordinary.must_sync(stage.src, stage.dst).moved < 4_000


@claimants(Claim.NAMES_LOSSES)
def test_what_would_change_is_known_without_a_list_of_what_is_of_other_groups(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for number in range(200):
        make(stage.src / f"{number % 4}/of the other group {number}", owner=OTHER)
    os.chown(stage.src, OTHER, OTHER)
    ordinary.must_sync(stage.src, stage.dst)
    code, out, err = ours(ordinary, stage, "--dry-run", "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["wire_in"] + figures["wire_out"] < 1_500


@every_tool
def test_a_change_of_group_arrives(ordinary: Tool, tool: Tool, stage: Stage) -> None:
    every_group(stage.src)
    ordinary.must_sync(stage.src, stage.dst)
    after = {NOBODY: FIRST, FIRST: SECOND, SECOND: NOBODY}
    for path in stage.src.rglob("*"):
        if path.name not in ("plain", "second name"):
            mode = path.lstat().st_mode
            os.chown(path, -1, after[path.lstat().st_gid], follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(mode & 0o7777)
    os.chown(stage.src / "1/plain", -1, NOBODY)
    ordinary.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@every_tool
def test_of_a_group_that_the_user_is_not_in_comes_what_the_directory_gives(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    names = ("shared/theirs", "shared/large", "plain/theirs")
    for name in names:
        make(stage.src / name, bytes(300_000 if "large" in name else 1))
    give_away(stage.src)
    os.chown(stage.src / "shared", -1, FIRST)
    (stage.src / "shared").chmod(0o2775)
    for data in (b"1", b"new"):  # the second time they replace others
        for name in names:
            make(stage.src / name, data * (1 << 20 if "large" in name else 1), owner=OTHER)
        ordinary.must_sync(stage.src, stage.dst)
        found = look(stage.dst)
        assert found[b"shared"].owner == (NOBODY, FIRST)
        assert found[b"shared/theirs"].owner == (NOBODY, FIRST)
        assert found[b"shared/large"].owner == (NOBODY, FIRST)
        assert found[b"plain/theirs"].owner == (NOBODY, NOBODY)


@every_tool
def test_links_and_fifos_get_the_group_of_a_directory_that_gives_it(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    (stage.src / "shared").mkdir(parents=True)
    give_away(stage.src)
    os.chown(stage.src / "shared", -1, FIRST)
    (stage.src / "shared").chmod(0o2775)
    ordinary.must_sync(stage.src, stage.dst)
    (stage.src / "shared/link").symlink_to("a")
    os.mkfifo(stage.src / "shared/fifo")
    for path in (stage.src / "shared").iterdir():
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    ordinary.must_sync(stage.src, stage.dst)
    found = look(stage.dst)
    assert found[b"shared/link"].owner == (NOBODY, FIRST)
    assert found[b"shared/fifo"].owner == (NOBODY, FIRST)


@pytest.mark.parametrize("group", [FIRST, OTHER], ids=["his", "another's"])
@every_tool
def test_a_directory_that_is_not_to_give_its_group_gives_it_to_nothing(
    ordinary: Tool, tool: Tool, stage: Stage, group: int
) -> None:
    names = ("d/in", "new/in", "new/deeper/in", "in")
    for number, name in enumerate(names):
        make(stage.src / name, b"%d" % number * (1 << 20 if "new" in name else 1), owner=OTHER)
    for directory in ("", "d", "new", "new/deeper"):
        os.chown(stage.src / directory, OTHER, OTHER)
    (stage.dst / "d").mkdir(parents=True)
    give_away(stage.dst)
    os.chown(stage.dst, -1, group)
    stage.dst.chmod(0o2775)
    ordinary.must_sync(stage.src, stage.dst)
    found = look(stage.dst)
    assert {found[name.encode()].owner for name in names} == {(NOBODY, NOBODY)}
    assert found[b"new/deeper"].owner == (NOBODY, NOBODY)


@every_tool
def test_a_new_destination_does_not_pass_on_what_it_got_of_a_shared_directory(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/in", owner=OTHER)
    make(stage.src / "in", owner=OTHER)
    for directory in (stage.src, stage.src / "d"):
        os.chown(directory, OTHER, OTHER)
    stage.dst.mkdir()
    os.chown(stage.dst, NOBODY, FIRST)
    stage.dst.chmod(0o2775)
    ordinary.must_sync(stage.src, stage.dst / "new")
    found = look(stage.dst / "new")
    assert found[b""].owner == (NOBODY, FIRST)
    assert {found[name].owner for name in (b"d", b"d/in", b"in")} == {(NOBODY, NOBODY)}


@every_tool
def test_a_shared_destination_gives_its_group_to_what_is_made_in_it(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "d/in")
    make(stage.src / "large", bytes(1 << 20))
    (stage.src / "link").symlink_to("d")
    for path in (stage.src, *stage.src.rglob("*")):
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    stage.src.chmod(0o2775)
    make(stage.dst / "there")
    give_away(stage.dst)
    os.chown(stage.dst, -1, FIRST)
    stage.dst.chmod(0o2775)
    ordinary.must_sync(stage.src, stage.dst)
    found = look(stage.dst)
    assert {found[name].owner for name in (b"d", b"large", b"link")} == {(NOBODY, FIRST)}
    assert found[b"d/in"].owner == (NOBODY, NOBODY)


@every_tool
def test_large_files_of_a_new_directory_get_no_group_of_the_one_above_it(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for number in range(4):
        make(stage.src / f"d/{number}", b"%d" % number * (1 << 20), owner=OTHER)
    os.chown(stage.src / "d", OTHER, OTHER)
    os.chown(stage.src, NOBODY, FIRST)
    stage.src.chmod(0o2775)
    ordinary.must_sync(stage.src, stage.dst)
    found = look(stage.dst)
    assert {found[b"d/%d" % number].owner for number in range(4)} == {(NOBODY, NOBODY)}


@every_tool
def test_what_is_of_another_group_than_can_be_given_keeps_the_one_it_has(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for name in ("a", "b", "d/c"):
        make(stage.src / name)
    (stage.src / "link").symlink_to("a")
    for path in stage.src.rglob("*"):
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    ordinary.must_sync(stage.src, stage.dst)
    for name in ("a", "d", "link"):
        os.chown(stage.dst / name, -1, SECOND, follow_symlinks=False)
    assert ordinary.must_sync(stage.src, stage.dst).moved < 2_500
    found = look(stage.dst)
    assert {found[name].owner[1] for name in (b"a", b"d", b"link")} == {SECOND}
    assert {found[name].owner[1] for name in (b"b", b"d/c")} == {NOBODY}


@every_tool
def test_a_name_that_loses_its_other_names_keeps_the_group_it_has(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "stays", b"1", owner=OTHER)
    os.link(stage.src / "stays", stage.src / "goes")
    ordinary.must_sync(stage.src, stage.dst)
    os.chown(stage.dst / "stays", -1, SECOND)
    (stage.src / "goes").unlink()
    ordinary.must_sync(stage.src, stage.dst)
    assert look(stage.dst)[b"stays"].owner == (NOBODY, SECOND)


@every_tool
def test_what_is_somebody_elses_stays_so_when_a_name_that_it_was_linked_to_is_another_file(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "a", b"another")
    make(stage.src / "b", b"1")
    make(stage.dst / "b", b"1")
    os.link(stage.dst / "b", stage.dst / "a")
    for root in (stage.src, stage.dst):
        give_away(root)
        os.chown(root / "b", OTHER, OTHER)
        os.utime(root / "b", ns=(1, 1))
    inode = (stage.dst / "b").stat().st_ino
    ordinary.must_sync(stage.src, stage.dst)
    assert (stage.dst / "a").read_bytes() == b"another"
    assert look(stage.dst)[b"b"].owner == (OTHER, OTHER)
    assert (stage.dst / "b").stat().st_ino == inode


@every_tool
def test_a_group_that_cannot_be_given_to_what_is_somebody_elses_is_said(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    for root in (stage.src, stage.dst):
        make(root / "file", b"1")
        os.utime(root / "file", (1, 1))
        give_away(root)
    os.chown(stage.src / "file", -1, FIRST)
    os.chown(stage.dst / "file", OTHER, OTHER)
    done = ordinary.sync(stage.src, stage.dst)
    assert done.code == 23
    assert "group" in done.err or "chgrp" in done.err
    assert look(stage.dst)[b"file"].owner == (OTHER, OTHER)
