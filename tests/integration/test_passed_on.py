"""What several workers take at once: each passes on to the next what comes to it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from filesync.manifest import LayeredNodes, Manifest, MemoryNodes, missing_nodes
from filesync.manifest.pack import accept_pack, pack_nodes
from filesync.transfer.receive import candidates
from filesync.transfer.stats import Progress, PullStats
from filesync.trees.select import Pick, Selector, select
from tests.integration.layer_pair import Side, take
from worker.moving import arrivals
from worker.moving.passing import Passing
from worker.wire import orders
from worker.wire.ops import LocalOp
from worker.wire.orders import FromLayers, Offered, RefInfo, Replica

BIG = random.Random(1).randbytes(40_000_000)
MORE = random.Random(2).randbytes(50_000_000)
pytestmark = pytest.mark.needs("root")


class Rig(NamedTuple):
    """Who has a chain of layers, the chain, and workers that have nothing."""

    giver: Side
    chain: tuple[RefInfo, ...]
    takers: tuple[Side, ...]

    async def order(self, taker: Side, passing: Replica | None = None) -> FromLayers:
        """Return an order for ``taker`` to take the chain, from who passes it on if anybody does."""
        order = self.giver.taking(self.chain, await self.giver.offer(*self.chain))
        taker.learn(self.giver, order)
        return msgspec.structs.replace(order, passing=passing)

    async def take(self, taker: Side, passing: Replica | None = None) -> PullStats:
        """Have ``taker`` take the chain; return what that took."""
        stats, pulled = await taker.arrivals.pull(
            await self.order(taker, passing), lambda _: None
        )
        assert [info.tree for info in pulled] == [info.tree for info in self.chain]
        return stats


@asynccontextmanager
async def rigged(root: Path, *layers: bytes, takers: int = 2) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        giver = await stack.enter_async_context(Side(root / "giver"))
        sides = [Side(root / f"taker{number}") for number in range(takers)]
        chain: list[RefInfo] = []
        for number, data in enumerate(layers):
            below = chain[-1] if chain else None
            chain.append(giver.commit({f"file{number}": data}, below))
        entered = [await stack.enter_async_context(side) for side in sides]
        yield Rig(giver, tuple(chain), tuple(entered))


async def passed_by(rig: Rig, taker: Side) -> Replica:
    """Have ``taker`` pass on what it will take, as a manager does."""
    order = await rig.order(taker)
    offered = await taker.service.perform(
        1, orders.PassOn(order.blobs, are_blobs=True), lambda _: None
    )
    assert isinstance(offered, Offered), offered
    return Replica("taker", taker.plane.address, offered.token)


def failures(stats: PullStats) -> Sequence[str | None]:
    return [one.error for one in stats.replicas]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody give up who waits for another on a busy machine."""
    monkeypatch.setattr(candidates, "TRIAL_AFTER_S", 1000.0)
    monkeypatch.setattr(arrivals, "Passing", partial(Passing, begin_s=60.0))


@pytest.mark.usefixtures("patient")
async def test_a_row_of_workers_takes_a_layer_from_its_holder_once(tmp_path: Path) -> None:
    async with rigged(tmp_path, BIG, BIG[:9_000_000], b"small", takers=4) as rig:
        passing = [await passed_by(rig, taker) for taker in rig.takers]
        pulls = [
            rig.take(taker, before)
            for taker, before in zip(rig.takers, [None, *passing], strict=False)
        ]
        all_stats = await asyncio.gather(*pulls)
        blobs = rig.takers[0].plane.counters.data_in
        assert rig.giver.plane.counters.data_out < 1.02 * blobs
        assert not any(any(failures(stats)) for stats in all_stats)
        for taker in rig.takers[:-1]:
            assert taker.plane.counters.data_out == blobs


