"""Inputs that a worker does not get from who has them, though nothing is wrong with either."""

from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.manifest.pack import accept_pack
from solver.manager.workers import WorkerLink
from tests.integration.gateway import gateway
from tests.integration.layer_pair import Side
from tests.integration.test_replicas import place
from worker.wire import orders
from worker.wire.ops import ImageOp, LocalOp
from worker.wire.orders import Failed, FromPaths, Offered, Replica

ContextMaker = Callable[..., Path]

TEXT = """
FROM scratch AS tools
COPY one /1
FROM scratch
COPY --from=tools /1 /one
"""


async def test_an_input_whose_offer_was_closed_is_not_the_fault_of_its_step(
    tmp_path: Path,
) -> None:
    async with Side(tmp_path / "taker") as taker, Side(tmp_path / "giver") as giver:
        info = giver.commit({"file": b"content"})
        offered = await giver.service.perform(1, orders.Offer(info.ref, None), lambda _: None)
        assert isinstance(offered, Offered)
        for pack in giver.packs(info.tree):
            accept_pack(taker.store.nodes, pack)
        # As it does when its connection to the manager was cut.
        await giver.service.perform(2, giver.service.kept(), lambda _: None)
        replica = Replica("giver", giver.plane.address, offered.token)
        order = FromPaths(info.tree, (replica,), "key")
        run = orders.Run(LocalOp("context", info.tree, info.tree), (order,))
        failed = await taker.service.perform(1, run, lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.code == "unavailable"


async def test_an_image_that_comes_from_nowhere_is_refused(tmp_path: Path) -> None:
    async with Side(tmp_path / "worker") as side:
        run = orders.Run(ImageOp("sha256:" + "0" * 64), ())
        failed = await side.service.perform(1, run, lambda _: None)
    assert isinstance(failed, Failed)
    assert failed.code == "image-malformed"


@pytest.mark.needs("root")
async def test_a_step_waits_for_a_link_that_comes_back(
    tmp_path: Path, context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, context(TEXT, one="1\n")) as at:
        given = at.replicas.shared.cluster.named("w1")
        assert given is not None
        async with gateway(given.address) as between:
            direct = WorkerLink.address

            def address(link: WorkerLink) -> str:
                return between.address if link.name == "w1" else link.hello.address

            monkeypatch.setattr(WorkerLink, "address", property(address))
            between.refuses_s = 1.0
            root = context(TEXT.replace("/1 /one", "/1 /two"), one="1\n")
            built = await at.build(root, "--place", "1=name=w2")
            monkeypatch.setattr(WorkerLink, "address", direct)
    assert "runs again: worker w2: " in built.stderr
