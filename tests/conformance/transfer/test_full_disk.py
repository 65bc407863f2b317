"""A destination whose disk is full: what is said, what is left, and the run after that."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import look
from tests.conformance.transfer.tools import Claim, Tool, claimants, every_tool
from tests.mounting import tmpfs


@pytest.fixture
def disk(stage: Stage) -> Iterator[Path]:
    """A file system of 8 MiB and 100 names."""
    with tmpfs(stage.root / "disk", "size=8m,nr_inodes=100,mode=755") as disk:
        yield disk


def widen(disk: Path) -> None:
    options = "remount,size=64m,nr_inodes=1000"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)


@pytest.mark.needs("mount")
@claimants(Claim.NAMES_LOSSES)
@pytest.mark.parametrize("what", ["names", "small", "large"])
@pytest.mark.parametrize("below", ["", "in"])
def test_a_full_disk_is_a_sentence_and_what_has_arrived_is_kept(
    tool: Tool, stage: Stage, disk: Path, what: str, below: str
) -> None:
    count, size = {"names": (150, 10), "small": (150, 90_000), "large": (1, 12 << 20)}[what]
    rng = random.Random(1)
    root = stage.src / below
    root.mkdir(parents=True)
    for number in range(count):
        (root / f"file{number}").write_bytes(rng.randbytes(size))
    dst = disk / "dst"
    dst.mkdir()
    done = tool.sync(stage.src, dst)
    assert done.code == 1
    named = next(path for path in root.iterdir() if repr(path.name)[1:] in done.err)
    in_full = repr(os.fspath(named.relative_to(stage.src)))
    assert f"{in_full}: No space left" in done.err
    assert done.err.endswith("make room and run again: files that came whole stay\n")
    there = [path for path in (dst / below).glob("file*") if path.is_file()]
    for path in there:
        assert path.read_bytes() == (root / path.name).read_bytes()
    widen(disk)
    moved = tool.must_sync(stage.src, dst).moved
    assert look(dst) == look(stage.src)
    assert moved <= (count - len(there)) * (size + 300) + 20_000


@pytest.mark.needs("mount")
@every_tool
@pytest.mark.parametrize("below", ["", "in"])
def test_what_is_deleted_makes_room_for_what_comes(
    tool: Tool, stage: Stage, disk: Path, below: str
) -> None:
    dst = disk / "dst"
    dst.mkdir()
    for label in "ab":
        root = stage.src / f"{label}-{below}" if below else stage.src
        root.mkdir(parents=True)
        for number in range(6):
            (root / f"{label}{number}").write_bytes(os.urandom(1_000_000))
        tool.must_sync(stage.src, dst)
        assert look(dst) == look(stage.src)
        shutil.rmtree(stage.src)
