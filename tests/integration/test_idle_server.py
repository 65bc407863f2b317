"""A server that nobody uses any more gives back the memory that it has used."""

import asyncio
import os
from pathlib import Path

import pytest

from filesync import memory
from filesync.sync.options import Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote import holders
from filesync.sync.remote.client import Remote, sync_to
from filesync.sync.remote.server import TreeServer
from filesync.transfer.plane_zmq import DataPlane
from tests.integration.test_sync_plane import LOOPBACK


def test_memory_is_given_back_some_time_after_the_last_client_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "IDLE_S", 0.3)
    given_back: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        is_given = asyncio.Event()

        def give_back() -> None:
            given_back.append(loop.time())
            loop.call_soon_threadsafe(is_given.set)

        monkeypatch.setattr(memory, "give_back", give_back)
        server = TreeServer(ServedPlaces(tmp_path), read_only=False, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            remote = Remote(plane.address, b"dest")
            ended = 0.0
            for _ in range(3):
                await sync_to([os.fsencode(tmp_path / "src") + b"/"], remote, Options())
                ended = loop.time()
            await is_given.wait()
            assert given_back[0] - ended > 0.2
            await asyncio.sleep(0.5)
            assert len(given_back) == 1

    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_bytes(b"content")
    asyncio.run(asyncio.wait_for(main(), 20))


def test_giving_back_does_no_harm() -> None:
    used = [bytes(1000) for _ in range(100_000)]
    del used[::2]
    memory.give_back()
    assert all(not any(one) for one in used[::1000])
