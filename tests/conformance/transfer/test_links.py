"""Names of one file, and names that stand for other names."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import Seen, differences, look
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.tools import Claim, Tool, claimants, every_tool, ours_and_rsync


def link(root: Path, *names: str, data: bytes) -> None:
    """Make one file with ``names``."""
    first = make(root / names[0], data)
    for name in names[1:]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(first, root / name)


GROUPS: list[Sequence[Sequence[str]]] = [
    [("a/1", "b/2", "c/d/3", "z"), ("a/4", "a/5")],
    [("a/1", "b/2"), ("c/d/3", "z"), ("a/4",), ("a/5",)],
    [("z", "a/4", "a/5", "c/d/3"), ("a/1", "b/2")],
    [("a/1",), ("b/2",), ("c/d/3",), ("z",), ("a/4",), ("a/5",)],
    [("a/1", "a/4", "a/5", "b/2", "c/d/3", "z")],
    [("new/1", "a/1", "z"), ("b/2", "new/2")],
]


@ours_and_rsync
def test_hard_link_groups_split_and_join_across_directories(tool: Tool, stage: Stage) -> None:
    for number, groups in enumerate([*GROUPS, *reversed(GROUPS)]):
        src = stage.root / f"src{number}"
        for at, names in enumerate(groups):
            # Equal contents as well, in some of them: groups are not told apart by content.
            link(src, *names, data=b"same" if at % 2 else b"%d %d" % (number, at))
        tool.must_sync(src, stage.dst)
        assert differences(src, stage.dst) == []


@claimants(Claim.LINKED_SPECIALS)
def test_several_names_of_a_fifo_device_or_link_are_one_again(tool: Tool, stage: Stage) -> None:
    (stage.src / "d").mkdir(parents=True)
    os.mkfifo(stage.src / "fifo")
    os.mknod(stage.src / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (stage.src / "link").symlink_to("elsewhere")
    for name in ("fifo", "device", "link"):
        os.link(stage.src / name, stage.src / "d" / name, follow_symlinks=False)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []


@claimants(Claim.SKIPS_SOCKETS)
def test_names_of_one_fifo_device_or_link_may_be_on_both_sides(
    tool: Tool, stage: Stage
) -> None:
    for root in (stage.src, stage.dst):
        root.mkdir()
        os.mkfifo(root / "fifo")
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (root / "link").symlink_to("elsewhere")
        for name in ("fifo", "device", "link"):
            os.link(root / name, root / f"{name}2", follow_symlinks=False)
    (stage.src / "file").write_text("new")
    tool.must_sync(stage.src, stage.dst)
    assert look(stage.dst).keys() == look(stage.src).keys()


def without(root: Path, hidden: str) -> dict[bytes, Seen]:
    """Return what stands in a tree but for a directory, whose names no group has then."""
    left = {path: seen for path, seen in look(root).items() if path[:1] != hidden.encode()}
    for path, seen in left.items():
        group = tuple(name for name in seen.group if name in left)
        left[path] = seen._replace(group=group if len(group) > 1 else ())
    return left


@every_tool
@pytest.mark.parametrize("hidden", ["a", "b", "c"])
def test_a_hard_link_group_across_a_filter_is_what_is_left_of_it(
    tool: Tool, stage: Stage, hidden: str
) -> None:
    link(stage.src, "a/1", "b/2", "c/3", data=b"linked")
    link(stage.src, "a/x", "b/y", data=b"pair")
    done = tool.sync(stage.src, stage.dst, excludes=[f"/{hidden}"])
    assert done.code == 0, done
    assert not (stage.dst / hidden).exists()
    assert look(stage.dst) == without(stage.src, hidden)


@claimants(Claim.LEAVES_ALONE)
def test_what_is_left_out_does_not_change_through_another_name_of_it(
    tool: Tool, stage: Stage
) -> None:
    for name in ("content", "mode", "gone"):
        link(stage.dst, f"a/{name}", f"left/{name}", data=b"old")
    before = {path: seen for path, seen in look(stage.dst).items() if path[:4] == b"left"}
    make(stage.src / "a/content", b"new content")
    make(stage.src / "a/mode", b"old", mode=0o600)
    os.utime(stage.src / "a/mode", ns=(0, (stage.dst / "a/mode").stat().st_mtime_ns))
    done = tool.sync(stage.src, stage.dst, excludes=["/left"])
    assert done.code == 0, done
    after = {path: seen for path, seen in look(stage.dst).items() if path[:4] == b"left"}
    assert {path: seen[:-1] for path, seen in after.items()} == {
        path: seen[:-1] for path, seen in before.items()
    }
    assert (stage.dst / "a/mode").stat().st_mode & 0o777 == 0o600
    assert (stage.dst / "a/content").read_bytes() == b"new content"


@every_tool
def test_links_are_kept_verbatim_and_never_followed(tool: Tool, stage: Stage) -> None:
    outside = make(stage.root / "outside/file", b"not ours").parent
    make(stage.src / "d/file", b"1")
    targets = [
        str(outside),
        "../outside",
        "../outside/file",
        "d",
        "d/file",
        ".",
        "..",
        "/",
        "me",
    ]
    for number, target in enumerate([*targets, "d/../../outside"]):
        (stage.src / f"link{number}").symlink_to(target)
    (stage.src / "me").symlink_to("me")
    (stage.src / "d/up").symlink_to("..")
    for number in range(45):  # more links than the kernel follows
        (stage.src / f"chain{number}").symlink_to(f"chain{number + 1}")
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_bytes() == b"not ours"


@every_tool
def test_a_link_in_the_destination_is_replaced_and_not_written_through(
    tool: Tool, stage: Stage
) -> None:
    outside = make(stage.root / "outside/file", b"not ours").parent
    make(stage.src / "d/file", b"ours")
    make(stage.src / "file", b"ours")
    stage.dst.mkdir()
    (stage.dst / "d").symlink_to(outside)
    (stage.dst / "file").symlink_to(outside / "file")
    (stage.dst / "gone").symlink_to(outside)
    before = look(outside)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    assert look(outside) == before
