"""What a build's client asked to be made of the result, where workers are lost meanwhile."""

import pytest

from filesync.errors import ContentCorrupt, Unavailable
from filesync.manifest import Manifest
from solver.keys import part_read
from solver.manager.build import Build
from solver.manager.caches import making
from solver.manager.moving.blobs import BLOB_MISSING
from solver.manager.outbox import Outbox
from solver.manager.outputs import Outputs
from solver.wire import CacheMode, StartBuild, ToClient
from tests.unit.solver.fakes import FakeWorker, World
from worker.wire.ops import Op
from worker.wire.orders import (
    VERSION,
    Failed,
    Finished,
    OfferLayers,
    OrderBody,
    PullBlobs,
    Result,
)


async def unread(_: ToClient, __: bytes) -> None:
    """Send nothing."""


async def test_cache_of_a_result_whose_holder_is_lost_is_made_once_it_is_built_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.worker("a")
    recipe = world.recipe()
    recipe.run("two", on=recipe.run("one"))
    request = StartBuild(VERSION, recipe.graph(), cache_modes=(CacheMode.MAX,))

    def losing(op: Op, index: int, tree: Manifest) -> Manifest:
        if "b" not in world.workers:
            world.worker("b")
            world.lose(first)
        return part_read(op, index, tree)

    monkeypatch.setattr(making, "part_read", losing)
    build = Build(world.shared, request, world.client())
    outputs = Outputs(world.shared, request, Outbox(unread))
    built = await outputs.make(build)
    assert [blobs.worker for blobs in built.caches[0].blobs] == ["b"]
    await build.release()
    await outputs.release()
    world.check_idle()


async def test_cache_is_made_without_a_result_that_its_holder_has_dropped(world: World) -> None:
    worker = world.worker("a")
    recipe = world.recipe()
    tool = recipe.run("tool")
    dropped = (await world.build(recipe.graph())).ref
    assert dropped is not None
    recipe.run("use", reads={tool: "/tool"})
    await world.build(recipe.graph())
    del worker.held[dropped]  # it is being pruned, and the rest stays
    world.ran.clear()
    request = StartBuild(VERSION, recipe.graph(), cache_modes=(CacheMode.MAX,))
    build = Build(world.shared, request, world.client())
    outputs = Outputs(world.shared, request, Outbox(unread))
    built = await outputs.make(build)
    assert len(built.caches[0].blobs) == 1
    assert not world.ran, "what is there was not made again for it"
    await build.release()
    await outputs.release()


async def test_cache_is_made_where_a_holder_has_swept_what_it_was_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = world.worker("a")
    recipe = world.recipe()
    recipe.run("one")
    answers = [Failed("node-missing", "it was swept before the order came")]
    really = FakeWorker._open

    async def open_layers(worker: FakeWorker, body: OfferLayers) -> Result:
        return answers.pop() if answers else await really(worker, body)

    monkeypatch.setattr(FakeWorker, "_open", open_layers)
    request = StartBuild(VERSION, recipe.graph(), cache_modes=(CacheMode.MAX,))
    build = Build(world.shared, request, world.client())
    outputs = Outputs(world.shared, request, Outbox(unread))
    built = await outputs.make(build)
    assert [blobs.worker for blobs in built.caches[0].blobs] == [worker.link.name]
    await build.release()
    await outputs.release()


@pytest.mark.parametrize("failure", [Unavailable.code, ContentCorrupt.code])
async def test_blob_is_had_of_another_worker_where_the_first_is_lost_or_gives_a_damaged_one(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    maker = world.worker("a")
    recipe = world.recipe()
    recipe.run("one")
    ref = (await world.build(recipe.graph())).ref
    assert ref is not None
    info = world.shared.records.ref(ref)
    assert info is not None
    for name in ("b", "c"):
        other = world.worker(name)
        other.held[ref] = info.tree
        world.shared.cluster.add_ref(other.link, info)
    givers: list[str] = []
    really = FakeWorker._result

    async def answer(worker: FakeWorker, body: OrderBody) -> Result:
        if isinstance(body, PullBlobs):
            givers.append(body.replicas[0].worker)
            return Failed(failure, "it did not come") if givers == ["b"] else Finished()
        if worker is maker and isinstance(body, OfferLayers) and "c" not in givers:
            return Failed(BLOB_MISSING, "it came here without it")
        return await really(worker, body)

    monkeypatch.setattr(FakeWorker, "_result", answer)
    request = StartBuild(VERSION, recipe.graph(), cache_modes=(CacheMode.MAX,))
    build = Build(world.shared, request, world.client())
    outputs = Outputs(world.shared, request, Outbox(unread))
    built = await outputs.make(build)
    assert givers == ["b", "c"]
    assert [blobs.worker for blobs in built.caches[0].blobs] == ["a"]
    await build.release()
    await outputs.release()
    world.check_idle()
