"""Paths that are deep, and paths that are longer than the kernel takes at once."""

import os
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import differences, look, open_below
from tests.conformance.transfer.tools import Claim, Tool, claimants, ours_and_rsync


def descend(root: Path, *, depth: int, name: bytes) -> None:
    """Make directories inside each other, a file in every hundredth and in the last."""
    root.mkdir(parents=True)
    fd = open_below(root, b"")
    for level in range(1, depth + 1):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if level % 100 == 0 or level == depth:
            with open(
                os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=fd), "wb"
            ) as file:
                file.write(b"level %d" % level)
            os.symlink("../file", b"link", dir_fd=fd)
    os.close(fd)


def change_the_deepest(root: Path, *, depth: int, name: bytes) -> None:
    fd = open_below(root, b"/".join([name] * depth))
    with open(os.open(b"file", os.O_WRONLY | os.O_TRUNC, dir_fd=fd), "wb") as file:
        file.write(b"other bytes")
    os.unlink(b"link", dir_fd=fd)
    os.close(fd)


def check_way(tool: Tool, stage: Stage, *, depth: int, name: bytes) -> None:
    """The tree comes, changes at its far end, moves, and goes."""
    descend(stage.src / "top", depth=depth, name=name)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    change_the_deepest(stage.src / "top", depth=depth, name=name)
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    (stage.src / "top").rename(stage.src / "other")
    tool.must_sync(stage.src, stage.dst)
    assert differences(stage.src, stage.dst) == []
    empty = stage.root / "empty"
    empty.mkdir()
    tool.must_sync(empty, stage.dst)
    assert list(look(stage.dst)) == [b""]


@ours_and_rsync
def test_a_tree_300_deep_comes_changes_moves_and_goes(tool: Tool, stage: Stage) -> None:
    check_way(tool, stage, depth=300, name=b"d")


@claimants(Claim.LONG_PATHS)
@pytest.mark.parametrize(("depth", "name"), [(1500, b"four"), (40, b"n" * 250)])
def test_1500_levels_and_paths_longer_than_the_kernel_takes_come_change_move_and_go(
    tool: Tool, stage: Stage, depth: int, name: bytes
) -> None:
    check_way(tool, stage, depth=depth, name=name)
