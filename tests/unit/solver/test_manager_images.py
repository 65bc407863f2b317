"""Images in registries as a manager deals with them: it names them, and never has their bytes."""

import asyncio

import pytest

from solver.errors import NoWorker, OrderFailed
from solver.graph import Graph, Vertex
from solver.manager import images as images_module
from solver.manager.build import Build
from solver.manager.images import find_image
from solver.wire import AskImage, FoundImage, StartBuild
from tests.unit.solver.fakes import IMAGE, World
from worker.wire.images import Credential, FromRegistry, Resolved, ResolveImage
from worker.wire.ops import ExecOp, ImageOp
from worker.wire.orders import VERSION, Failed, Mode

GRAPH = Graph((Vertex(ImageOp(IMAGE, "a.io/app"), (), "FROM a.io/app"),), 0)
MINE = Credential("a.io", "me", "secret")
OTHER = Credential("b.io", "me", "other secret")
QUESTION = AskImage("a.io/app:1", "linux", "amd64", credential=MINE)


async def test_an_image_is_pulled_by_the_worker_that_runs_its_step(world: World) -> None:
    world.worker("a")
    client = world.client()
    await world.build(GRAPH, client)
    assert world.registries == [FromRegistry("a.io/app", IMAGE)]
    (use,) = client.done()[0].inputs
    assert (use.mode, use.source, use.bytes_moved) == (Mode.REGISTRY, "a.io/app", 1000)


async def test_only_the_registrys_own_credential_goes_to_the_worker(world: World) -> None:
    worker = world.worker("a")
    request = StartBuild(VERSION, bytes(16), GRAPH, credentials=(OTHER, MINE))
    build = Build(world.shared, request, world.client())
    await build.solve_target()
    await build.release()
    assert world.registries == [FromRegistry("a.io/app", IMAGE, MINE)]
    assert "secret" not in repr(worker.orders)


async def test_an_image_that_a_worker_holds_is_not_pulled_again(world: World) -> None:
    world.worker("a")
    await world.build(GRAPH)
    await world.build(GRAPH)
    assert len(world.registries) == 1


async def test_an_image_is_the_same_from_another_registry(world: World) -> None:
    world.worker("a")
    await world.build(GRAPH)
    elsewhere = Vertex(ImageOp(IMAGE, "b.io/copy"), (), "FROM b.io/copy")
    step = Vertex(ExecOp(("true",)), (0,), "RUN true")
    await world.build(Graph((elsewhere, step), 1))
    assert world.ran_steps() == {"FROM a.io/app": 1, "RUN true": 1}
    assert len(world.registries) == 1


async def test_a_name_is_looked_up_by_a_worker_with_the_users_credential(world: World) -> None:
    worker = world.worker("a")
    worker.says.append(Resolved(IMAGE, b"{}"))
    found = await find_image(world.shared.cluster, QUESTION)
    assert found == FoundImage("a.io/app:1", IMAGE, b"{}")
    assert worker.orders == [ResolveImage("a.io/app:1", "linux", "amd64", "", MINE)]


async def test_a_registry_that_one_worker_cannot_reach_is_asked_through_another(
    world: World,
) -> None:
    first, second = world.worker("a"), world.worker("b")
    first.says.append(Failed("registry-unavailable", "no route"))
    second.says.append(Resolved(IMAGE, b"{}"))
    assert (await find_image(world.shared.cluster, QUESTION)).manifest == IMAGE


async def test_a_registrys_no_is_final(world: World) -> None:
    first, second = world.worker("a"), world.worker("b")
    first.says.append(Failed("registry-denied", "who are you"))
    with pytest.raises(OrderFailed, match="who are you"):
        await find_image(world.shared.cluster, QUESTION)
    assert second.orders == []


async def test_without_workers_a_name_waits_for_one_and_then_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = asyncio.create_task(find_image(world.shared.cluster, QUESTION))
    await asyncio.sleep(0)
    world.worker("late").says.append(Resolved(IMAGE, b"{}"))
    assert (await asking).manifest == IMAGE
    world.lose(world.workers["late"])
    monkeypatch.setattr(images_module, "WAIT_FOR_WORKER_S", 0.0)
    with pytest.raises(NoWorker, match="no worker is connected"):
        await find_image(world.shared.cluster, QUESTION)
