"""A manager that many peers tell all that its messages can say, and cannot, in no order."""

import asyncio
import random
from contextlib import ExitStack
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from solver.client.link_zmq import ManagerLink
from solver.manager.process import open_manager
from solver.wire import EndBuild, ListWorkers, Workers
from tests.fuzz import cluster, mutation
from worker.wire import orders
from worker.wire.orders import Heartbeat, Leaving, Outcome, RefInfo, Register

ROUNDS, MESSAGES, PEERS = 50, 80, 8
HELD = RefInfo(cluster.CONTENT, cluster.TREE.tree, created_s=1.0)
SAID = [
    *(data[1:] for data in cluster.seeds() if data[:1] == cluster.TO_MANAGER),
    *map(
        msgspec.msgpack.encode,
        (
            Register(orders.VERSION, "w1", "i", {}, 2, "tcp://127.0.0.1:1", "copy", (HELD,)),
            Register(orders.VERSION, "w1", "j", {}, 2, "tcp://127.0.0.1:1", "copy"),
            Heartbeat((orders.SourceInfo("a", cluster.TREE.tree),)),
            Outcome(1, orders.Ran(HELD)),
            Outcome(2, orders.Failed("unavailable", "")),
            Leaving(),
            EndBuild(),
        ),
    ),
]


def nonsense(rng: random.Random) -> bytes:
    """Return a message, or what has become of one."""

    def mutate(data: bytes) -> bytes:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.randbytes(rng.randrange(4)) + data[at + rng.randrange(4) :]

    said = rng.choice(SAID)
    return mutation.mutated(said, rng, mutate) if rng.random() < 0.3 else said


async def talk(address: str, rng: random.Random) -> None:
    """Have some peers say much; who has said what is no message is not heard any more."""
    with zmq.asyncio.Context() as context, ExitStack() as stack:
        peers = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(PEERS)]
        for peer in peers:
            peer.connect(address)
        for _ in range(MESSAGES):
            await rng.choice(peers).send(nonsense(rng))


def test_a_manager_that_is_told_nonsense_answers_who_is_honest(tmp_path: Path) -> None:
    rng = random.Random(1)

    async def main() -> None:
        async with (
            asyncio.timeout(60),
            open_manager("tcp://127.0.0.1:0", tmp_path / "state") as manager,
        ):
            for _ in range(ROUNDS):
                await talk(manager.address, rng)
                async with ManagerLink(manager.address) as honest:
                    await honest.ask(ListWorkers(), Workers)

    asyncio.run(main())
