"""A worker whose threads all have work for long is there all the same."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from filesync.disk.statedir import LOCK
from tests.integration.layer_pair import Side
from worker import link_zmq
from worker.wire.leases import RenewLeases
from worker.wire.orders import Finished, Heartbeat


@asynccontextmanager
async def busy() -> AsyncIterator[None]:
    """Have all threads of the loop's work while the block runs, which must not wait for one."""
    is_over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    work = loop.run_in_executor(None, is_over.wait)
    giving_up = loop.call_later(5, is_over.set)
    try:
        yield
        assert not is_over.is_set()
    finally:
        giving_up.cancel()
        is_over.set()
        await work


async def test_a_worker_says_that_it_is_there_while_all_its_threads_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_zmq, "HEARTBEAT_S", 0.01)
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        (side.state / LOCK).touch()
        link = side.link()
        beating = asyncio.create_task(link._beat())
        async with busy():
            for _ in range(3):
                assert await link._queue.get() == (Heartbeat(), b"")
        beating.cancel()


async def test_a_lease_is_renewed_while_all_threads_are_busy(tmp_path: Path) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        info = side.commit({"file": b"text"})
        leases = side.service.leases
        leases.hold(b"l" * 16, info.ref, 0.0)
        async with busy():
            renewing = RenewLeases((b"l" * 16,), 60.0)
            assert await side.service.perform(1, renewing, lambda _: None) == Finished()
        leases.expire()
        assert leases.refs() == {info.ref}
