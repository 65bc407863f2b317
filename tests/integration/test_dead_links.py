"""Connections that are dead while neither side is told, as when a gateway forgets them."""

import asyncio
import logging
from pathlib import Path

import pytest

from filesync.transfer.connection import channel_zmq
from solver.manager.process import open_manager
from tests.integration.gateway import gateway
from tests.integration.test_restarts import until
from worker.process import WorkerOptions, run_worker


def joined(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("worker joined worker=w1")


def test_a_worker_whose_connection_was_forgotten_comes_back_and_the_manager_lets_go_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel_zmq, "BEAT_S", 0.1)
    monkeypatch.setattr(channel_zmq, "BEAT_PATIENCE_S", 0.3)
    caplog.set_level(logging.INFO)

    async def run() -> None:
        over = asyncio.Event()

        async def stopped() -> None:
            await over.wait()

        async with (
            asyncio.timeout(20),
            open_manager("tcp://127.0.0.1:0", tmp_path / "manager") as manager,
            gateway(manager.address) as between,
            asyncio.TaskGroup() as group,
        ):
            options = WorkerOptions(
                between.address, "tcp://127.0.0.1:0", tmp_path / "w1", "w1", snapshotter="copy"
            )
            group.create_task(run_worker(options, ready=lambda _: None, stopped=stopped))
            await asyncio.to_thread(until, lambda: joined(caplog) == 1)
            between.forget()
            for _ in ("worker", "manager"):
                await between.forgotten_ends.acquire()
            await asyncio.to_thread(until, lambda: joined(caplog) == 2)
            over.set()

    asyncio.run(run())
