"""A worker's order that is cancelled while a thread is at something leaves nothing of it behind."""

import asyncio
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from filesync.digest import Digest
from filesync.errors import StoreError
from filesync.manifest.pack import accept_pack, pack_nodes
from tests.integration.layer_pair import Side
from tests.unit.cancelling import Held, cancel_during, open_below
from worker import exports, run
from worker.moving import chains
from worker.options import WorkerOptions
from worker.process import run_worker
from worker.snapshots.mounts import mounts_below
from worker.store import Store
from worker.wire import leases, orders
from worker.wire.ops import FileOp, LocalOp, MakeFile
from worker.wire.orders import FromLocal, FromPaths, Offered, OrderBody, RefInfo, Replica

LOOKS: Final = 1000

FILES = {f"d/f{n}": random.Random(n).randbytes(40_000) for n in range(20)}
MADE = FileOp((MakeFile("/made", b"text"),), scratch=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a worker's store is in use, or half made."""

    unfinished: frozenset[str]
    read: frozenset[str]
    sources: frozenset[tuple[str, str]]
    held: int
    offers: int
    work: frozenset[str]
    mounts: int
    files: tuple[str, ...]


def kept(side: Side) -> Kept:
    """Return that; orders that leave nothing leave it as it was."""
    store = side.store
    rows = store.snapshots._records.all()
    found = store.sources._execute("SELECT id, state FROM sources WHERE state != 'idle'")
    return Kept(
        frozenset(row.id for row in rows) - store.refs.snapshots(),
        frozenset(store.snapshots.in_use()),
        frozenset(found),
        len(store._held),
        len(side.service._open) + len(side.plane._outgoing._offers),
        frozenset(os.listdir(store.work)),
        len(list(mounts_below(side.state))),
        tuple(open_below(side.state)),
    )


@pytest.fixture
def hold() -> Iterator[Callable[[Any, str], Held[..., Any]]]:
    with pytest.MonkeyPatch.context() as patch:

        def held(where: Any, name: str) -> Held[..., Any]:  # noqa: ANN401
            call = Held(getattr(where, name))
            patch.setattr(where, name, call)
            return call

        yield held


Hold = Callable[[Any, str], Held[..., Any]]


async def cancelled(side: Side, order: OrderBody, held: Held[..., Any]) -> None:
    """Check that ``order``, cancelled at ``held``, leaves all as it was, as soon as its threads end."""
    before = kept(side)
    await cancel_during(side.service.perform(1, order, lambda _: None), held)
    assert held.made is not None
    for _ in range(LOOKS):
        if kept(side) == before:
            break
        await asyncio.sleep(0.01)
    assert kept(side) == before


async def paths(giver: Side, taker: Side) -> FromPaths:
    """Return the order to sync a result of ``giver``."""
    info = giver.commit(FILES)
    offered = await giver.service.perform(1, orders.Offer(info.ref, None), lambda _: None)
    assert isinstance(offered, Offered)
    for pack in giver.packs(info.tree):
        accept_pack(taker.store.nodes, pack)
    return FromPaths(info.tree, (Replica("giver", giver.plane.address, offered.token),), "key")


def local(tree: Digest, *inputs: orders.InputOrder) -> orders.Run:
    """Return the order that keeps a source."""
    return orders.Run(LocalOp("context", tree, tree), inputs)


# --- ops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prepare", "commit"])
async def test_a_snapshot_that_is_being_made_goes(
    tmp_path: Path, hold: Hold, name: str
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        held = hold(side.store.snapshots, name)
        before = kept(side)
        await cancel_during(side.service.perform(1, orders.Run(MADE, ()), lambda _: None), held)
        assert kept(side) == before


async def test_a_snapshot_that_is_written_to_goes_once_nobody_does(
    tmp_path: Path, hold: Hold
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        held = hold(run, "perform")
        discarded: list[bool] = []
        discard = side.store.snapshots.discard

        def discarding(active: Any) -> None:  # noqa: ANN401
            discarded.append(held.is_over)
            discard(active)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(side.store.snapshots, "discard", discarding)
            await cancelled(side, orders.Run(MADE, ()), held)
        assert discarded == [True]


async def test_a_snapshot_that_cannot_be_kept_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        before = kept(side)
        for where, name in ((side.store.refs, "add"), (side.store.snapshots._driver, "seal")):
            monkeypatch.setattr(where, name, full)
            failed = await side.service.perform(1, orders.Run(MADE, ()), lambda _: None)
            assert isinstance(failed, orders.Failed)
            assert kept(side) == before


@pytest.mark.parametrize(
    "kind", [pytest.param("overlay", marks=pytest.mark.needs("root")), "copy"]
)
async def test_a_file_that_takes_years_to_read_does_not_keep_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    made = threading.Event()

    def make(_op: object, root: Path, *_: object) -> dict[bytes, tuple[int, Digest]]:
        (root / "holes").touch()
        os.truncate(root / "holes", 1 << 43)
        made.set()
        return {}

    monkeypatch.setattr(run, "_do_files", make)
    async with Side(tmp_path / "worker", snapshotter=kind) as side:
        before = kept(side)
        ran = asyncio.create_task(side.service.perform(1, orders.Run(MADE, ()), lambda _: None))
        await asyncio.to_thread(made.wait)
        await asyncio.sleep(0.2)
        ran.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait([ran])
        assert ran.cancelled()
        assert kept(side) == before


async def test_an_input_that_is_being_mounted_is_unmounted(tmp_path: Path, hold: Hold) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        base = side.commit(FILES)
        op = FileOp((MakeFile("/made", b"text"),))
        held = hold(side.store.snapshots, "view")
        await cancelled(side, orders.Run(op, (FromLocal(base.ref),)), held)


@pytest.mark.parametrize("name", ["take", "seal"])
async def test_a_source_that_is_being_filled_is_nobodys(
    tmp_path: Path, hold: Hold, name: str
) -> None:
    async with (
        Side(tmp_path / "worker", snapshotter=None) as side,
        Side(tmp_path / "giver") as giver,
    ):
        order = await paths(giver, side)
        held = hold(side.store.sources, name)
        await cancelled(side, local(order.tree, order), held)
        # What was right is used again, what was not is gone.
        assert [one.tree for one in side.store.sources.idle()] == [order.tree] * (
            name == "seal"
        )


async def test_a_source_that_is_kept_for_nobody_is_given_back(
    tmp_path: Path, hold: Hold
) -> None:
    async with (
        Side(tmp_path / "worker", snapshotter=None) as side,
        Side(tmp_path / "giver") as giver,
    ):
        order = await paths(giver, side)
        base = side.commit(FILES)
        held = hold(side.store.snapshots, "end_view")
        before = kept(side)
        ran = side.service.perform(
            1, local(order.tree, order, FromLocal(base.ref)), lambda _: None
        )
        await cancel_during(ran, held)
        assert kept(side) == before
        assert [one.tree for one in side.store.sources.idle()] == [order.tree]


async def test_trees_that_are_looked_into_for_a_layer_are_let_go_of(
    tmp_path: Path, hold: Hold
) -> None:
    async with (
        Side(tmp_path / "worker", snapshotter=None) as side,
        Side(tmp_path / "giver") as giver,
    ):
        side.commit(FILES | {"own": b"text"})
        info = giver.commit(FILES)
        order = giver.taking((info,), await giver.offer(info))
        side.learn(giver, order)
        held = hold(side.store.snapshots, "view")
        before = kept(side)
        pulling = side.arrivals.pull(order, lambda _: None)
        await cancel_during(pulling, held)
        assert kept(side) == before


# --- offers ---------------------------------------------------------------------------------------


def opening(info: RefInfo) -> dict[str, OrderBody]:
    """Return the orders that open something of a result."""
    form = orders.ExportForm
    return {
        "offer": orders.Offer(info.ref, None),
        "tree": orders.Export(info.ref, form.TREE),
        "tar": orders.Export(info.ref, form.TAR),
        "image": orders.Export(info.ref, form.OCI),
        "layers": orders.OfferLayers((info.ref,)),
    }


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("offer", "view"),
        ("tree", "view"),
        ("tar", "make_work"),
        ("tar", "scan"),
        ("image", "make_work"),
        ("layers", "view"),
    ],
)
async def test_what_is_being_opened_is_closed(
    tmp_path: Path, hold: Hold, kind: str, where: str
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        info = side.commit(FILES)
        chains.layer_of(side.store, side.store.refs.get(info.ref))
        places: dict[str, object] = {
            "view": side.store.snapshots,
            "make_work": side.store,
            "scan": exports,
        }
        await cancelled(side, opening(info)[kind], hold(places[where], where))


async def test_all_that_is_to_be_closed_is(tmp_path: Path, hold: Hold) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        infos = [side.commit({name: b"text"}) for name in ("one", "two")]
        before = kept(side)
        tokens: list[bytes] = []
        for info in infos:
            offered = await side.service.perform(
                1, orders.Offer(info.ref, None), lambda _: None
            )
            assert isinstance(offered, Offered)
            tokens.append(offered.token)
        held = hold(side.store.snapshots, "end_view")
        release = orders.Release(tokens=tuple(tokens))
        await cancel_during(side.service.perform(2, release, lambda _: None), held)
        assert kept(side) == before


def hold_answers(monkeypatch: pytest.MonkeyPatch, *helds: Held[[], bool]) -> None:
    """Have each answer wait in its turn for one of ``helds`` before its trees are packed."""
    waiting = iter(helds)

    def packing(lacking: Any) -> Iterator[bytes]:  # noqa: ANN401
        assert next(waiting)()
        yield from pack_nodes(lacking)

    monkeypatch.setattr("worker.link_zmq.pack_nodes", packing)


async def test_an_answer_that_is_not_sent_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        info = side.commit(FILES)
        link = side.link()
        held = Held(lambda: True)
        hold_answers(monkeypatch, held)
        before = kept(side)
        task = asyncio.create_task(link._perform(1, opening(info)["tree"]))
        await held.is_reached()
        task.cancel()
        await held.let_go()
        await task
        assert kept(side) == before
        outcome, _ = link._queue.get_nowait()
        assert isinstance(outcome, orders.Outcome)
        assert isinstance(outcome.result, orders.Failed)


async def test_an_order_is_called_off_that_has_the_number_of_another_managers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        order = orders.Order(1, opening(side.commit(FILES))["tree"])
        link = side.link()
        old, new = Held(lambda: True), Held(lambda: True)
        hold_answers(monkeypatch, old, new)
        before = kept(side)
        async with asyncio.TaskGroup() as group:
            link._receive(order, b"", group)
            await old.is_reached()
            of_old = link._orders[1]
            link._receive(orders.Unknown(), b"", group)  # it has restarted
            link._receive(order, b"", group)
            await new.is_reached()
            await old.let_go()
            await of_old
            link._receive(orders.Cancel(1), b"", group)
            await new.let_go()
        messages = [link._queue.get_nowait()[0] for _ in range(link._queue.qsize())]
        outcomes = [one.result for one in messages if isinstance(one, orders.Outcome)]
        assert outcomes == [orders.Failed("cancelled", "the order was cancelled")] * 2
        assert kept(side) == before
        assert link._orders == {}


async def test_what_was_dropped_of_what_a_cancelled_order_printed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        link = side.link()
        held = Held(lambda: True)
        hold_answers(monkeypatch, held)
        monkeypatch.setattr("worker.link_zmq.MAX_QUEUED", 0)
        task = asyncio.create_task(link._perform(1, opening(side.commit(FILES))["tree"]))
        await held.is_reached()
        link._tell(orders.Output(1, 1, b"12345"))
        task.cancel()
        await held.let_go()
        await task
        (said, _), (outcome, _) = link._queue.get_nowait(), link._queue.get_nowait()
        assert isinstance(said, orders.Output)
        assert b"5 bytes of output were dropped" in said.data
        assert isinstance(outcome, orders.Outcome)


async def test_a_source_on_a_lease_outlives_the_connection_of_who_had_it_made(
    tmp_path: Path,
) -> None:
    async with Side(tmp_path / "giver") as giver, Side(tmp_path / "taker") as taker:
        order = await paths(giver, taker)
        ran = await taker.service.perform(1, local(order.tree, order), lambda _: None)
        assert isinstance(ran, orders.Ran)
        assert taker.service.kept() == orders.Release(sources=(ran.ref.ref,))
        hold = leases.Hold(ran.ref.ref, b"l" * 16, 60.0)
        await taker.service.perform(2, hold, lambda _: None)
        assert taker.service.kept() == orders.Release()


async def test_an_answer_that_cannot_be_sent_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packing(_: object) -> Iterator[bytes]:
        raise StoreError("the disk is gone")

    monkeypatch.setattr("worker.link_zmq.pack_nodes", packing)
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        info = side.commit(FILES)
        before = kept(side)
        link = side.link()
        await link._perform(1, opening(info)["tree"])
        assert kept(side) == before
        outcome, _ = link._queue.get_nowait()
        assert isinstance(outcome, orders.Outcome)
        assert outcome.result == orders.Failed("store", "the disk is gone")


# --- the process ----------------------------------------------------------------------------------


async def test_an_order_to_let_go_that_is_called_off_at_once_is_carried_out(
    tmp_path: Path,
) -> None:
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        info = side.commit(FILES)
        before = kept(side)
        offered = await side.service.perform(1, orders.Offer(info.ref, None), lambda _: None)
        assert isinstance(offered, Offered)
        link = side.link()
        async with asyncio.TaskGroup() as group:
            release = orders.Release(tokens=(offered.token,))
            link._receive(orders.Order(2, release), b"", group)
            link._receive(orders.Cancel(2), b"", group)
        assert kept(side) == before


async def test_a_worker_that_is_stopped_while_its_store_is_opened_closes_it(
    tmp_path: Path, hold: Hold
) -> None:
    state = tmp_path / "worker"
    options = WorkerOptions(
        "tcp://127.0.0.1:1", "tcp://127.0.0.1:0", state, "w", snapshotter="copy"
    )

    async def never() -> None:
        await asyncio.Event().wait()

    held = hold(Store, "open")
    await cancel_during(run_worker(options, ready=lambda _: None, stopped=never), held)
    assert open_below(state) == []


async def test_a_worker_that_is_stopped_before_it_listens_closes_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "worker"
    options = WorkerOptions(
        "tcp://127.0.0.1:1", "tcp://127.0.0.1:0", state, "w", snapshotter="copy"
    )
    opening = asyncio.Event()

    async def never(*_: object) -> None:
        opening.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("worker.process._open_exec", never)
    working = asyncio.create_task(run_worker(options, ready=lambda _: None, stopped=never))
    await opening.wait()
    working.cancel()
    await asyncio.wait([working])
    assert open_below(state) == []
