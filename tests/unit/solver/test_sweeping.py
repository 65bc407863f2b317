"""What goes of a manager's manifests, and when."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.manifest.store import SqliteNodes
from solver.manager.results.pruning import Pruning
from solver.manager.results.sweeping import Sweeping
from solver.manager.workers import Sent
from tests.unit.solver.fakes import World, digest, plant
from worker.wire.orders import RefInfo, Swept, ToWorker


@pytest.fixture
def nodes(world: World, tmp_path: Path) -> Iterator[SqliteNodes]:
    """The world's, on disk as a manager's are."""
    made = SqliteNodes(tmp_path / "nodes.db")
    world.shared.nodes = made
    yield made
    made.close()


def tree(nodes: SqliteNodes, name: str) -> Digest:
    return plant(nodes, {f"{name}/file": name}).tree


def hears(world: World, name: str, sent: Sent = Sent.UNDER_WAY) -> list[ToWorker]:
    """Return what a worker will have been told."""
    heard: list[ToWorker] = []

    async def send(_: bytes, message: ToWorker, __: bytes) -> Sent:
        heard.append(message)
        return sent

    world.worker(name).link.send = send
    return heard


async def test_only_what_results_and_idle_sources_are_made_of_stays(
    world: World, nodes: SqliteNodes
) -> None:
    result, source, gone = (tree(nodes, name) for name in ("result", "source", "gone"))
    heard = hears(world, "w1")
    world.workers["w1"].link.sources = {"id": source}
    world.shared.records.add(RefInfo(digest("ref"), result))
    sweeping = Sweeping(world.shared, nodes, Pruning(world.shared), lambda: True)
    await sweeping.sweep()
    assert gone in nodes, "nobody wanted it"
    sweeping.want()
    await sweeping.sweep()
    assert [one in nodes for one in (result, source, gone)] == [True, True, False]
    assert heard == [Swept()]
    await sweeping.sweep()
    assert heard == [Swept()], "once is enough"


async def test_nothing_goes_while_somebody_is_at_work_and_it_is_made_up_for(
    world: World, nodes: SqliteNodes
) -> None:
    gone = tree(nodes, "gone")
    is_idle = False
    sweeping = Sweeping(world.shared, nodes, Pruning(world.shared), lambda: is_idle)
    sweeping.want()
    await sweeping.sweep()
    assert gone in nodes
    is_idle = True
    await sweeping.sweep()
    assert gone not in nodes


async def test_nothing_goes_of_which_a_worker_is_not_told(
    world: World, nodes: SqliteNodes
) -> None:
    gone = tree(nodes, "gone")
    heard, deaf = hears(world, "w1"), hears(world, "w2", Sent.NO_ROOM)
    sweeping = Sweeping(world.shared, nodes, Pruning(world.shared), lambda: True)
    sweeping.want()
    await sweeping.sweep()
    assert (heard, deaf) == ([Swept()], [Swept()])
    assert gone in nodes
    deaf_one = world.workers["w2"]
    world.lose(deaf_one)
    await sweeping.sweep()
    assert gone not in nodes


async def test_who_comes_while_workers_are_told_finds_all_there(
    world: World, nodes: SqliteNodes
) -> None:
    gone = tree(nodes, "gone")
    hears(world, "w1")
    idle = iter((True, False, True, True))
    sweeping = Sweeping(world.shared, nodes, Pruning(world.shared), lambda: next(idle))
    sweeping.want()
    await sweeping.sweep()
    assert gone in nodes
    await sweeping.sweep()
    assert gone not in nodes
