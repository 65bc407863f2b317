"""Connections that are dead while neither side is told, as when a gateway forgets them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from filesync.transfer.connection import channel_zmq
from solver.manager.process import open_manager
from tests.integration.test_restarts import until
from worker.process import WorkerOptions, run_worker


class Gateway:
    """Passes connections on to a port.

    Attributes:
        address: where it listens.
        forgotten_ends: released when either end gives up a connection that was forgotten.
        all_ended: set while nothing is passed on.
    """

    def __init__(self, behind: str) -> None:
        self._port = int(behind.rpartition(":")[2])
        self._forgotten: list[asyncio.Event] = []
        self._passing = 0
        self.address = ""
        self.forgotten_ends = asyncio.Semaphore(0)
        self.all_ended = asyncio.Event()

    def forget(self) -> None:
        """Pass on nothing more of the connections that there are, and tell nobody."""
        for forgotten in self._forgotten:
            forgotten.set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        forgotten = asyncio.Event()
        self._forgotten.append(forgotten)
        self._passing += 1
        self.all_ended.clear()
        there = self._carry(reader, far_writer, forgotten)
        await asyncio.gather(there, self._carry(far_reader, writer, forgotten))
        for one in (writer, far_writer):
            one.close()
        self._passing -= 1
        if not self._passing:
            self.all_ended.set()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        forgotten: asyncio.Event,
    ) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65_536):
                if not forgotten.is_set():
                    writer.write(piece)
        if forgotten.is_set():
            self.forgotten_ends.release()
        else:
            writer.close()


@asynccontextmanager
async def gateway(behind: str) -> AsyncIterator[Gateway]:
    one = Gateway(behind)
    server = await asyncio.start_server(one.take, "127.0.0.1", 0)
    one.address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        await one.all_ended.wait()


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
