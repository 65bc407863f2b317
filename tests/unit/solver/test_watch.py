"""Whom a manager misses, when several fall silent at a time."""

import asyncio
import time
from typing import cast

import pytest
import zmq.asyncio

from filesync.manifest import MemoryNodes, missing_nodes
from filesync.manifest.pack import pack_nodes
from filesync.manifest.store import SqliteNodes
from filesync.transfer.connection.guard_zmq import SocketGuard
from filesync.transfer.stats import Moved
from solver.manager import cluster, server_zmq
from solver.manager.clients import ClientLink
from solver.manager.joining import Peer
from solver.manager.moving.offers import quietly
from solver.manager.outbox import Outbox
from solver.manager.server_zmq import CLIENT_SILENCE_S, QUIET_S, Server
from solver.manager.workers import Sent, WorkerLink
from solver.wire import Alive, encode
from tests.unit.solver.fakes import World, plant
from worker.wire import orders
from worker.wire.orders import VERSION


async def _to_worker(*_: object) -> Sent:
    return Sent.UNDER_WAY


async def _to_client(*_: object) -> None:
    pass


def _silent_client(world: World) -> ClientLink:
    since_s = time.monotonic() - CLIENT_SILENCE_S - 1
    return ClientLink(b"c", world.shared, Outbox(_to_client), lambda: (0, 0), since_s)


def _server(world: World, client: ClientLink) -> Server:
    nodes, socket = cast(SqliteNodes, None), cast(zmq.asyncio.Socket, None)
    server = Server(world.shared, nodes, socket, cast(SocketGuard, None))
    server._clients[client.identity] = (client, asyncio.create_task(client.outbox.pump()))
    return server


async def test_a_build_that_ends_without_its_client_keeps_no_silent_worker_from_being_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_zmq, "LOOK_S", 0.01)
    monkeypatch.setattr(cluster, "SILENCE_S", 0.1)
    shared = world.shared
    hello = orders.Register(VERSION, "w1", "", {}, 1, "tcp://127.0.0.1:1", "copy", (), ())
    worker = WorkerLink(b"w", hello, _to_worker, time.monotonic())
    shared.cluster.join(worker)
    client = _silent_client(world)

    async def build() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await quietly(worker.call(orders.Release()))

    client._running = building = asyncio.create_task(build())
    await asyncio.sleep(0)
    server = _server(world, client)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(server._watch(group))
        ended, _ = await asyncio.wait([building], timeout=5)
        watching.cancel()
    assert ended
    assert not len(shared.cluster)
    assert not server._clients


async def test_a_client_that_sends_a_tree_is_not_silent(world: World) -> None:
    client = _silent_client(world)
    server = _server(world, client)
    tree = plant(MemoryNodes(), {"file": "text"})
    (pack,) = pack_nodes(missing_nodes(tree.nodes, tree.tree, lambda _: False))
    await server._take_nodes(Peer(client.identity, None, -1), pack)
    assert time.monotonic() - client.last_s < CLIENT_SILENCE_S


class _Guard:
    """Of connections over which so much has come."""

    came = 0

    def moved(self, _: int) -> Moved:
        return Moved(came=self.came)

    def greeted(self, _: int) -> None:
        pass


async def test_a_worker_of_whom_a_long_message_is_still_coming_is_not_silent(
    world: World,
) -> None:
    hello = orders.Register(VERSION, "w1", "", {}, 1, "tcp://127.0.0.1:1", "copy", (), ())
    worker = WorkerLink(b"w", hello, _to_worker, last_s=0.0)
    world.shared.cluster.join(worker)
    server = _server(world, _silent_client(world))
    guard = _Guard()
    server._guard = cast(SocketGuard, guard)
    server._lines[7] = worker.identity, 0
    for now_s, came in ((QUIET_S, 10), (QUIET_S + 1, 20), (100.0, 30), (200.0, 30)):
        guard.came = came
        server._hear(now_s)
        heard_s = {QUIET_S: 0.0, QUIET_S + 1: QUIET_S + 1}.get(now_s, 100.0)
        assert worker.last_s == heard_s


async def test_who_speaks_where_a_worker_was_connected_is_not_taken_for_that_worker(
    world: World,
) -> None:
    hello = orders.Register(VERSION, "w1", "", {}, 1, "tcp://127.0.0.1:1", "copy", (), ())
    worker = WorkerLink(b"w", hello, _to_worker, last_s=0.0)
    world.shared.cluster.join(worker)
    client = _silent_client(world)
    server = _server(world, client)
    guard = _Guard()
    server._guard = cast(SocketGuard, guard)
    server._lines[7] = worker.identity, 0
    async with asyncio.TaskGroup() as group:
        frames = [bytes(one) for one in encode(Alive())]
        await server._receive(Peer(client.identity, None, 7), frames, group)
    guard.came = 100
    server._hear(100.0)
    assert worker.last_s == 0.0
