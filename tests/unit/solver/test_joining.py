"""Workers that come: what a manager learns of what they hold."""

import asyncio

from filesync.digest import Digest
from solver.manager.cluster import Cluster
from solver.manager.joining import Joining, Peer
from solver.manager.sending_zmq import Sending
from solver.manager.workers import Sent
from solver.wire import ToClient
from tests.unit.solver.fakes import World, digest, plant
from worker.wire import orders
from worker.wire.orders import VERSION, RefInfo, Register, ToWorker


class Answering(Sending):
    """Answers orders as a worker does that has removed some trees meanwhile."""

    def __init__(self, cluster: Cluster, removed: set[Digest]) -> None:
        self._cluster = cluster
        self._removed = removed

    async def send(
        self, identity: bytes, message: ToClient | ToWorker, payload: bytes = b""
    ) -> Sent:
        match message:
            case orders.Order(number, orders.ReadTree(tree)):
                worker = self._cluster.identified(identity)
                assert worker is not None
                gone = orders.Failed("node-missing", "not here any more")
                worker.answer(number, gone if tree in self._removed else orders.Finished())
            case _:
                pass
        return Sent.UNDER_WAY


async def test_what_a_worker_removes_while_it_is_learnt_keeps_nothing_else_from_being_learnt(
    world: World,
) -> None:
    tree = plant(world.nodes, {"file": "text"}).tree
    first, last = RefInfo(digest("first"), tree), RefInfo(digest("last"), tree)
    removed = RefInfo(digest("removed"), digest("its tree"))
    on_it = RefInfo(digest("on it"), tree, removed.ref)
    # Its worker was killed as it found that something was made on what it had just removed.
    on_nothing = RefInfo(digest("on nothing"), tree, digest("what is not there"))
    refs = (first, removed, on_it, on_nothing, last)
    hello = Register(VERSION, "a", "a", {}, 1, "tcp://a", "fake", refs=refs)
    sending = Answering(world.shared.cluster, {removed.tree})
    async with asyncio.TaskGroup() as group:
        joining = Joining(world.shared, sending, None)
        await joining.register(Peer(b"a", None, 0), hello, group)
    worker = world.shared.cluster.named("a")
    assert worker is not None
    assert worker.refs == {first.ref, last.ref}, "a chain is known whole, or is not"