async def test_what_came_before_the_row_began_is_passed_on_as_well(tmp_path: Path) -> None:
    async with Side(tmp_path / "giver") as giver:
        info = giver.commit({"big": BIG})
        order = giver.taking((info,), await giver.offer(info))
        assert (await take(tmp_path, giver, order, kill_at=30_000_000)).status == -9
        async with Side(tmp_path / "taker") as first, Side(tmp_path / "second") as second:
            rig = Rig(giver, (info,), (first, second))
            passing = await passed_by(rig, first)
            before = giver.plane.counters.data_out
            await asyncio.gather(rig.take(first), rig.take(second, passing))
            assert giver.plane.counters.data_out - before < 20_000_000
            assert first.plane.counters.data_out > 40_000_000


@pytest.mark.usefixtures("patient")
async def test_a_row_of_workers_takes_a_subset_from_its_holder_once(tmp_path: Path) -> None:
    async with rigged(tmp_path, BIG, takers=3) as rig:
        wanted = {f"d{n % 9}/f{n}": random.Random(n).randbytes(10_000) for n in range(900)}
        wanted["d1/not so small"] = MORE
        info = rig.giver.commit(wanted | {"other/large": BIG})
        selector = Selector((Pick("/d*", wildcard=True),))
        nodes = LayeredNodes(MemoryNodes(), rig.giver.store.nodes)
        subset = select(Manifest(info.tree, nodes), selector, nodes)
        before: Replica | None = None
        pulls = []
        for taker in rig.takers:
            offer = orders.Offer(info.ref, selector)
            offered = await rig.giver.service.perform(1, offer, lambda _: None)
            assert isinstance(offered, Offered), offered
            for pack in pack_nodes(missing_nodes(nodes, subset.tree, lambda _: False)):
                accept_pack(taker.store.nodes, pack)
            passed = orders.PassOn(subset.tree, are_blobs=False)
            opened = await taker.service.perform(2, passed, lambda _: None)
            assert isinstance(opened, Offered), opened
            replica = Replica("giver", rig.giver.plane.address, offered.token)
            order = orders.FromPaths(subset.tree, (replica,), passing=before)
            run = orders.Run(LocalOp("trimmed", subset.content, subset.tree), (order,))
            pulls.append(taker.service.perform(3, run, lambda _: None))
            before = Replica("taker", taker.plane.address, opened.token)
        for taker, ran in zip(rig.takers, await asyncio.gather(*pulls), strict=True):
            assert isinstance(ran, orders.Ran), ran
            with taker.store.view(ran.ref.ref) as view:
                read = {name: (view.root / name).read_bytes() for name in wanted}
            assert read == wanted
        assert rig.giver.plane.counters.data_out < 1.1 * sum(map(len, wanted.values()))


@pytest.mark.usefixtures("patient")
async def test_part_of_what_comes_to_a_worker_is_passed_on_from_there(tmp_path: Path) -> None:
    async with rigged(tmp_path, BIG) as rig:
        wanted = {f"d{n % 9}/f{n}": random.Random(n).randbytes(10_000) for n in range(900)}
        wanted["d1/not so small"] = MORE
        info = rig.giver.commit(wanted | {"other/large": BIG})
        nodes = LayeredNodes(MemoryNodes(), rig.giver.store.nodes)
        whole = Manifest(info.tree, nodes)
        subset = select(whole, Selector((Pick("/d*", wildcard=True),)), nodes)
        first, second = rig.takers
        for taker, trees in ((first, (whole, subset)), (second, (subset,))):
            for tree in trees:
                for pack in pack_nodes(missing_nodes(nodes, tree.tree, lambda _: False)):
                    accept_pack(taker.store.nodes, pack)
        asked = orders.PassOn(subset.tree, are_blobs=False, within=whole.tree)
        opened = await first.service.perform(1, asked, lambda _: None)
        offered = await rig.giver.service.perform(1, orders.Offer(info.ref), lambda _: None)
        assert isinstance(opened, Offered), opened
        assert isinstance(offered, Offered), offered

        def taking(tree: Manifest, giver: Side, token: bytes) -> orders.Run:
            replica = Replica("giver", giver.plane.address, token)
            order = orders.FromPaths(tree.tree, (replica,))
            return orders.Run(LocalOp("taken", tree.content, tree.tree), (order,))

        run = taking(subset, first, opened.token)
        behind = asyncio.create_task(second.service.perform(2, run, lambda _: None))
        await asyncio.sleep(0.1)
        run = taking(whole, rig.giver, offered.token)
        ahead = await first.service.perform(2, run, lambda _: None)
        assert isinstance(ahead, orders.Ran), ahead
        ran = await behind
        assert isinstance(ran, orders.Ran), ran
        with second.store.view(ran.ref.ref) as view:
            read = {name: (view.root / name).read_bytes() for name in wanted}
            assert [path.name for path in view.root.iterdir() if path.name == "other"] == []
        assert read == wanted
        assert first.plane.counters.data_out < 1.1 * sum(map(len, wanted.values()))


