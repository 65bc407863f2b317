"""Images in registries as a manager deals with them: it names them, and never has their bytes."""

import asyncio
from typing import SupportsIndex

import pytest

from filesync.trees.select import Pick, Selector
from solver.errors import NoWorker, OrderFailed, WorkerLost
from solver.graph import Graph, Vertex
from solver.keys import definition_keys
from solver.manager import images as images_module
from solver.manager.build import Build
from solver.manager.images import find_image
from solver.wire import AskImage, FoundImage, StartBuild
from tests.unit.solver.fakes import IMAGE, Recipe, World
from worker.wire.images import Credential, FromRegistry, Resolved, ResolveImage
from worker.wire.ops import ExecOp, ImageOp
from worker.wire.orders import VERSION, Failed, Mode, Result

GRAPH = Graph((Vertex(ImageOp(IMAGE, "a.io/app"), (), "FROM a.io/app"),), 0)
MINE = Credential("a.io", "me", "correct-horse")
OTHER = Credential("b.io", "me", "battery-staple")
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
    request = StartBuild(VERSION, GRAPH, credentials=(OTHER, MINE))
    build = Build(world.shared, request, world.client())
    await build.solve_target()
    await build.release()
    assert world.registries == [FromRegistry("a.io/app", IMAGE, MINE)]
    assert "horse" not in repr(worker.orders)


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


def lost_as_it_asks(world: World, times: int) -> None:
    """Have a worker that leaves when it is asked, is back at once, and answers after ``times``."""
    worker = world.worker("a")

    class Says(list[Result]):
        def pop(self, index: SupportsIndex = -1) -> Result:
            if times:
                world.lose(worker)
                lost_as_it_asks(world, times - 1)
            return Resolved(IMAGE, b"{}")

    worker.says = Says()


async def test_a_worker_that_is_lost_as_it_asks_is_asked_again_when_it_is_back(
    world: World,
) -> None:
    lost_as_it_asks(world, images_module.TRIES - 1)
    assert (await find_image(world.shared.cluster, QUESTION)).manifest == IMAGE


async def test_whoever_is_lost_each_time_it_asks_is_not_asked_for_ever(world: World) -> None:
    lost_as_it_asks(world, images_module.TRIES)
    with pytest.raises(WorkerLost):
        await find_image(world.shared.cluster, QUESTION)


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


# --- images that are read in parts --------------------------------------------------------------


APP = {"etc/name": "app", "etc/other": "x", "usr/big": "big"}


def reading(world: World, *paths: str) -> Recipe:
    """Return a graph whose steps each read a path of one image."""
    world.gives["FROM a.io/app"] = APP
    recipe = world.recipe()
    image = recipe.pulled()
    steps = [recipe.run(f"read {path}", reads={image: path}) for path in paths]
    recipe.run("all", reads=dict.fromkeys(steps, "/"))
    return recipe


async def test_what_steps_read_of_an_image_is_read_once_as_one_source(world: World) -> None:
    world.worker("a")
    world.worker("b")
    client = world.client()
    await world.build(reading(world, "etc/name", "usr/big").graph(), client)
    asked = Selector((Pick("etc/name"), Pick("usr/big")))
    assert world.registries == [FromRegistry("a.io/app", IMAGE, None, asked)]
    (use,) = client.done()[0].inputs
    assert (use.mode, use.bytes_moved, use.bytes_if_layers) == (Mode.REGISTRY, 1000, 5000)
    # It was let go of at the end, and nobody can find it by a key.
    assert world.shared.records.find(definition_keys(GRAPH)[0]) == []
    assert all(not worker.sources for worker in world.workers.values())


async def test_a_part_and_the_whole_image_have_the_same_content_key(world: World) -> None:
    world.worker("a")
    await world.build(reading(world, "etc").graph())
    assert world.ran_steps() == {"FROM a.io/app": 1, "read etc": 1, "all": 1}
    # Another image, which is needed whole, has the same there.
    recipe = world.recipe()
    other = recipe.pulled("FROM other", "sha256:" + "b" * 64)
    world.gives["FROM other"] = {**APP, "usr/big": "another"}
    first = recipe.run("read etc", reads={other: "etc"})
    recipe.run("on it", on=other, reads={first: "/"})
    await world.build(recipe.graph())
    assert world.ran_steps() == {"FROM other": 1, "on it": 1}


async def test_an_image_that_is_here_whole_is_not_read_in_parts(world: World) -> None:
    world.worker("a")
    world.gives["FROM a.io/app"] = APP
    await world.build(GRAPH)
    world.registries.clear()
    await world.build(reading(world, "etc").graph())
    assert world.registries == []


async def test_an_image_that_had_to_be_taken_whole_is_a_result_like_any_other(
    world: World,
) -> None:
    world.worker("a")
    world.takes_images_whole = True
    await world.build(reading(world, "etc").graph())
    world.ran_steps()
    await world.build(GRAPH)
    assert world.ran_steps() == {}


async def test_a_part_whose_worker_is_lost_is_read_again(world: World) -> None:
    first = world.worker("a")
    world.hold("read etc")
    building = asyncio.create_task(world.build(reading(world, "etc").graph()))
    await world.wait_for("read etc")
    world.worker("b")
    world.lose(first)
    world.let_go("read etc")
    await building
    assert [worker for step, worker in world.ran if step == "FROM a.io/app"] == ["a", "b"]


async def test_two_builds_each_read_their_own_part(world: World) -> None:
    world.worker("a", slots=4)
    await asyncio.gather(
        world.build(reading(world, "etc/name").graph()),
        world.build(reading(world, "usr").graph()),
    )
    parts = {order.selector for order in world.registries if isinstance(order, FromRegistry)}
    assert parts == {Selector((Pick("etc/name"),)), Selector((Pick("usr"),))}
