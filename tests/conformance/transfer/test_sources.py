"""What sources name, and what a destination is called, goes by what rsync makes of the same words."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import look
from tests.conformance.transfer.tools import (
    NOBODY,
    TIMEOUT_S,
    Claim,
    FilesyncFrom,
    FilesyncLocal,
    FilesyncTo,
    Tool,
    claimants,
    filesync_process,
)

TOGETHER = (
    "full other dst",
    "full other there",
    "full other file there",
    "file full other link there",
    "full empty dst",
    "full full dst",
    "full full/ dst",
    "--delete full other there",
    "--delete full there other/ dst",
    "--delete stands stood/ tree there",
    "--delete --exclude=a full stood dst",
    "--exclude=other full other dst",
    "full other linked",
    "full empty linked",
    "-n full empty linked",
    "--delete full empty linked",
    "full other filed",
    "missing full other there",
    "tree/file deep/file stood/file there",
    "tree/file deep stood/file deep/file there",
    "--delete tree/file deep stood/file deep/file stands",
    "stands tree deep/ there",
    "--delete stands tree deep/ stood/ there",
    "--existing full stood filed",
    "--ignore-existing --exclude=a full stood filed",
    "--existing --delete full other stood there",
    # What is in several goes to one place.
    "full/ other/ tree/ deep/ stands/ there",
    "--delete deep/ stands/ tree/ full/ stood",
    "--delete --exclude=file tree/ deep/ there",
    "-n full/ other/ dst",
    "full/ missing/ other/ dst",
    "stood/file/ deep/file/ tree/file/ there",
    "--delete stood/file deep/file tree/file stands",
    "--existing stood/file/ other/ stands/file/ filed",
    # What is in a directory that is named between them stands before those after it.
    "full other/ file there",
    "--delete full other/ file there",
)
"""Directories of one directory, which go together, and with names in it."""

WORDS = (
    # Some are not there.
    "missing full dst",
    "full missing dst",
    "missing missing2 dst",
    "missing/ full/ there",
    "missing/in full there",
    "missing/. full there",
    "file/ full there",
    "file/. full there",
    "--delete full/ there",
    "-n missing full there",
    "file missing dst",
    "missing file dst",
    "missing empty dst",
    "missing/file other/file dst",
    # What comes goes by what is there.
    "--existing full/ dst",
    "--existing full there",
    "--existing empty full there",
    "--existing file dst",
    "--existing file dst/",
    "--existing file there",
    "--existing other/file file",
    "-u other/file file",
    "--ignore-existing other/file file",
    "--ignore-existing other/file there",
    "--ignore-existing full there",
    "--ignore-existing --delete full/ there",
    "--existing --delete full/ there",
    "-n --existing full there",
    # Also where that is no directory, and what comes is.
    "--existing full filed",
    "--existing full linked",
    "--ignore-existing --exclude=a full filed",
    "--ignore-existing --exclude=a full linked",
    "-n --existing full filed",
    # And where that is in the way of another source's name.
    "--existing --delete other/ empty/ stands",
    "--ignore-existing --delete other/ empty/ stands",
    "--ignore-existing --delete empty/ other/ stands",
    "-u --delete other/ empty/ stands",
    # And where a rule hides that.
    "--ignore-existing --exclude=*/ other/ stands",
    "-n --ignore-existing --exclude=*/ other/ stands",
    # The one name that is given is what the destination is called.
    "empty dst",
    "empty/ dst",
    "empty dst/",
    "empty there",
    "--delete empty dst",
    "-n empty dst",
    "--exclude=a full dst",
    "--exclude=b full dst",
    "--exclude=a full file dst",
    "--exclude=full full file dst",
    "--exclude=file file other/file2 dst",
    # One of several is reached through a link.
    "empty/ link/ dst",
    "--delete full/ empty/ link/ other/ there",
    # Nothing is left of what is named: the destination is made as for any one name.
    "--exclude=* full dst",
    "--exclude=* full dst/",
    "--exclude=* full/ dst",
    "--exclude=* full other dst",
    "--exclude=* full other dst/",
    "--exclude=* other/file other/file2 dst",
    "--exclude=* full file dst/",
    "--exclude=* full file",
    "--exclude=* missing full dst/",
    "--exclude=/full/ full full/full dst/",
    "--delete --exclude=* full there",
    "--delete-excluded --exclude=* full there",
    "-n --exclude=* full dst/",
    "file dst",
    "file dst/",
    "file file dst",
    "empty empty dst",
    "empty file dst",
    "empty/ file dst",
    "link dst",
    "link/ dst",
    "link empty dst",
    # One source's directory, or none, stands where another has a file of that name.
    "--delete other/ other/file there",
    "--delete tree/ other/file there",
    "--delete other/file tree/ there",
    "--delete other/ other/file stands",
    "--delete tree/ other/file stands",
    "--delete other/file tree/ stands",
    "--delete tree/file deep/ stood",
    "--delete deep/ tree/file stood",
    "--delete --exclude=kept tree/file deep/ stood",
    # It is reached through a link.
    "full to-there",
    "full/ to-there",
    "full to-there/",
    "full/ to-there/",
    "file to-there",
    "file to-there/",
    "--delete full/ to-there/",
    # What has a source's name there is no directory: it goes, and no link is followed.
    "full linked",
    "full linked/",
    "-n full linked",
    "--delete full linked",
    "full other/file linked",
    "empty linked",
    "full filed",
    "-n full filed",
    *TOGETHER,
    # The same in other words.
    "./full dst",
    "full/. dst",
    "full/./a dst",
)

ON_A_SERVER = (
    "missing full dst",
    "missing/in full there",
    "file missing dst",
    "missing empty dst",
    "empty dst",
    "empty there",
    "--exclude=a full dst",
    "--exclude=file file other/file2 dst",
    "--exclude=* full dst",
    "--exclude=* full dst/",
    "--exclude=* full other dst",
    "--exclude=* other/file other/file2 dst",
    "--exclude=* missing full dst/",
    "-n --exclude=* full dst/",
    "file file dst",
    "full linked",
    "-n full linked",
    "full filed",
    "./full dst",
    "full/. dst",
    "full/./a dst",
    "--delete other/ other/file stands",
    "--delete other/file tree/ stands",
    "--delete tree/file deep/ stood",
    "--existing --delete other/ empty/ stands",
    "--ignore-existing --delete other/ empty/ stands",
    "--ignore-existing --exclude=*/ other/ stands",
    "-n --ignore-existing --exclude=*/ other/ stands",
    "--existing full filed",
    "--existing full linked",
    "-n --existing full filed",
    "--ignore-existing --exclude=a full filed",
    "--ignore-existing --exclude=a full linked",
    "--existing full/ dst",
    "--existing full there",
    "-n --existing full there",
    "--existing other/file file",
    "--ignore-existing other/file file",
    "--ignore-existing --delete full/ there",
    *TOGETHER,
)
"""In what the others differ a server has no part."""


def furnish(root: Path) -> None:
    for name in ("full", "empty", "other", "there"):
        (root / name).mkdir(parents=True)
    for name in ("full/a", "file", "other/file", "other/file2", "there/old"):
        (root / name).write_text(name)
    for name in ("linked", "filed"):
        (root / name).mkdir()
    (root / "filed/full").write_text("in the way")
    for name in ("full", "empty"):
        (root / "linked" / name).symlink_to("../other")
    for name in ("stands/file", "tree/file"):
        (root / name).mkdir(parents=True)
        (root / name / name.partition("/")[0]).write_text("in it")
    (root / "deep/file").mkdir(parents=True)
    (root / "deep/file/in").write_text("a file")
    (root / "stood/file/in").mkdir(parents=True)
    for name in ("file/in/it", "file/more", "file/kept"):
        (root / "stood" / name).write_text("old")
    (root / "link").symlink_to("full")
    (root / "to-there").symlink_to("there")


def ours(tool: Tool, root: Path, words: str) -> tuple[int, str]:
    """Sync in ``root`` as ``words`` say, to or from a server there; return the code and what it said."""
    *options, dest = words.split()
    served = f"{tool.servers.filesync()}/{root.relative_to(tool.servers.root)}/".replace(
        "/./", "/"
    )
    here = served if tool.name == "filesync-from-server" else f"{root}/"
    there = served if tool.name == "filesync-to-server" else f"{root}/"
    given = [one if one.startswith("-") else here + one for one in options]
    running = filesync_process(
        ["sync", *given, there + dest], user=tool.user, cache=tool.servers.cache
    )
    _, err = running.communicate(timeout=TIMEOUT_S)
    return running.returncode, err


@pytest.mark.needs("root", "rsync")
@pytest.mark.parametrize(
    ("tool", "words"),
    [(FilesyncLocal, words) for words in WORDS]
    + [(tool, words) for tool in (FilesyncTo, FilesyncFrom) for words in ON_A_SERVER],
    indirect=["tool"],
)
def test_the_same_words_make_the_same_tree_as_by_rsync(
    tool: Tool, stage: Stage, words: str
) -> None:
    mine, theirs = stage.root / "mine", stage.root / "theirs"
    furnish(mine)
    subprocess.run(["cp", "-a", mine, theirs], check=True)
    done = subprocess.run(["rsync", "-aHAXS", *words.split()], cwd=theirs, check=False)
    code, err = ours(tool, mine, words)
    assert code == done.returncode
    for name in ("missing", "missing2", "missing/in"):
        assert (f"{name}' cannot be read: No such file" in err) == (name in words.split()), err
    assert kinds(mine) == kinds(theirs)


@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("sources", ["full/", "full", "file", "file full"])
def test_a_dry_run_says_that_the_directory_above_the_destination_is_not_there(
    tool: Tool, stage: Stage, sources: str
) -> None:
    """Where rsync lists what it cannot do."""
    furnish(stage.root / "mine")
    said = [ours(tool, stage.root / "mine", f"{dry}{sources} no/dst") for dry in ("", "-n ")]
    assert said[0] == said[1]
    assert said[0][0] == 1
    assert "/no' is not there" in said[0][1]


@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("sources", ["full/", "full", "other/file", "full other"])
def test_a_destination_that_is_no_directory_is_an_error_whatever_is_excluded(
    tool: Tool, stage: Stage, sources: str
) -> None:
    furnish(stage.root / "mine")
    code, err = ours(tool, stage.root / "mine", f"--exclude=* {sources} file/")
    assert code == 1
    assert "file/' is not a directory" in err


@pytest.mark.parametrize("tool", [FilesyncLocal, FilesyncFrom], indirect=True)
@pytest.mark.parametrize("sources", ["full/", "full", "file full"])
def test_a_destination_that_is_a_link_to_nothing_is_named_in_a_dry_run_too(
    tool: Tool, stage: Stage, sources: str
) -> None:
    furnish(stage.root / "mine")
    (stage.root / "mine/dst").symlink_to("nowhere")
    for dry in ("", "-n "):
        code, err = ours(tool, stage.root / "mine", f"{dry}{sources} dst")
        assert code == 1
        assert "/dst' is a link that leads nowhere" in err


@claimants(Claim.NAMES_LOSSES)
def test_nothing_is_deleted_while_a_source_is_not_there(tool: Tool, stage: Stage) -> None:
    """Unlike rsync, which deletes what the missing one may have brought."""
    furnish(stage.root / "mine")
    code, err = ours(tool, stage.root / "mine", "--delete missing/ full/ there")
    assert code == 23
    assert "nothing was deleted" in err
    assert sorted(path.name for path in (stage.root / "mine/there").iterdir()) == ["a", "old"]


@claimants(Claim.NAMES_LOSSES)
def test_a_directory_that_may_not_be_read_is_named_beside_what_is_synced(
    ordinary: Tool, stage: Stage
) -> None:
    furnish(stage.root)
    (stage.root / "shut").mkdir(mode=0)
    code, err = ours(ordinary, stage.root, "shut full dst")
    assert code == 23
    assert "shut' cannot be read: Permission denied" in err
    assert set(look(stage.dst)) == {b"", b"full", b"full/a"}


@claimants(Claim.NAMES_LOSSES)
def test_one_of_several_directories_that_may_not_be_searched_is_named_beside_what_is_synced(
    ordinary: Tool, stage: Stage
) -> None:
    """It can be listed, so that it is found out late."""
    furnish(stage.root)
    os.chown(stage.root / "there", NOBODY, NOBODY)
    for name in ("shut", "shut2"):
        (stage.root / name).mkdir()
        (stage.root / name / "in").touch()
        (stage.root / name).chmod(0o444)
    code, err = ours(ordinary, stage.root, "--delete shut/ full/ there")
    assert code == 23
    assert "shut' cannot be read: Permission denied" in err
    assert "nothing was deleted" in err
    assert set(look(stage.root / "there")) == {b"", b"a", b"old"}
    code, err = ours(ordinary, stage.root, "--delete shut/ shut2/ there")
    assert code == 1
    assert "shut' cannot be read: Permission denied" in err
    assert set(look(stage.root / "there")) == {b"", b"a", b"old"}


def kinds(root: Path) -> dict[bytes, tuple[str, int, bytes]]:
    """Return all that is in a tree; times are other tests'."""
    return {path: (one.kind, one.mode, one.what) for path, one in look(root).items()}