async def test_who_takes_from_one_that_has_it_all_needs_nobody_else(tmp_path: Path) -> None:
    async with rigged(tmp_path, BIG) as rig:
        first, second = rig.takers
        passing = await passed_by(rig, first)
        await rig.take(first)
        before = rig.giver.plane.counters.data_out
        assert failures(await rig.take(second, passing)) == [None]
        assert rig.giver.plane.counters.data_out == before


async def test_a_worker_that_takes_nothing_after_all_is_left_for_the_holder(
    tmp_path: Path,
) -> None:
    async with rigged(tmp_path, BIG, b"another") as rig:
        first, second = rig.takers
        stats = await rig.take(second, await passed_by(rig, first))
        assert "not on its way" in str(stats.replicas[0].error)


async def test_a_worker_that_is_cut_in_the_middle_is_left_for_the_holder(
    tmp_path: Path,
) -> None:
    async with rigged(tmp_path, BIG) as rig:
        first, second = rig.takers
        passing = await passed_by(rig, first)
        order = await rig.order(first)
        half = asyncio.Event()

        def note(progress: Progress) -> None:
            if progress.content_bytes > 20_000_000:
                half.set()

        pulling = asyncio.create_task(first.arrivals.pull(order, note))
        taking = asyncio.create_task(rig.take(second, passing))
        await half.wait()
        pulling.cancel()
        stats = await taking
        assert stats.content_bytes >= 40_000_000
        if first.plane.counters.data_out < 40_000_000:
            assert stats.replicas[0].error


async def test_a_worker_that_passes_on_nothing_any_more_is_left_for_the_holder(
    tmp_path: Path,
) -> None:
    async with rigged(tmp_path, BIG) as rig:
        first, second = rig.takers
        passing = await passed_by(rig, first)
        await first.service.perform(2, orders.Release((passing.token,)), lambda _: None)
        stats = await rig.take(second, passing)
        assert "not on offer" in str(stats.replicas[0].error)


async def test_two_workers_that_would_wait_for_each_other_take_it_from_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "TRIAL_AFTER_S", 0.2)
    async with rigged(tmp_path, BIG) as rig:
        passing = [await passed_by(rig, taker) for taker in rig.takers]
        await asyncio.gather(
            *(
                rig.take(one, other)
                for one, other in zip(rig.takers, passing[::-1], strict=True)
            )
        )


async def test_wrong_bytes_that_are_passed_on_are_noticed_and_taken_from_the_holder(
    tmp_path: Path,
) -> None:
    async with rigged(tmp_path, BIG) as rig:
        liar, taker = rig.takers
        order = await rig.order(liar)
        blobs = Manifest(order.blobs, liar.store.nodes)
        lies = tmp_path / "lies"
        lies.mkdir()
        for entry in blobs.root.entries:
            (lies / entry.name.decode()).write_bytes(MORE[: order.chain[0].layer.size])
        token = liar.plane.offer(blobs, lies).token
        stats = await rig.take(taker, Replica("liar", liar.plane.address, token))
        assert stats.replicas[0].error
        digest = order.chain[0].layer.digest
        assert taker.store.blobs.path(digest).read_bytes() == (
            rig.giver.store.blobs.path(digest).read_bytes()
        )
