"""Connections that are dead while neither side is told, as when a gateway forgets them."""

import asyncio
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from filesync.errors import Unavailable
from filesync.manifest import MemoryNodes
from filesync.sync.options import Options
from filesync.sync.places import Claimed, ServedPlaces
from filesync.sync.remote import asking, waiting, wire
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.server import TreeServer
from filesync.transfer.connection import (
    calls_zmq,
    channel_zmq,
    guard_zmq,
    links_zmq,
    listener_zmq,
)
from filesync.transfer.connection import link_zmq as data_link
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.receive import pull_zmq
from filesync.transfer.receive.receiver import Receiver
from filesync.transfer.wire import Frame, Ping, encode
from solver.client import link_zmq as client_link
from solver.manager import process as manager_process
from solver.manager import server_zmq
from solver.manager.process import open_manager
from solver.wire import Have, Lack
from tests.integration.gateway import Gateway, gateway
from tests.integration.test_hostile_sockets import frame, greeting, hello, read, ready
from tests.integration.test_restarts import until
from tests.integration.test_sync_plane import LOOPBACK
from tests.unit.solver.fakes import plant
from worker import link_zmq
from worker.options import WorkerOptions
from worker.process import run_worker
from worker.wire import orders


def joined(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("worker joined worker=w1")


def test_a_worker_whose_connection_was_forgotten_comes_back_and_the_manager_lets_go_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(orders, "ALIVE_S", 0.1)
    monkeypatch.setattr(link_zmq, "SILENT_S", 0.3)
    monkeypatch.setattr(guard_zmq, "LOOK_S", 0.1)
    limits = manager_process.LIMITS
    monkeypatch.setattr(manager_process, "LIMITS", limits._replace(silent_s=3.0))
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


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have data planes give silent connections up at once."""
    monkeypatch.setattr(listener_zmq, "PING_S", 0.05)
    monkeypatch.setattr(listener_zmq, "LIMITS", listener_zmq.LIMITS._replace(silent_s=0.5))
    monkeypatch.setattr(links_zmq, "GUARD_AFTER_S", 0.1)
    monkeypatch.setattr(guard_zmq, "LOOK_S", 0.1)


def test_who_has_dialled_a_listener_that_falls_silent_notices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch)

    async def run() -> None:
        lost = asyncio.Event()
        async with (
            asyncio.timeout(20),
            DataPlane("tcp://127.0.0.1:0") as listener,
            gateway(listener.address) as between,
            DataPlane() as dialler,
        ):
            channel = await dialler.connect(between.address)
            channel.on_lost.append(lambda _: lost.set())
            await asyncio.sleep(1.0)
            assert channel.lost is None
            between.forget()
            await lost.wait()
            assert isinstance(channel.lost, Unavailable)

    asyncio.run(run())


def test_who_has_dialled_is_heard_though_what_the_listener_says_is_long_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_link, "PING_S", 0.05)

    async def run() -> None:
        async with (
            asyncio.timeout(4.5),  # by then the listener has said nothing
            DataPlane("tcp://127.0.0.1:0") as listener,
            DataPlane() as dialler,
        ):
            await dialler.connect(listener.address)
            heard = listener.counters.wire_in
            await asyncio.sleep(1.0)
            assert listener.counters.wire_in >= heard + 5 * len(encode(Ping())[0])

    asyncio.run(run())


def test_a_listener_lets_go_of_who_has_dialled_and_falls_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    impatient(monkeypatch)

    async def run() -> None:
        async with (
            asyncio.timeout(20),
            DataPlane("tcp://127.0.0.1:0") as listener,
            gateway(listener.address) as between,
            DataPlane() as dialler,
        ):
            await dialler.connect(between.address)
            await asyncio.sleep(1.0)
            assert "fell silent" not in caplog.text
            between.forget()
            await asyncio.to_thread(until, lambda: "fell silent" in caplog.text)

    asyncio.run(run())


def test_who_waits_for_a_reader_of_its_listing_is_still_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/new").write_bytes(b"new")
    (tmp_path / "served/dest").mkdir(parents=True)
    (tmp_path / "served/dest/old").write_bytes(b"old")
    listed: list[str] = []

    def read_slowly(changes: Iterator[str]) -> None:
        time.sleep(1.5)
        listed.extend(changes)

    async def run() -> None:
        server = TreeServer(ServedPlaces(tmp_path / "served"), read_only=False, caches=None)
        async with asyncio.timeout(20), DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            await sync_to(
                [os.fsencode(tmp_path / "src") + b"/"],
                Remote(plane.address, b"dest"),
                Options(on_changes=read_slowly),
            )

    asyncio.run(run())
    assert listed
    assert (tmp_path / "served/dest/new").read_bytes() == b"new"


@pytest.mark.parametrize("is_given", [True, False], ids=["given", "taken"])
def test_what_takes_a_slow_link_longer_than_a_peer_may_be_silent_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_given: bool
) -> None:
    """A frame takes seconds, and so do an answer, and what waits for room behind both."""
    monkeypatch.setattr(guard_zmq, "LOOK_S", 0.1)
    monkeypatch.setattr(channel_zmq, "STUCK_S", 0.5)
    monkeypatch.setattr(asking, "STALL_S", 0.5)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    content = random.Random(1).randbytes(900_000)
    (tmp_path / "a/file").write_bytes(content)
    for number in range(1000):
        (tmp_path / f"a/{number:0100}").touch()

    async def run() -> None:
        served = "b" if is_given else "a"
        server = TreeServer(ServedPlaces(tmp_path / served), read_only=False, caches=None)
        async with (
            asyncio.timeout(30),
            DataPlane(LOOPBACK, answer=server.answer) as plane,
            gateway(plane.address, bytes_per_s=400_000) as between,
        ):
            server.use(plane)
            there = Remote(between.address, b"")
            if is_given:
                await sync_to([os.fsencode(tmp_path / "a") + b"/"], there, Options())
            else:
                await sync_from([there], os.fsencode(tmp_path / "b"), Options())

    monkeypatch.setattr(pull_zmq, "Receiver", partial(in_haste, Receiver))
    asyncio.run(run())
    assert (tmp_path / "b/file").read_bytes() == content


def test_a_tree_that_takes_longer_to_a_manager_than_it_may_take_for_an_answer_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit_s in (("LOOK_S", 0.05), ("QUIET_S", 0.1), ("CLIENT_SILENCE_S", 0.5)):
        monkeypatch.setattr(server_zmq, name, limit_s)
    for name, limit_s in (("ALIVE_EVERY_S", 0.2), ("SILENCE_S", 0.5), ("ANSWER_S", 1.0)):
        monkeypatch.setattr(client_link, name, limit_s)
    nodes = MemoryNodes()
    tree = plant(nodes, {f"{number}": f"{number}" for number in range(6000)})

    async def run() -> None:
        async with (
            asyncio.timeout(20),
            open_manager("tcp://127.0.0.1:0", tmp_path) as manager,
            gateway(manager.address, bytes_per_s=100_000) as between,
            client_link.ManagerLink(between.address) as link,
        ):
            began_s = time.monotonic()
            await link.send_trees([tree])
            await link.ask(Have((tree.tree,)), Lack)
            assert time.monotonic() - began_s > 2.0

    asyncio.run(run())


def test_a_worker_bears_with_a_manager_of_whom_a_long_message_is_still_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(orders, "ALIVE_S", 0.1)
    monkeypatch.setattr(link_zmq, "SILENT_S", 0.3)

    async def run() -> None:
        over = asyncio.Event()

        async def stopped() -> None:
            await over.wait()

        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as manager:
            manager.linger = 0
            port = manager.bind_to_random_port("tcp://127.0.0.1")
            async with (
                asyncio.timeout(20),
                gateway(f"tcp://127.0.0.1:{port}", bytes_per_s=50_000) as between,
                asyncio.TaskGroup() as group,
            ):
                options = WorkerOptions(
                    between.address, "tcp://127.0.0.1:0", tmp_path, "w1", snapshotter="copy"
                )
                group.create_task(run_worker(options, ready=lambda _: None, stopped=stopped))
                worker, *_ = await manager.recv_multipart()
                pack = bytes(150_000)
                await manager.send_multipart([worker, *orders.encode(orders.Nodes(), pack)])
                await asyncio.sleep(1.0)
                assert "fallen silent" not in caplog.text
                between.forget()
                await asyncio.to_thread(until, lambda: "fallen silent" in caplog.text)
                over.set()

    asyncio.run(run())


def in_haste(make: Callable[..., Receiver], *args: object, **options: object) -> Receiver:
    return make(*args, **options | {"stall_s": 0.5})


SUSPENDED = """
import asyncio, sys, time
from filesync.transfer.errors import Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.receive import pull_zmq
from filesync.transfer.receive.receiver import Receiver

async def main():
    async with DataPlane() as plane:
        lost = asyncio.Event()
        channel = await plane.connect(sys.argv[1])
        channel.on_lost.append(lambda _: lost.set())
        print("takes nothing", flush=True)
        time.sleep(1)
        await lost.wait()
        print(channel.lost)

asyncio.run(main())
"""


def test_who_takes_nothing_while_its_peer_goes_away_lives_on_and_notices() -> None:
    # As one that was suspended.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-c", SUSPENDED, address], stdout=subprocess.PIPE, text=True
        ) as dialler:
            peer, _ = listening.accept()
            peer.sendall(greeting(b"NULL") + ready(b"ROUTER"))
            read(peer, len(greeting(b"NULL") + ready()))
            peer.sendall(hello())
            assert dialler.stdout is not None
            dialler.stdout.readline()
            peer.sendall(1000 * frame(bytes(encode(Ping())[0])))
            # Without a word of farewell.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.2)
            peer.close()
            said, _ = dialler.communicate(timeout=30)
            assert dialler.returncode == 0
            assert "closed the connection" in said


async def prepare(plane: DataPlane, address: str) -> str:
    """Have ``dest`` be claimed over a connection that stays; return how that is refused, if it is."""
    channel = await plane.connect(address)
    try:
        await calls_zmq.call(channel, wire.encode(wire.Prepare(b"dest/")))
    except Refused as exc:
        return exc.reason
    return ""


def contend(root: Path, behave: Callable[[Channel, Gateway], Awaitable[None]]) -> str:
    """Have somebody claim a place of a server, and ``behave``; return how the next one is refused, if he is."""

    async def run() -> str:
        server = TreeServer(ServedPlaces(root), read_only=False, caches=None)
        async with (
            asyncio.timeout(20),
            DataPlane(LOOPBACK, answer=server.answer) as plane,
            gateway(plane.address, bytes_per_s=200_000) as between,
            DataPlane() as giver,
            DataPlane() as other,
        ):
            server.use(plane)
            assert await prepare(giver, between.address) == ""
            await behave(await giver.connect(between.address), between)
            return await prepare(other, plane.address)

    return asyncio.run(run())


@pytest.fixture
def _soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_zmq, "LOOK_S", 0.1)
    monkeypatch.setattr(waiting, "KNOWN_S", 0.3)
    monkeypatch.setattr(waiting, "SILENT_S", 1.5)


@pytest.mark.usefixtures("_soon_silent")
def test_who_is_silent_does_not_keep_a_place_from_others(tmp_path: Path) -> None:
    """As where a machine was put to sleep: it takes a minute until its connection is cut."""

    async def sleep(_: Channel, between: Gateway) -> None:
        between.forget()

    assert contend(tmp_path, sleep) == ""


@pytest.mark.usefixtures("_soon_silent")
def test_who_is_there_keeps_a_place_from_others(tmp_path: Path) -> None:
    async def do_nothing(_: Channel, __: Gateway) -> None:
        pass

    assert contend(tmp_path, do_nothing) == Claimed.code


@pytest.mark.usefixtures("_soon_silent")
def test_who_answers_over_a_slow_link_keeps_a_place_from_others(tmp_path: Path) -> None:
    """What it answers stands behind what is under way, and only the kernel knows of that."""

    async def send(channel: Channel, _: Gateway) -> None:
        await channel.send(Frame(1, 1_000_000), random.Random(1).randbytes(1_000_000))

    assert contend(tmp_path, send) == Claimed.code
