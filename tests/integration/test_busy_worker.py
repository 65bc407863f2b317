"""A worker whose threads all have work for long is there all the same."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from filesync.disk.statedir import LOCK
from tests.integration.layer_pair import Side
from worker import link_zmq
from worker.wire.orders import Heartbeat


async def test_a_worker_says_that_it_is_there_while_all_its_threads_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_zmq, "HEARTBEAT_S", 0.01)
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        (side.state / LOCK).touch()
        link = side.link()
        is_over = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        work = loop.run_in_executor(None, is_over.wait)
        beating = asyncio.create_task(link._beat())
        try:
            async with asyncio.timeout(5):
                for _ in range(3):
                    assert await link._queue.get() == (Heartbeat(), b"")
        finally:
            is_over.set()
            beating.cancel()
            await asyncio.gather(work, beating, return_exceptions=True)
