"""What the manager tells a worker of orders that it does not want carried out any more."""

import asyncio

import pytest

from filesync.digest import Digest
from filesync.errors import StoreError
from filesync.manifest import EMPTY_DIRECTORY, MemoryNodes, put, subdirectory, with_entries
from solver.errors import OrderFailed, WorkerLost
from solver.manager.build import RETRIED
from solver.manager.workers import Sent, WorkerLink
from tests.unit.made import file
from worker.wire import orders
from worker.wire.orders import VERSION, Offered, Order, Ran, RefInfo, Register, Release, Result

TREE = Digest(b"t" * 32)
OFFER = orders.Offer(TREE)
OFFERED = Offered(b"k" * 16, TREE)
SOURCE = Ran(RefInfo(TREE, TREE, source=True))
KEPT = Ran(RefInfo(TREE, TREE))


class Worker:
    """A link, and what was sent over it."""

    def __init__(self) -> None:
        self.told: list[orders.ToWorker] = []
        self.reads = True
        hello = Register(VERSION, "a", "a", {}, 1, "tcp://a", "fake")
        self.link = WorkerLink(b"a", hello, self._send, 0.0)
        self.number = 0

    async def _send(self, _: bytes, message: orders.ToWorker, payload: bytes) -> Sent:
        self.told.append(message)
        return Sent.UNDER_WAY if self.reads else Sent.NO_ROOM

    async def asked(self) -> "asyncio.Task[Result]":
        """Give an order, and return who waits for its answer."""
        asking = asyncio.create_task(self.link.call(OFFER))
        await asyncio.sleep(0)
        (order,) = self.told
        assert isinstance(order, Order)
        assert order.body == OFFER
        self.number = order.id
        return asking


@pytest.fixture
def worker() -> Worker:
    return Worker()


async def test_a_call_that_is_cancelled_cancels_its_order(worker: Worker) -> None:
    asking = await worker.asked()
    asking.cancel()
    await asyncio.wait([asking])
    assert worker.told[1:] == [orders.Cancel(worker.number)]


async def test_an_order_that_its_worker_does_not_read_fails_and_may_be_given_again(
    worker: Worker,
) -> None:
    worker.reads = False
    async with asyncio.timeout(5):
        with pytest.raises(OrderFailed) as caught:
            await worker.link.call(OFFER)
    assert caught.value.reason in RETRIED
    worker.reads = True
    worker.told.clear()
    asking = await worker.asked()
    assert worker.link.answer(worker.number, OFFERED)
    assert await asking == OFFERED


@pytest.mark.parametrize(
    ("answer", "release"),
    [
        (OFFERED, Release(tokens=(OFFERED.token,))),
        (SOURCE, Release(sources=(TREE,))),
    ],
)
async def test_what_an_answer_keeps_that_crossed_the_cancellation_is_released(
    worker: Worker, answer: Result, release: Release
) -> None:
    asking = await worker.asked()
    asking.cancel()
    await asyncio.wait([asking])
    assert not worker.link.answer(worker.number, answer)
    await worker.link.release(answer)
    assert worker.told[1:] == [orders.Cancel(worker.number), Order(worker.number + 1, release)]


async def test_what_is_answered_to_somebody_who_is_cancelled_just_then_is_released(
    worker: Worker,
) -> None:
    asking = await worker.asked()
    assert worker.link.answer(worker.number, OFFERED)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert worker.told[1:] == [Order(worker.number + 1, Release(tokens=(OFFERED.token,)))]


async def test_an_answer_of_trees_that_cannot_be_kept_fails_for_that_and_is_let_go_of(
    worker: Worker,
) -> None:
    asking = await worker.asked()
    worker.link.unkept = StoreError("the disk is full")
    assert not worker.link.answer(worker.number, OFFERED), "nobody has use for it"
    with pytest.raises(StoreError, match="the disk is full"):
        await asking
    worker.told.clear()
    asking = await worker.asked()
    assert worker.link.answer(worker.number, OFFERED)
    assert await asking == OFFERED


async def test_who_is_cancelled_as_an_answer_cannot_be_kept_is_cancelled(
    worker: Worker,
) -> None:
    asking = await worker.asked()
    worker.link.unkept = StoreError("the disk is full")
    assert not worker.link.answer(worker.number, OFFERED)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert len(worker.told) == 1


async def test_an_answer_that_keeps_nothing_is_just_dropped(worker: Worker) -> None:
    for answer in (KEPT, orders.Finished(), orders.Failed("cancelled", "it was cancelled")):
        assert not worker.link.answer(7, answer)
        await worker.link.release(answer)
    assert worker.told == []


async def test_what_was_asked_before_it_registered_anew_answers_no_other_order(
    worker: Worker,
) -> None:
    asking = await worker.asked()
    worker.link.lose()
    with pytest.raises(WorkerLost):
        await asking
    again = Worker()
    waiting = await again.asked()
    assert not again.link.answer(worker.number, KEPT)
    again.link.answer(again.number, OFFERED)
    assert await waiting == OFFERED


async def test_while_a_large_tree_is_sent_others_have_their_turns(worker: Worker) -> None:
    nodes = MemoryNodes()
    files = [file(b"%07d" % number, b"") for number in range(40_000)]
    below = [
        subdirectory(nodes, b"%d" % n, put(nodes, with_entries(EMPTY_DIRECTORY, files[n::4])))
        for n in range(4)
    ]
    tree = put(nodes, with_entries(EMPTY_DIRECTORY, below))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(other())
    await worker.link.send_tree(nodes, tree)
    others.cancel()
    assert len(worker.told) > 2
    assert turns >= len(worker.told)
