"""``--chown``: all belongs to whom it says, as by rsync, and an ordinary user is told that it cannot be."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import look
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.test_ordinary_user import give_away
from tests.conformance.transfer.tools import (
    GROUPS,
    NOBODY,
    TIMEOUT_S,
    Claim,
    Tool,
    claimants,
    filesync_process,
)

RSYNC = ["rsync", "-aHAXS", "--numeric-ids", "--modify-window=-1", "--delete"]
our_tools = claimants(Claim.NAMES_LOSSES)


def furnish(root: Path) -> None:
    make(root / "d/file", b"text")
    make(root / "d/set", b"text", mode=0o4755)
    (root / "d/link").symlink_to("file")
    os.mkfifo(root / "fifo")
    os.link(root / "d/file", root / "other")
    os.setxattr(root / "d/file", "user.x", b"v")
    (root / "open").mkdir()
    (root / "open").chmod(0o2777)
    os.chown(root / "d", 7, 8)


def ours(tool: Tool, stage: Stage, *words: str) -> tuple[int, str, str]:
    """Sync ``src/`` to ``dst``; return the code and what was listed, and said."""
    source, dest = f"{stage.src}/", str(stage.dst)
    served = stage.root.relative_to(tool.servers.root)
    if tool.name == "filesync-to-server":
        dest = f"{tool.servers.filesync()}/{served}/dst"
    elif tool.name == "filesync-from-server":
        source = f"{tool.servers.filesync()}/{served}/src/"
    words = ("sync", "--verbose", *words, source, dest)
    running = filesync_process(words, user=tool.user, cache=tool.servers.cache)
    out, err = running.communicate(timeout=TIMEOUT_S)
    return running.returncode, out, err


@pytest.mark.needs("root", "rsync")
@our_tools
@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize(
    "owner",
    ["nobody:daemon", "12:34", "12", "12:", ":34", ":daemon", "007:", "nobody:0", ":", ""],
)
def test_all_belongs_to_whom_it_does_by_rsync_and_nothing_is_left_for_the_next_run(
    tool: Tool, stage: Stage, owner: str, is_there: bool
) -> None:
    furnish(stage.src)
    theirs = stage.root / "theirs"
    if is_there:
        for root in (stage.dst, theirs):
            subprocess.run(["cp", "-a", f"{stage.src}/.", root], check=True)
            make(root / "d/set", b"old", mode=0o6755)
            (root / "gone").mkdir()
    subprocess.run([*RSYNC, f"--chown={owner}", f"{stage.src}/", theirs], check=True)
    words = ("--delete", f"--chown={owner}")
    code, said, err = ours(tool, stage, *words, "--dry-run")
    assert (code, err) == (0, "")
    assert ours(tool, stage, *words) == (0, said, "")
    assert look(stage.dst) == look(theirs)
    assert ours(tool, stage, *words) == (0, "", "")
    # Quietly, to where nothing is, it goes as it is scanned if it goes as it is.
    subprocess.run(["rm", "-rf", stage.dst], check=True)
    assert ours(tool, stage, *words, "--quiet")[0] == 0
    assert look(stage.dst) == look(theirs)


@our_tools
@pytest.mark.parametrize(
    "owner", ["nosuch", ":nosuch", "4294967295", "99999999999", "a:b:c", "+5"]
)
def test_nobody_is_a_sentence_and_nothing_is_made(tool: Tool, stage: Stage, owner: str) -> None:
    make(stage.src / "file", b"1")
    code, _, err = ours(tool, stage, f"--chown={owner}")
    assert code in (1, 2)
    assert "--chown: " in err
    assert ("write USER:GROUP" in err) == (owner == "a:b:c")
    assert "Traceback" not in err
    assert not stage.dst.exists()


@our_tools
@pytest.mark.parametrize("owner", ["0:0", "1", ":1", "nobody:daemon"])
def test_an_ordinary_user_is_told_that_only_root_may(
    ordinary: Tool, tool: Tool, stage: Stage, owner: str
) -> None:
    make(stage.src / "file", b"1")
    give_away(stage.src)
    code, _, err = ours(ordinary, stage, f"--chown={owner}")
    assert code in (1, 2)
    assert "only root may give files to others" in err
    assert not stage.dst.exists()


@our_tools
def test_an_ordinary_user_may_give_all_to_a_group_that_he_is_in(
    ordinary: Tool, tool: Tool, stage: Stage
) -> None:
    make(stage.src / "file", b"1")
    make(stage.src / "d/file", b"2", owner=7)
    for group in GROUPS:
        assert ours(ordinary, stage, f"--chown=:{group}")[0] == 0
        assert {one.owner for one in look(stage.dst).values()} == {(NOBODY, group)}
        assert ours(ordinary, stage, f"--chown=:{group}") == (0, "", "")


@our_tools
def test_an_ordinary_user_may_say_what_is_so(ordinary: Tool, tool: Tool, stage: Stage) -> None:
    make(stage.src / "file", b"1")
    assert ours(ordinary, stage, f"--chown={NOBODY}:{NOBODY}")[0] == 0
    assert {one.owner for one in look(stage.dst).values()} == {(NOBODY, NOBODY)}
    assert ours(ordinary, stage, f"--chown={NOBODY}:{NOBODY}") == (0, "", "")
