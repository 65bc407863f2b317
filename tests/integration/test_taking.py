"""Results that a client takes over links that break."""

import asyncio
from pathlib import Path

import pytest

from filesync.errors import Unavailable
from filesync.manifest import Manifest, MemoryNodes
from filesync.transfer.plane_zmq import DataPlane
from solver.client import taking
from solver.client.link_zmq import ManagerLink
from solver.client.outputs.outputs import Output, OutputType
from solver.client.progress import Progress, make_progress
from solver.client.request import BuildRequest
from solver.client.taking import Taking
from solver.dockerfile import Options
from solver.wire import Built, Exported
from tests.integration.gateway import Gateway, gateway
from tests.integration.test_manager_links import played
from tests.integration.test_sync_plane import LOOPBACK, make_tree, random_files, tree_of


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "PAUSES_S", (0.0, 0.1, 0.1))


async def take(
    tmp_path: Path, between: Gateway, token: bytes, tree: Manifest, progress: Progress
) -> None:
    output = Output(OutputType.LOCAL, str(tmp_path / "out"))
    request = BuildRequest(None, "", Options(), {}, {}, [output])
    exported = Exported("w1", between.address, token, tree.tree)
    async with (
        played() as manager,
        ManagerLink(manager.address) as link,
        DataPlane() as plane,
    ):
        nodes = tree.nodes
        assert isinstance(nodes, MemoryNodes)
        taking_all = Taking(request, link, plane, nodes, progress, [])
        await taking_all.take(Built(tree.tree, (exported,)))


def test_a_result_whose_connection_is_cut_on_the_way_is_taken_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree(tmp_path / "result", random_files())

    async def run() -> int:
        async with DataPlane(LOOPBACK) as worker, gateway(worker.address) as between:
            offer = worker.offer(tree, tmp_path / "result")
            between.cut_after_bytes = 1_000_000
            await take(tmp_path, between, offer.token, tree, make_progress("plain"))
            offer.close()
            return between.cuts

    assert asyncio.run(run()) == 1
    assert tree_of(tmp_path / "out") == tree.tree
    assert "taken from worker w1 again" in capsys.readouterr().err


def test_a_result_that_cannot_be_taken_says_what_is_kept_and_what_to_do(
    tmp_path: Path,
) -> None:
    tree = make_tree(tmp_path / "result", {"file": b"content"})

    async def run() -> None:
        async with DataPlane(LOOPBACK) as worker, gateway(worker.address) as between:
            await take(tmp_path, between, bytes(16), tree, make_progress("quiet"))

    with pytest.raises(
        Unavailable, match=r"from worker w1: .*; what was built is kept: run it"
    ):
        asyncio.run(run())
