"""What a client is told of how far a sync with a server has come."""

import asyncio
import os
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest

from filesync.disk.updating.write import Maker
from filesync.sync.options import Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote import moving
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.server import TreeServer
from filesync.transfer.flow import Flow
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.stats import Progress
from tests.integration.ways import Way, given, taken

SIZE = 3 << 20


@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("is_new", [True, False])
def test_whoever_gives_or_takes_slowly_is_told_how_far_it_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_given: bool, is_new: bool
) -> None:
    monkeypatch.setattr(moving, "TELL_S", 0.05)
    for name in ("src", "dst"):
        (tmp_path / name).mkdir()
    for number in range(3):
        (tmp_path / f"src/{number}").write_bytes(os.urandom(SIZE))
    if not is_new:
        (tmp_path / "dst/old").write_text("old")
    told: list[Progress] = []
    options = Options(flow=Flow(bytes_per_s=2 * SIZE))

    async def main() -> None:
        server = TreeServer(ServedPlaces(tmp_path), read_only=False, caches=None)
        async with DataPlane("tcp://127.0.0.1:0", answer=server.answer) as plane:
            server.use(plane)
            near, far = ("src", "dst") if is_given else ("dst", "src")
            here, there = (
                os.fsencode(tmp_path / near),
                Remote(plane.address, far.encode() + b"/"),
            )
            if is_given:
                await sync_to([here + b"/"], there, options, progress=told.append)
            else:
                await sync_from([there], here, options, progress=told.append)

    asyncio.run(main())
    assert len(told) > 3
    assert all(one.content_bytes <= two.content_bytes for one, two in pairwise(told))
    assert 0 < told[0].content_bytes < 3 * SIZE
    assert told[-1].content_bytes <= 3 * SIZE
    assert max(one.files for one in told) in (2, 3)


@pytest.mark.parametrize("way", [given, taken])
def test_it_is_told_how_far_copies_of_what_is_there_have_come(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "TELL_S", 0.02)
    real = Maker.copy

    def copy(*arguments: object, **others: object) -> bool:
        time.sleep(0.02)
        return real(*arguments, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(Maker, "copy", copy)
    (tmp_path / "src/a").mkdir(parents=True)
    for number in range(10):
        (tmp_path / f"src/a/{number}").write_bytes(b"%d" % number * 1000)
    shutil.copytree(tmp_path / "src", tmp_path / "dest")
    shutil.copytree(tmp_path / "src/a", tmp_path / "src/b")
    told: list[Progress] = []
    stats = asyncio.run(way(tmp_path, progress=told.append))
    assert stats.files == 0  # none has come over the wire
    assert len(told) > 3
    assert all(one.content_bytes <= two.content_bytes for one, two in pairwise(told))
    assert 0 < told[0].content_bytes < told[-1].content_bytes <= 10_000
    assert 0 < told[-1].files <= 10
