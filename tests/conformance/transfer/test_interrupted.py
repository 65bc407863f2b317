"""Killed at some moment, then run again."""

import os
import time

import pytest

from tests.conformance.transfer.conftest import Stage
from tests.conformance.transfer.look import bytes_below, differences
from tests.conformance.transfer.test_kinds import make
from tests.conformance.transfer.tools import Claim, Tool, claimants, ours_and_rsync

MEBIBYTE = 1 << 20
RETRIES_S = 20


def sync_when_it_may(tool: Tool, stage: Stage) -> int:
    """Sync; return what travelled. A server may take a while to see that its peer is dead."""
    end = time.monotonic() + RETRIES_S
    while True:
        done = tool.sync(stage.src, stage.dst)
        if done.code == 0:
            return done.moved
        assert "is giving to" in done.err or "is writing to" in done.err, done
        assert time.monotonic() < end, done
        time.sleep(0.2)


def kill_at(tool: Tool, stage: Stage, *, size: int, rate: str = "") -> bool:
    """Sync, and kill that when ``size`` bytes have come; False if it was over before."""
    running = tool.start(stage.src, stage.dst, rate=rate)
    while not running.is_over and bytes_below(stage.dst) < size:
        time.sleep(0.002)
    was_over = running.is_over
    running.kill()
    return not was_over


@ours_and_rsync
@pytest.mark.parametrize("percent", [0, 20, 60])
def test_a_run_that_was_killed_is_finished_by_the_next_with_less(
    tool: Tool, stage: Stage, percent: int
) -> None:
    total = 0
    for number in range(200):
        data = os.urandom(200_000)
        total += len(make(stage.src / f"d{number % 6}/f{number}", data).read_bytes())
    os.link(stage.src / "d1/f1", stage.src / "d2/linked")
    size = max(total * percent // 100, 1)
    # Fast, but not so fast that it is over before a busy machine lets us look.
    assert kill_at(tool, stage, size=size, rate="50M" if percent else "20M")
    left = bytes_below(stage.dst)
    moved = sync_when_it_may(tool, stage)
    assert differences(stage.src, stage.dst) == []
    assert moved < total - left * 3 // 4 + MEBIBYTE


@ours_and_rsync
def test_a_run_that_was_killed_while_it_changed_a_tree_is_finished_by_the_next(
    tool: Tool, stage: Stage
) -> None:
    for number in range(200):
        make(stage.src / f"d{number % 6}/f{number}", os.urandom(50_000))
    tool.must_sync(stage.src, stage.dst)
    (stage.src / "d1").rename(stage.src / "moved")
    for number in range(0, 200, 2):
        if (path := stage.src / f"d{number % 6}/f{number}").exists():
            path.write_bytes(os.urandom(80_000))
    for delay_s in (0.3, 0.4, 0.5):
        running = tool.start(stage.src, stage.dst)
        time.sleep(delay_s)
        running.kill()
    sync_when_it_may(tool, stage)
    assert differences(stage.src, stage.dst) == []


@claimants(Claim.RESUMES_INSIDE)
def test_a_large_file_goes_on_from_its_middle(tool: Tool, stage: Stage) -> None:
    data = os.urandom(48 * MEBIBYTE)
    make(stage.src / "large", data)
    assert kill_at(tool, stage, size=24 * MEBIBYTE, rate="60M")
    assert not (stage.dst / "large").exists()
    moved = sync_when_it_may(tool, stage)
    assert moved < 40 * MEBIBYTE
    assert (stage.dst / "large").read_bytes() == data
    assert differences(stage.src, stage.dst) == []
