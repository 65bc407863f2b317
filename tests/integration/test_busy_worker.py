"""A worker whose threads all have work for long is there all the same."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.disk.statedir import LOCK
from filesync.manifest import Manifest
from tests.integration.layer_pair import Side
from worker import exports, link_zmq
from worker.exports import Exported
from worker.store import Store
from worker.store.refs import RefMissing
from worker.wire.disk import Holds, Prune, Usage
from worker.wire.leases import RenewLeases
from worker.wire.orders import Export, ExportForm, Finished, Heartbeat, Offer, Offered


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


async def test_exports_take_turns_and_steps_do_not_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Digest] = []
    may_end = threading.Event()

    def export(store: Store, order: Export) -> Exported:
        begun.append(order.ref)
        may_end.wait(20)
        raise RefMissing(order.ref)

    monkeypatch.setattr(exports, "export", export)
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        ref = side.commit({"file": b"text"}).ref

        async def perform(order: Export | Offer) -> object:
            return await side.service.perform(1, order, lambda _: None)

        made = [asyncio.create_task(perform(Export(ref, ExportForm.TAR))) for _ in range(50)]
        for order in (Offer(ref, None), Export(ref, ExportForm.TREE)):
            async with asyncio.timeout(15):
                assert isinstance(await perform(order), Offered)
        assert begun == [ref], "a turn for each core, of which these tests have one"
        may_end.set()
        await asyncio.gather(*made)
        assert begun == [ref] * 50


@pytest.mark.parametrize("form", [ExportForm.TAR, ExportForm.OCI])
async def test_what_is_exported_is_not_swept_before_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: ExportForm
) -> None:
    made, may_open = threading.Event(), threading.Event()
    really = exports.export

    def export(store: Store, order: Export) -> Exported:
        exported = really(store, order)
        made.set()
        may_open.wait(20)
        return exported

    monkeypatch.setattr(exports, "export", export)
    async with Side(tmp_path / "worker", snapshotter=None) as side:
        ref = side.commit({"file": b"text"}).ref
        order = Export(ref, form)
        exporting = asyncio.create_task(side.service.perform(1, order, lambda _: None))
        await asyncio.to_thread(made.wait, 10)
        usage = await side.service.perform(2, Prune((), Holds()), lambda _: None)
        may_open.set()
        offered = await exporting
        assert isinstance(offered, Offered), offered
        assert [*Manifest(offered.tree, side.store.nodes).walk()]
        assert isinstance(usage, Usage)
        assert not usage.swept, "that is to be done later"
