"""One build against fake workers: what runs, where, how often, and what is left behind."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from filesync.digest import Digest
from filesync.manifest import Manifest
from solver.errors import NoWorker, StepFailed
from solver.graph import Graph
from solver.keys import content_made_on
from solver.manager import build as build_module
from solver.manager import shared
from solver.manager.build import Build
from solver.manager.moving import deliver, offers, reach, sources
from solver.manager.moving.offers import MAX_HOLDERS
from solver.wire import StartBuild, StepDone, StepStarted, Warned
from tests.unit.solver.fakes import FakeClient, FakeWorker, World, plant
from worker.wire import orders
from worker.wire.ops import LocalOp
from worker.wire.orders import VERSION, Failed, FromLayers, FromLocal, FromPaths, Mode

SAME = {"out": "the same bytes"}


def chain(world: World, *names: str) -> Graph:
    recipe = world.recipe()
    at: int | None = None
    for name in names:
        at = recipe.run(name, on=at)
    return recipe.graph()


def kinds(worker: FakeWorker) -> list[str]:
    return [type(order).__name__ for order in worker.orders]


def runs(worker: FakeWorker) -> list[orders.Run]:
    return [order for order in worker.orders if isinstance(order, orders.Run)]


# --- order and concurrency ----------------------------------------------------------------------


async def test_steps_run_after_what_they_read(world: World) -> None:
    world.worker("a")
    await world.build(chain(world, "one", "two", "three"))
    assert [step for step, _ in world.ran] == ["one", "two", "three"]


async def test_independent_steps_run_at_the_same_time(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    left, right = recipe.run("left"), recipe.run("right")
    recipe.run("both", reads={left: "/", right: "/"})
    world.hold("left", "right")
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("left")
    await world.wait_for("right")
    world.let_go("left", "right")
    await building
    assert world.ran_steps() == {"left": 1, "right": 1, "both": 1}


async def test_independent_steps_spread_over_workers_when_slots_are_taken(world: World) -> None:
    world.worker("a", slots=1)
    world.worker("b", slots=1)
    recipe = world.recipe()
    left, right = recipe.run("left"), recipe.run("right")
    recipe.run("both", reads={left: "/", right: "/"})
    world.hold("left", "right")
    building = asyncio.create_task(world.build(recipe.graph()))
    first, second = await world.wait_for("left"), await world.wait_for("right")
    assert first is not second
    world.let_go("left", "right")
    await building


async def test_step_that_the_target_does_not_need_is_not_run(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    target = recipe.run("needed")
    recipe.run("not needed")
    await world.build(recipe.graph(target))
    assert world.ran_steps() == {"needed": 1}


async def test_step_goes_where_its_labels_are(world: World) -> None:
    world.worker("a")
    world.worker("b", labels={"gpu": "yes"})
    recipe = world.recipe()
    recipe.run("train", needs=(("gpu", "yes"),))
    solved = await world.build(recipe.graph())
    assert solved.worker == "b"


async def test_step_waits_for_a_worker_that_fits(world: World) -> None:
    recipe = world.recipe()
    recipe.run("train", needs=(("gpu", "yes"),))
    building = asyncio.create_task(world.build(recipe.graph()))
    await asyncio.sleep(0)
    world.worker("a")
    await asyncio.sleep(0)
    world.worker("b", labels={"gpu": "yes"})
    assert (await building).worker == "b"


async def test_step_does_not_run_again_where_who_it_waits_for_has_its_result(
    world: World,
) -> None:
    holder = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    recipe.run("one", needs=(("name", "a"),))
    made = await world.build(recipe.graph())
    world.ran.clear()
    assert made.ref is not None
    (info,) = world.shared.records.chain(made.ref)
    world.lose(holder)  # as when a manager is started anew
    building = asyncio.create_task(world.build(recipe.graph()))
    await asyncio.sleep(0.01)
    again = world.worker("a")
    again.link.learnt.clear()
    await asyncio.sleep(0.01)
    world.shared.cluster.add_ref(again.link, info)
    again.link.learnt.set()
    assert (await building).ref == made.ref
    assert world.ran_steps() == {}


@pytest.mark.parametrize(
    ("there", "sentence"), [((), "no worker is connected"), (("a",), "no worker has gpu=yes")]
)
async def test_step_that_fits_no_worker_ends_the_build_with_a_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setattr(build_module, "WAIT_FOR_WORKER_S", 0.0)
    for name in there:
        world.worker(name)
    recipe = world.recipe()
    recipe.run("train", needs=(("gpu", "yes"),))
    client = FakeClient()
    with pytest.raises(NoWorker, match=f"train: {sentence}.*--label gpu=yes"):
        await world.build(recipe.graph(), client=client)
    told = [event.text for event in client.events if isinstance(event, Warned)]
    assert [sentence in text for text in told] == [True]


# --- long chains --------------------------------------------------------------------------------


LONG = [f"step {number}" for number in range(2000)]


async def test_a_build_of_thousands_of_steps_that_is_given_up_ends(world: World) -> None:
    world.worker("a")
    world.hold(LONG[0])
    building = asyncio.create_task(world.build(chain(world, *LONG)))
    await world.wait_for(LONG[0])
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building


async def test_a_build_of_thousands_of_steps_fails_by_the_one_that_does(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.worker("a")
    world.fails[LONG[0]] = [Failed("op-failed", "exit status 1", 1)]
    with pytest.raises(StepFailed):
        await world.build(chain(world, *LONG))
    assert not caplog.records


# --- running once -------------------------------------------------------------------------------


async def test_equal_steps_of_one_build_run_once(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    first = recipe.run("first", command="make")
    second = recipe.run("second", command="make")
    recipe.run("both", reads={first: "/", second: "/"})
    client = world.client()
    world.hold("second")  # so is called whichever of them runs
    building = asyncio.create_task(world.build(recipe.graph(), client))
    await world.wait_for("second")
    await asyncio.sleep(0.1)
    world.let_go("second")
    await building
    assert world.ran_steps() == {"second": 1, "both": 1}
    assert sorted(done.shared for done in client.done().values()) == [False, False, True]


async def test_equal_steps_of_two_builds_run_once(world: World) -> None:
    world.worker("a")
    world.hold("make")
    first = asyncio.create_task(world.build(chain(world, "make", "left")))
    await world.wait_for("make")
    second = asyncio.create_task(world.build(chain(world, "make", "right")))
    await asyncio.sleep(0)
    world.let_go("make")
    await asyncio.gather(first, second)
    assert world.ran_steps() == {"make": 1, "left": 1, "right": 1}


async def test_steps_that_become_equal_by_content_run_once(world: World) -> None:
    """Their inputs are made by different commands and turn out to be the same."""
    world.worker("a")
    world.gives |= {"gcc": SAME, "clang": SAME}
    recipe = world.recipe()
    gcc, clang = recipe.run("gcc"), recipe.run("clang")
    one = recipe.run("test one", on=gcc, command="test")
    two = recipe.run("test two", on=clang, command="test")
    recipe.run("both", reads={one: "/", two: "/"})
    await world.build(recipe.graph())
    steps = world.ran_steps()
    assert steps["test one"] + steps["test two"] == 1


async def test_build_that_waits_for_another_runs_the_step_itself_if_that_one_is_ended(
    world: World,
) -> None:
    world.worker("a")
    world.hold("make")
    first = asyncio.create_task(world.build(chain(world, "make")))
    await world.wait_for("make")
    client = world.client()
    second = asyncio.create_task(world.build(chain(world, "make"), client))
    await asyncio.sleep(0.1)
    waits = StepStarted(0, "", shared=True)
    assert client.events == [waits]
    first.cancel()
    await asyncio.wait({first})
    await world.wait_for("make")
    world.let_go("make")
    await second
    assert world.ran_steps() == {"make": 2}
    started = [event for event in client.events if isinstance(event, StepStarted)]
    assert started == [waits, StepStarted(0, "a")]


# --- the cache ----------------------------------------------------------------------------------


async def test_second_build_runs_nothing(world: World) -> None:
    worker = world.worker("a")
    first = await world.build(chain(world, "one", "two"))
    worker.orders.clear()
    client = world.client()
    assert await world.build(chain(world, "one", "two"), client) == first
    assert worker.orders == []
    assert client.events == [StepDone(1, "a", cached=True)]


async def test_definition_hit_does_not_look_at_its_inputs(world: World) -> None:
    """The worker that held only the input is gone; nobody asks for it."""
    first = world.worker("a", labels={"first": ""})
    second = world.worker("b")
    recipe = world.recipe()
    made = recipe.run("make", needs=(("first", ""),))
    recipe.run("take", reads={made: "/make"}, needs=(("name", "b"),))
    await world.build(recipe.graph())
    world.lose(first)
    world.ran.clear()
    second.orders.clear()
    await world.build(recipe.graph())
    assert second.orders == []
    assert world.ran == []


async def test_input_rebuilt_to_the_same_bytes_stops_what_follows(world: World) -> None:
    world.worker("a")
    world.gives |= {"make -j1": SAME, "make -j8": SAME}
    await world.build(chain(world, "make -j1", "two", "three"))
    world.ran.clear()
    await world.build(chain(world, "make -j8", "two", "three"))
    assert world.ran_steps() == {"make -j8": 1}


async def test_content_hit_is_a_definition_hit_from_then_on(world: World) -> None:
    worker = world.worker("a")
    world.gives |= {"make -j1": SAME, "make -j8": SAME}
    await world.build(chain(world, "make -j1", "two"))
    await world.build(chain(world, "make -j8", "two"))
    assert kinds(worker)[-1] == "AddKeys", "the worker remembers it too"
    worker.orders.clear()
    await world.build(chain(world, "make -j8", "two"))
    assert worker.orders == []


async def test_what_steps_did_to_times_is_looked_for_once_and_not_by_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def spy(trees: Sequence[Manifest]) -> Digest:
        threads.append(threading.get_ident())
        return content_made_on(trees)

    monkeypatch.setattr(shared, "content_made_on", spy)
    world.worker("a")
    await world.build(chain(world, "one", "two"))
    assert len(threads) == 1, "what one did, for two"
    assert threads[0] != threading.get_ident(), "it may have touched a million files"


async def test_change_outside_what_a_step_reads_does_not_run_it_again(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    context = recipe.local({"src/main.c": "int", "notes": "old"})
    recipe.run("compile", reads={context: "/src"})
    await world.build(recipe.graph())
    changed = world.recipe()
    context = changed.local({"src/main.c": "int", "notes": "new"})
    changed.run("compile", reads={context: "/src"})
    client = world.client()
    world.ran.clear()
    await world.build(changed.graph(), client)
    assert world.ran == []
    assert client.served == [], "nor is the context sent"


async def test_no_cache_runs_every_step_once(world: World) -> None:
    world.worker("a")
    graph = chain(world, "one", "two")
    await world.build(graph)
    world.ran.clear()
    await world.build(graph, no_cache=True)
    assert world.ran_steps() == {"one": 1, "two": 1}


async def test_no_cache_takes_no_earlier_result_where_its_own_is_lost(world: World) -> None:
    world.worker("b")
    await world.build(chain(world, "one", "two"))
    world.gives["one"] = {"out": "newer bytes"}
    first = world.worker("a")
    world.ran.clear()
    world.hold("two")
    building = asyncio.create_task(world.build(chain(world, "one", "two"), no_cache=True))
    await world.wait_for("two")
    assert world.ran == [("one", "a"), ("two", "a")]
    world.lose(first)
    world.let_go("two")
    await building
    assert world.ran[2:] == [("one", "b"), ("two", "b")]


async def test_target_that_is_asked_for_again_is_not_run_again_without_a_cache(
    world: World,
) -> None:
    world.worker("a")
    graph = chain(world, "one", "two")
    build = Build(world.shared, StartBuild(VERSION, graph, no_cache=True), world.client())
    first = await build.solve_target()
    assert await build.solve_target() == first
    assert len(world.ran) == 2


async def test_no_cache_keeps_images_which_cannot_change(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    image = recipe.image(recipe.local({"index.json": "{}"}, name="layout"))
    recipe.run("make", on=image)
    await world.build(recipe.graph())
    world.ran.clear()
    await world.build(recipe.graph(), no_cache=True)
    assert world.ran_steps() == {"make": 1}


async def test_ignore_cache_runs_that_step_and_what_it_changes(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    first = recipe.run("one")
    second = recipe.run("two", on=first, ignore_cache=True)
    recipe.run("three", on=second)
    await world.build(recipe.graph())
    world.ran.clear()
    await world.build(recipe.graph(second))
    assert world.ran_steps() == {"two": 1}


async def test_ignore_cache_runs_that_step_below_others_that_are_known(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    first = recipe.run("one")
    second = recipe.run("two", on=first, ignore_cache=True)
    third = recipe.run("three", on=second)
    recipe.run("four", on=third)
    await world.build(recipe.graph())
    world.ran.clear()
    await world.build(recipe.graph())
    assert world.ran_steps() == {"two": 1}, "what reads the same as before is known"


async def test_record_that_nobody_holds_any_more_is_no_hit(world: World) -> None:
    first = world.worker("a")
    await world.build(chain(world, "one"))
    world.lose(first)
    world.worker("b")
    solved = await world.build(chain(world, "one"))
    assert solved.worker == "b"


# --- bringing inputs ----------------------------------------------------------------------------


async def test_input_that_is_there_is_not_moved(world: World) -> None:
    worker = world.worker("a")
    await world.build(chain(world, "one", "two"))
    assert kinds(worker) == ["Run", "Run"]
    (order,) = runs(worker)[1].inputs
    assert isinstance(order, FromLocal)


async def test_subpath_moves_alone_from_worker_to_worker(world: World) -> None:
    maker = world.worker("a", labels={"first": ""})
    taker = world.worker("b")
    world.gives["make"] = {"out/tool": "elf", "out/tool.o": "object", "log": "noise"}
    recipe = world.recipe()
    made = recipe.run("make", needs=(("first", ""),))
    recipe.run("take", reads={made: "/out/tool"}, needs=(("name", "b"),))
    client = world.client()
    await world.build(recipe.graph(), client)
    (order,) = runs(taker)[0].inputs
    assert isinstance(order, FromPaths)
    assert [one.worker for one in order.replicas] == ["a"]
    assert kinds(maker) == ["Run", "Offer", "Release"]
    (use,) = client.done()[1].inputs
    assert (use.mode, use.source, use.workers, use.bytes_moved) == (
        Mode.PATHS,
        "make",
        ("a",),
        3,
    )


async def test_what_is_read_of_a_result_comes_as_layers_where_these_are_less(
    world: World,
) -> None:
    world.worker("a")
    taker = world.worker("b")
    world.gives["tools"] = {"tool": "x" * 10_000_000}
    world.gives["more"] = {**world.gives["tools"], "more": "little"}
    recipe = world.recipe()
    tools = recipe.run("tools", needs=(("name", "a"),))
    more = recipe.run("more", on=tools, needs=(("name", "a"),))
    there = recipe.run("there", on=tools, needs=(("name", "b"),))
    recipe.run("mount", on=there, reads={more: "/"}, needs=(("name", "b"),))
    await world.build(recipe.graph())
    read = runs(taker)[1].inputs[1]
    assert isinstance(read, FromLayers)
    assert len(read.chain) == 1


async def test_a_large_subset_comes_from_several_workers_that_hold_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "SHARED_BYTES", 1)
    makers = [world.worker(name) for name in "abcd"]
    taker = world.worker("e")
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    spread = [recipe.run(f"on {n}", on=made, needs=(("name", n),)) for n in "bcd"]
    first = recipe.run("first", reads=dict.fromkeys(spread, "/"), needs=(("name", "a"),))
    recipe.run("take", reads={made: "/make", first: "/"}, needs=(("name", "e"),))
    client = world.client()
    await world.build(recipe.graph(), client)
    order = runs(taker)[0].inputs[0]
    assert isinstance(order, FromPaths)
    names = [one.worker for one in order.replicas]
    assert len(set(names)) == len(names) == MAX_HOLDERS
    assert not any(worker.tokens for worker in makers)


async def test_whole_tree_moves_as_layers_and_only_those_that_are_lacking(world: World) -> None:
    maker = world.worker("a", labels={"first": ""})
    taker = world.worker("b")
    here, there = (("first", ""),), (("name", "b"),)
    recipe = world.recipe()
    base = recipe.run("base", needs=here)
    over = recipe.run("over", on=base, needs=here)
    first = recipe.run("first", on=base, needs=there)
    await world.build(recipe.graph(first))
    recipe.run("second", on=over, needs=there)
    await world.build(recipe.graph())
    pulled = [order for run in runs(taker) for order in run.inputs]
    assert all(isinstance(order, FromLayers) for order in pulled)
    lengths = [len(order.chain) for order in pulled if isinstance(order, FromLayers)]
    assert lengths == [1, 1], "the base is there when what stands on it is pulled"
    assert kinds(maker).count("OfferLayers") == 2


async def test_large_layers_that_several_want_at_once_are_passed_on_from_one_to_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "PASSED_BYTES", 100)
    maker, *takers = (world.worker(name) for name in "abc")
    recipe = world.recipe()
    base = recipe.run("base", needs=(("name", "a"),))
    above = [recipe.run(f"on {n}", on=base, needs=(("name", n),)) for n in "bc"]
    recipe.run("last", on=base, reads=dict.fromkeys(above, "/"), needs=(("name", "a"),))
    world.hold("on b", "on c")
    client = world.client()
    building = asyncio.create_task(world.build(recipe.graph(), client))
    for step in ("on b", "on c"):
        await world.wait_for(step)
    taken = [order for one in takers for run in runs(one) for order in run.inputs]
    first, second = sorted(
        [one for one in taken if isinstance(one, FromLayers)],
        key=lambda order: order.passing is not None,
    )
    assert first.passing is None
    assert second.passing is not None
    assert [one.worker for one in second.replicas] == ["a"], "it stands by"
    world.check_open((second.passing,))
    world.let_go("on b", "on c")
    await building
    assert kinds(maker).count("OfferLayers") == 2
    assert not any(worker.tokens for worker in (maker, *takers)), "all is closed"
    used = [use.workers for done in client.done().values() for use in done.inputs]
    assert {("a",), (second.passing.worker,)} <= set(used)


async def test_a_large_subset_that_several_want_at_once_is_passed_on_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "PASSED_BYTES", 1)
    maker, *takers = (world.worker(name) for name in "abcd")
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    steps = {name: f"take {name}" for name in "bcd"}
    taken = [
        recipe.run(step, reads={made: "/make"}, needs=(("name", name),))
        for name, step in steps.items()
    ]
    recipe.run("last", reads=dict.fromkeys(taken, "/"), needs=(("name", "a"),))
    world.hold(*steps.values())
    building = asyncio.create_task(world.build(recipe.graph()))
    for step in steps.values():
        await world.wait_for(step)
    given = [order for one in takers for order in runs(one)[0].inputs]
    passing = [
        one.passing and one.passing.worker for one in given if isinstance(one, FromPaths)
    ]
    assert len(set(passing)) == 3, "nobody gives to two"
    assert None in passing, "the first takes it from its holder"
    assert "a" not in passing
    world.let_go(*steps.values())
    await building
    assert not any(worker.tokens for worker in (maker, *takers)), "all is closed"


async def test_small_layers_come_from_who_has_them(world: World) -> None:
    _, *takers = (world.worker(name) for name in "abc")
    recipe = world.recipe()
    base = recipe.run("base", needs=(("name", "a"),))
    above = [recipe.run(f"on {n}", on=base, needs=(("name", n),)) for n in "bc"]
    recipe.run("last", reads=dict.fromkeys(above, "/"))
    await world.build(recipe.graph())
    assert not any("PassOn" in kinds(worker) for worker in takers)


async def test_a_worker_that_does_not_pass_on_what_it_takes_is_nobodys_to_wait_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "PASSED_BYTES", 100)
    _, *takers = (world.worker(name) for name in "abc")
    for taker in takers:
        taker.passes_on = False
    recipe = world.recipe()
    base = recipe.run("base", needs=(("name", "a"),))
    above = [recipe.run(f"on {n}", on=base, needs=(("name", n),)) for n in "bc"]
    recipe.run("last", reads=dict.fromkeys(above, "/"))
    await world.build(recipe.graph())
    taken = [order for one in takers for run in runs(one) for order in run.inputs]
    layers = [one for one in taken if isinstance(one, FromLayers)]
    assert [one.passing for one in layers] == [None, None]


async def test_input_that_came_while_a_context_was_sent_is_not_moved_again(
    world: World,
) -> None:
    world.worker("a")
    taker = world.worker("b")
    there = (("name", "b"),)
    recipe = world.recipe()
    context = recipe.local({"file": "f"})
    base = recipe.run("base", needs=(("name", "a"),))
    first = recipe.run("first", on=base, needs=there)
    second = recipe.run("second", on=base, reads={context: "/file"}, needs=there)
    after = recipe.run("after", reads={first: "/"}, needs=there)
    recipe.run("last", reads={second: "/", after: "/"}, needs=there)
    world.hold("context", "after")
    client = world.client()
    building = asyncio.create_task(world.build(recipe.graph(), client))
    await world.wait_for("context")
    await world.wait_for("after")
    world.let_go("context", "after")
    async with asyncio.timeout(10):
        await building
    used = {at: client.done()[at].inputs[0].mode for at in (first, second)}
    assert used == {first: Mode.LAYERS, second: Mode.LOCAL}
    assert kinds(taker).count("Run") == 5


async def test_context_is_sent_by_the_client_once_though_two_workers_read_it(
    world: World,
) -> None:
    world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    context = recipe.local({"left": "l", "right": "r"})
    left = recipe.run("left", reads={context: "/left"}, needs=(("name", "a"),))
    right = recipe.run("right", reads={context: "/right"}, needs=(("name", "b"),))
    recipe.run("both", reads={left: "/", right: "/"})
    client = world.client()
    await world.build(recipe.graph(), client)
    assert len(client.served) == 1
    used = [use for at in (left, right) for use in client.done()[at].inputs]
    assert sorted(use.mode for use in used) == [Mode.LOCAL, Mode.PATHS]


def vendored(world: World, source: str, on: str) -> tuple[Graph, int]:
    """Return a graph that reads much of a context and little of it, and who reads the little."""
    recipe = world.recipe()
    context = recipe.local({"vendor": "much " * 100, "src": source})
    vendor = recipe.run("vendor", reads={context: "/vendor"})
    src = recipe.run("src", reads={context: "/src"}, needs=(("name", on),))
    recipe.run("last", reads={vendor: "/", src: "/"}, needs=(("name", on),))
    return recipe.graph(), src


@pytest.fixture
def sparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few bytes count for many."""
    monkeypatch.setattr(reach, "SPARED_BYTES", 0)


@pytest.mark.usefixtures("sparing")
async def test_of_a_context_no_more_is_sent_than_steps_read_that_are_not_known(
    world: World,
) -> None:
    world.worker("a")
    graph, _ = vendored(world, "one", on="a")
    await world.build(graph)
    other = world.worker("b")
    client = world.client()
    graph, src = vendored(world, "two", on="b")
    await world.build(graph, client)
    assert [part and [pick.path for pick in part.picks] for part in client.parts] == [["/src"]]
    (sent, *_) = runs(other)
    assert isinstance(sent.op, LocalOp)
    (order,) = sent.inputs
    assert isinstance(order, FromPaths)
    assert sorted(one.name for one in Manifest(order.tree, world.nodes).root.entries) == [
        b"src"
    ]
    assert client.done()[src].inputs[0].mode == Mode.LOCAL


@pytest.mark.usefixtures("sparing")
async def test_of_a_context_all_is_sent_where_all_steps_have_to_run(world: World) -> None:
    world.worker("a")
    graph, _ = vendored(world, "one", on="a")
    client = world.client()
    await world.build(graph, client)
    assert client.parts == [None]


async def test_of_a_context_all_is_sent_where_that_is_little(world: World) -> None:
    world.worker("a")
    graph, _ = vendored(world, "one", on="a")
    await world.build(graph)
    world.worker("b")
    client = world.client()
    graph, _ = vendored(world, "two", on="b")
    await world.build(graph, client)
    assert client.parts == [None]


@pytest.mark.usefixtures("sparing")
async def test_what_a_step_reads_that_turns_out_to_be_unknown_is_sent_as_well(
    world: World,
) -> None:
    holder = world.worker("a")
    graph, _ = vendored(world, "one", on="a")
    await world.build(graph)
    world.worker("b")
    client = world.client()
    graph, _ = vendored(world, "two", on="b")
    world.hold("src")
    building = asyncio.create_task(world.build(graph, client))
    await world.wait_for("src")
    world.lose(holder)
    world.let_go("src")
    await building
    first, second = client.parts
    assert first is not None
    assert [pick.path for pick in first.picks] == ["/src"]
    assert second is None, "it is most of it"
    world.check_idle()


async def read_by_b_while_a_has_most_of_it(world: World, client: FakeClient) -> None:
    """Build what reads a little of a context on b, of which a has the rest from before."""
    before = plant(world.nodes, {"vendor": "much " * 100})
    world.worker("a").link.sources["idle"] = before.tree
    world.worker("b")
    recipe = world.recipe()
    context = recipe.local({"vendor": "much " * 100, "src": "new"})
    src = recipe.run("src", reads={context: "/src"}, needs=(("name", "b"),))
    recipe.run("all", reads={src: "/", context: "/"}, needs=(("name", "a"),))
    await world.build(recipe.graph(), client)


async def test_context_goes_first_to_the_worker_that_lacks_much_less_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "DETOUR_BYTES", 0)
    client = world.client()
    await read_by_b_while_a_has_most_of_it(world, client)
    assert [address for _, address in client.served] == ["tcp://a"]
    (src,) = [one for one in client.done().values() if one.worker == "b"]
    assert src.inputs[0].mode == Mode.PATHS


async def test_context_goes_to_the_worker_that_reads_it_where_a_detour_spares_little(
    world: World,
) -> None:
    client = world.client()
    await read_by_b_while_a_has_most_of_it(world, client)
    assert [address for _, address in client.served] == ["tcp://b"]


async def test_context_goes_to_the_worker_that_reads_it_where_the_other_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "DETOUR_BYTES", 0)
    world.fails["context"] = [Failed("store", "no space left")]
    client = world.client()
    await read_by_b_while_a_has_most_of_it(world, client)
    assert [address for _, address in client.served] == ["tcp://a", "tcp://b"]
    world.check_idle()


class Sending:
    """A context on its way to the first of some workers, whose steps all read of it."""

    def __init__(self, world: World, read: str = "/", names: str = "abc") -> None:
        self.world = world
        self.workers = {name: world.worker(name) for name in names}
        recipe = world.recipe()
        context = recipe.local({"much/of": "it " * 100, "little": "of it"})
        self.steps = {name: f"take {name}" for name in names}
        taken = [
            recipe.run(step, reads={context: read}, needs=(("name", name),))
            for name, step in self.steps.items()
        ]
        recipe.run("last", reads=dict.fromkeys(taken, "/"), needs=(("name", names[0]),))
        self.graph = recipe.graph()
        world.hold("context", *self.steps.values())
        self.client = world.client()

    async def begin(self) -> FakeWorker:
        """Begin to build; return the worker that the context is sent to now."""
        self.building = asyncio.create_task(self.world.build(self.graph, self.client))
        return await self.world.wait_for("context")

    async def order(self, name: str) -> FromPaths:
        """Return how the context is to come to a worker's step, which has begun."""
        await self.world.wait_for(self.steps[name])
        (order,) = runs(self.workers[name])[-1].inputs
        assert isinstance(order, FromPaths)
        return order

    async def end(self, *, is_sent: bool = False) -> None:
        self.world.let_go(*([] if is_sent else ["context"]), *self.steps.values())
        await self.building
        self.world.check_idle()
        assert not any(worker.tokens for worker in self.workers.values()), "all is closed"


@pytest.fixture
def passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few bytes be worth to be passed on."""
    monkeypatch.setattr(sources, "PASSED_BYTES", 1)


@pytest.mark.usefixtures("passed_on")
@pytest.mark.parametrize("read", ["/", "/much"])
async def test_a_large_context_is_passed_on_by_its_home_while_it_is_sent_there(
    world: World, read: str
) -> None:
    sending = Sending(world, read)
    home = (await sending.begin()).link.name
    second, third = [await sending.order(name) for name in sorted({*"abc"} - {home})]
    assert [one.worker for one in second.replicas + third.replicas] == [home, home]
    assert second.tree == third.tree
    passing = [one.passing and one.passing.worker for one in (second, third)]
    assert passing.count(None) == 1, "only the first of the row takes it from there"
    (sent,) = [run for run in runs(sending.workers[home]) if isinstance(run.op, LocalOp)]
    (order,) = sent.inputs
    assert isinstance(order, FromPaths)
    asked = [one for one in sending.workers[home].orders if isinstance(one, orders.PassOn)]
    assert {(one.tree, one.within) for one in asked} == {(second.tree, order.tree)}
    await sending.end()
    assert len(sending.client.served) == 1


@pytest.mark.usefixtures("passed_on")
async def test_who_is_let_down_by_the_home_of_a_context_waits_until_it_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "PAUSES_S", (0.0, 0.0))
    sending = Sending(world, names="ab")
    home = (await sending.begin()).link.name
    (other,) = {*"ab"} - {home}
    taken = (sending.steps[other], other)
    await sending.order(other)
    world.fails[sending.steps[other]] = [Failed("unavailable", "gone")]
    world.let_go(sending.steps[other])
    await asyncio.sleep(0.01)
    assert world.ran.count(taken) == 1
    await sending.end()
    assert world.ran.count(taken) == 2
    assert len(sending.client.served) == 1


@pytest.mark.usefixtures("passed_on")
async def test_a_context_that_its_home_does_not_pass_on_is_waited_for(world: World) -> None:
    sending = Sending(world)
    for worker in sending.workers.values():
        worker.passes_on = False
    home = (await sending.begin()).link.name
    await asyncio.sleep(0.01)
    assert "PassOn" in kinds(sending.workers[home])
    assert not any(runs(sending.workers[name]) for name in {*"abc"} - {home})
    world.let_go("context")
    for name in {*"abc"} - {home}:
        (replica,) = (await sending.order(name)).replicas
        assert replica.worker == home
    await sending.end(is_sent=True)


@pytest.mark.usefixtures("passed_on")
async def test_who_has_old_files_of_a_context_waits_until_it_is_sent(world: World) -> None:
    sending = Sending(world, names="ab")
    old = plant(world.nodes, {"much/of": "it " * 99, "little": "of it"})
    for worker in sending.workers.values():
        worker.link.sources["old"] = old.tree
    home = (await sending.begin()).link.name
    (other,) = {*"ab"} - {home}
    await asyncio.sleep(0.01)
    assert not runs(sending.workers[other])
    world.let_go("context")
    assert (await sending.order(other)).basis == "old"
    await sending.end(is_sent=True)


@pytest.mark.usefixtures("passed_on")
async def test_a_context_of_which_nothing_comes_is_waited_for(world: World) -> None:
    sending = Sending(world, names="ab")
    for worker in sending.workers.values():
        worker.progresses = False
    home = await sending.begin()
    (other,) = {*"ab"} - {home.link.name}
    await asyncio.sleep(0.01)
    assert not runs(sending.workers[other])
    await sending.end()


async def test_a_small_context_is_waited_for(world: World) -> None:
    sending = Sending(world, names="ab")
    home = (await sending.begin()).link.name
    await asyncio.sleep(0.01)
    (other,) = {*"ab"} - {home}
    assert not runs(sending.workers[other])
    await sending.end()


async def test_context_read_whole_has_no_layers_and_is_not_looked_for_there(
    world: World,
) -> None:
    world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    layout = recipe.local({"index.json": "{}"}, name="layout")
    recipe.image(layout)
    client = world.client()
    world.fails["image"] = [Failed("unavailable", "try again")]
    await world.build(recipe.graph(), client)
    assert len(client.served) == 1


async def test_path_that_an_input_lacks_ends_the_build_and_names_both(world: World) -> None:
    world.worker("a")
    recipe = world.recipe()
    made = recipe.run("make")
    recipe.run("take", reads={made: "/out/tool"})
    with pytest.raises(StepFailed) as failed:
        await world.build(recipe.graph())
    assert str(failed.value) == "take: 'out/tool' is not there in make"
    assert (failed.value.position, failed.value.reason) == (1, "path-missing")


# --- when things fail ---------------------------------------------------------------------------


async def test_failed_step_ends_the_build_and_is_named(world: World) -> None:
    world.worker("a")
    world.fails["two"] = [Failed("op-failed", "exit status 3", 3, "last words")]
    with pytest.raises(StepFailed) as failed:
        await world.build(chain(world, "one", "two", "three"))
    error = failed.value
    assert (error.position, error.name, error.exit_status, error.tail) == (
        1,
        "two",
        3,
        "last words",
    )
    assert world.ran_steps() == {"one": 1, "two": 1}, "and is not tried again"


async def test_file_of_a_context_that_is_another_one_than_was_scanned_is_said_to_have_changed(
    world: World,
) -> None:
    world.worker("a")
    recipe = world.recipe()
    recipe.run("read", reads={recipe.local({"log": "text"}): "/log"})
    world.fails["context"] = [Failed("content-corrupt", "'log' has the digest ab, not cd")]
    with pytest.raises(StepFailed, match="changed after it was scanned; run again"):
        await world.build(recipe.graph())


FULL = Failed("store", "the disk is full")


async def test_step_that_one_worker_cannot_do_is_done_by_another(world: World) -> None:
    world.worker("a")
    world.worker("b")
    world.fails["make"] = [FULL]
    client = world.client()
    assert (await world.build(chain(world, "make"), client)).worker == "b"
    assert world.ran == [("make", "a"), ("make", "b")]
    warned = [event.text for event in client.events if isinstance(event, Warned)]
    assert warned == ["make runs again: worker a: the disk is full"]


async def test_step_that_no_worker_can_do_ends_the_build_once_each_has_tried(
    world: World,
) -> None:
    for name in "abc":
        world.worker(name, labels={"gpu": ""} if name != "b" else {})
    world.fails["make"] = [FULL] * 3
    recipe = world.recipe()
    recipe.run("make", needs=(("gpu", ""),))
    with pytest.raises(StepFailed, match="make: the disk is full") as failed:
        await world.build(recipe.graph())
    assert failed.value.reason == "store"
    assert world.ran == [("make", "a"), ("make", "c")]


async def test_failed_step_cancels_what_runs_beside_it(world: World) -> None:
    worker = world.worker("a")
    recipe = world.recipe()
    slow, bad = recipe.run("slow"), recipe.run("bad")
    recipe.run("both", reads={slow: "/", bad: "/"})
    world.hold("slow", "bad")
    world.fails["bad"] = [Failed("op-failed", "exit status 1", 1)]
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("slow")
    await world.wait_for("bad")
    world.let_go("bad")
    with pytest.raises(StepFailed, match="bad"):
        await building
    assert len(worker.cancelled) == 1


async def test_offers_are_closed_when_the_step_that_takes_them_fails(world: World) -> None:
    maker = world.worker("a")
    world.worker("b")
    world.fails["take"] = [Failed("op-failed", "exit status 1", 1)]
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    recipe.run("take", reads={made: "/make"}, needs=(("name", "b"),))
    with pytest.raises(StepFailed):
        await world.build(recipe.graph())
    assert kinds(maker) == ["Run", "Offer", "Release"]


async def test_offer_of_another_subset_than_ours_is_closed_and_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = world.worker("a")
    world.worker("b")
    offered, lie = maker._offered, plant(world.nodes, {"something": "else"}).tree
    monkeypatch.setattr(maker, "_offered", lambda _: offered(lie))
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    recipe.run("take", reads={made: "/make"}, needs=(("name", "b"),))
    with pytest.raises(StepFailed, match="selected another subset"):
        await world.build(recipe.graph())


async def test_step_whose_worker_is_lost_runs_on_another(world: World) -> None:
    world.worker("a")
    world.worker("b")
    world.hold("make")
    client = world.client()
    building = asyncio.create_task(world.build(chain(world, "make"), client))
    world.lose(await world.wait_for("make"))
    survivor = await world.wait_for("make")
    world.let_go("make")
    assert (await building).worker == survivor.link.name == "b"
    started = [event for event in client.events if isinstance(event, StepStarted)]
    assert started == [StepStarted(0, "a"), StepStarted(0, "b")]


async def test_input_whose_last_holder_is_lost_is_solved_again(world: World) -> None:
    first = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    made = recipe.run("make")
    recipe.run("take", on=made, needs=(("name", "b"),))
    world.hold("take")
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("take")
    assert world.ran == [("make", "a"), ("take", "b")]
    world.lose(first)
    world.fails["take"] = [Failed("unavailable", "the peer is gone")]
    world.let_go("take")
    assert (await building).worker == "b"
    assert world.ran_steps() == {"make": 2, "take": 2}


async def test_lost_input_that_nobody_pulled_runs_again_elsewhere(world: World) -> None:
    first = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    made = recipe.run("make")
    other = recipe.run("other", reads={made: "/make"}, needs=(("name", "b"),))
    recipe.run("take", reads={made: "/make", other: "/other"}, needs=(("name", "b"),))
    world.hold("other")
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("other")
    assert first.held
    world.lose(first)
    world.let_go("other")
    await building
    assert ("make", "b") in world.ran
    assert world.ran_steps() == {"make": 2, "other": 1, "take": 1}


async def test_step_whose_input_was_made_anew_is_known_by_what_that_is_now(
    world: World,
) -> None:
    first = world.worker("a")
    world.gives |= {"one": SAME, "uno": SAME}
    world.hold("two")
    building = asyncio.create_task(world.build(chain(world, "one", "two")))
    await world.wait_for("two")
    world.worker("b")
    world.gives["one"] = {"out": "other bytes"}
    world.lose(first)
    world.let_go("two")
    await building
    world.ran.clear()
    recipe = world.recipe()
    recipe.run("dos", on=recipe.run("uno"), command="two")
    await world.build(recipe.graph())
    assert world.ran_steps() == {"uno": 1, "dos": 1}, "nothing was made of these bytes before"


async def test_step_waits_for_no_equal_one_that_waits_for_it(world: World) -> None:
    """Steps that change nothing read the same, and without a cache each of them runs."""
    first = world.worker("a")
    world.gives |= {"base": SAME, "check again": SAME}
    recipe = world.recipe()
    once = recipe.run("check", on=recipe.run("base"), command="check")
    recipe.run("check again", on=once, command="check")
    world.hold("check again")
    building = asyncio.create_task(world.build(recipe.graph(), no_cache=True))
    await world.wait_for("check again")
    world.let_go("check again")
    world.hold("check again")
    await world.wait_for("check again")
    world.worker("b")
    world.lose(first)
    world.let_go("check again")
    async with asyncio.timeout(10):
        await building


async def test_context_whose_holder_is_lost_is_sent_again(world: World) -> None:
    first = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    context = recipe.local({"file": "text"})
    recipe.run("take", reads={context: "/file"})
    world.hold("take")
    client = world.client()
    building = asyncio.create_task(world.build(recipe.graph(), client))
    assert await world.wait_for("take") is first
    world.lose(first)
    await world.wait_for("take")
    world.let_go("take")
    await building
    assert [address for _, address in client.served] == ["tcp://a", "tcp://b"]


async def test_result_that_a_holder_has_dropped_costs_a_round_trip_and_no_build(
    world: World,
) -> None:
    maker = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    await world.build(recipe.graph())
    maker.held.clear()
    recipe.run("take", reads={made: "/make"}, needs=(("name", "b"),))
    world.ran.clear()
    await world.build(recipe.graph())
    assert world.ran_steps() == {"make": 1, "take": 1}


async def test_of_layers_that_a_holder_has_dropped_in_part_only_these_are_made_again(
    world: World,
) -> None:
    maker = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    one = recipe.run("one", needs=(("name", "a"),))
    two = recipe.run("two", on=one, needs=(("name", "a"),))
    ref = (await world.build(recipe.graph())).ref
    assert ref is not None
    del maker.held[ref]
    recipe.run("take", on=two, needs=(("name", "b"),))
    world.ran.clear()
    await world.build(recipe.graph())
    assert world.ran_steps() == {"two": 1, "take": 1}


async def test_local_input_that_the_worker_has_dropped_is_made_again(world: World) -> None:
    maker = world.worker("a")
    await world.build(chain(world, "make"))
    maker.held.clear()
    world.ran.clear()
    await world.build(chain(world, "make", "take"))
    assert world.ran_steps() == {"take": 2, "make": 1}


async def test_of_local_inputs_of_which_the_worker_has_dropped_one_only_that_is_made_again(
    world: World,
) -> None:
    maker = world.worker("a")
    recipe = world.recipe()
    lost = recipe.run("lost")
    ref = (await world.build(recipe.graph())).ref
    assert ref is not None
    kept = recipe.run("kept")
    await world.build(recipe.graph())
    del maker.held[ref]
    recipe.run("take", reads={lost: "/lost", kept: "/kept"})
    world.ran.clear()
    await world.build(recipe.graph())
    assert world.ran_steps() == {"take": 2, "lost": 1}


async def test_context_beside_an_input_that_the_worker_has_dropped_is_sent_once_and_let_go_of(
    world: World,
) -> None:
    maker = world.worker("a")
    recipe = world.recipe()
    lost = recipe.run("lost")
    await world.build(recipe.graph())
    maker.held.clear()
    context = recipe.local({"file": "text"})
    recipe.run("take", reads={lost: "/lost", context: "/file"})
    client = world.client()
    await world.build(recipe.graph(), client)
    assert len(client.served) == 1
    world.check_idle()


async def test_what_layers_stand_on_that_the_worker_has_dropped_is_brought_too(
    world: World,
) -> None:
    world.worker("a")
    taker = world.worker("b")
    here, there = (("name", "a"),), (("name", "b"),)
    recipe = world.recipe()
    at = recipe.run("base", needs=here)
    for name in ("one", "two", "three", "four"):
        at = recipe.run(name, on=at, needs=here)
    await world.build(recipe.graph(recipe.run("first", on=at, needs=there)))
    recipe.run("second", on=recipe.run("over", on=at, needs=here), needs=there)
    taker.held.clear()  # it is pruned, and says so once that is done
    world.ran.clear()
    await world.build(recipe.graph())
    assert world.ran_steps() == {"over": 1, "second": 2}


async def test_worker_that_leaves_as_it_answers_is_no_holder(world: World) -> None:
    first = world.worker("a")
    world.worker("b")
    world.hold("make")
    building = asyncio.create_task(world.build(chain(world, "make")))
    await world.wait_for("make")
    answer = first.answer

    async def answer_and_leave(number: int, result: orders.Result) -> None:
        await answer(number, result)
        if "a" in world.workers:
            world.lose(first)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "answer", answer_and_leave)
        world.let_go("make")
        await world.wait_for("make")
    solved = await building
    assert solved.ref is not None
    assert [one.name for one in world.shared.cluster.holders(solved.ref)] == ["b"]


async def test_step_whose_inputs_nobody_gives_again_and_again_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "PAUSES_S", (0.0, 0.0, 0.01, 0.01))
    world.worker("a")
    world.fails["make"] = [Failed("unavailable", "no peer") for _ in range(20)]
    with pytest.raises(StepFailed, match="gave up after 4 tries: worker a: no peer"):
        await world.build(chain(world, "make"))
    assert world.ran_steps() == {"make": 4}


async def test_answer_with_too_few_reports_is_the_workers_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = world.worker("a")
    answer = worker.answer

    async def shortened(number: int, result: orders.Result) -> None:
        await answer(
            number, orders.Ran(result.ref) if isinstance(result, orders.Ran) else result
        )

    monkeypatch.setattr(worker, "answer", shortened)
    with pytest.raises(StepFailed, match="reports on 0 of 1 inputs"):
        await world.build(chain(world, "one", "two"))


# --- ending a build -----------------------------------------------------------------------------


async def test_cancelled_build_cancels_its_orders(world: World) -> None:
    worker = world.worker("a")
    recipe = world.recipe()
    left, right = recipe.run("left"), recipe.run("right")
    recipe.run("both", reads={left: "/", right: "/"})
    world.hold("left", "right")
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("left")
    await world.wait_for("right")
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    first, second = sorted(worker.cancelled)
    assert second == first + 1


async def test_cancelled_build_closes_its_offers_and_lets_its_context_go(world: World) -> None:
    world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    context = recipe.local({"file": "text"})
    made = recipe.run("make", needs=(("name", "a"),))
    recipe.run("take", reads={context: "/file", made: "/make"}, needs=(("name", "b"),))
    world.hold("take")
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("take")
    assert world.workers["a"].tokens
    assert world.workers["b"].sources
    building.cancel()
    await asyncio.wait({building})
    world.check_idle()


async def test_cancelled_build_closes_an_offer_that_was_on_its_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    recipe.run("take", reads={made: "/make"}, needs=(("name", "b"),))
    on_its_way: list[tuple[int, orders.Result]] = []
    offered = asyncio.Event()
    answer = maker.answer

    async def delayed(number: int, result: orders.Result) -> None:
        if isinstance(result, orders.Offered):
            on_its_way.append((number, result))
            offered.set()
        else:
            await answer(number, result)

    monkeypatch.setattr(maker, "answer", delayed)
    building = asyncio.create_task(world.build(recipe.graph()))
    await offered.wait()
    building.cancel()
    await asyncio.wait({building})
    assert maker.tokens
    for one in on_its_way:
        await answer(*one)
    await asyncio.wait(maker.tasks.values())
    assert not maker.tokens
    assert kinds(maker) == ["Run", "Offer", "Release"]


async def test_cancelled_build_that_has_only_to_let_go_keeps_what_was_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = world.worker("a")
    world.worker("b")
    recipe = world.recipe()
    made = recipe.run("make", needs=(("name", "a"),))
    recipe.run("take", reads={made: "/make"}, needs=(("name", "b"),))
    released, let_go = asyncio.Event(), asyncio.Event()
    answer = maker.answer

    async def delayed(number: int, result: orders.Result) -> None:
        if isinstance(result, orders.Finished):
            released.set()
            await let_go.wait()
        await answer(number, result)

    monkeypatch.setattr(maker, "answer", delayed)
    building = asyncio.create_task(world.build(recipe.graph()))
    await released.wait()
    building.cancel()
    let_go.set()
    await asyncio.wait({building})
    world.ran.clear()
    await world.build(recipe.graph())
    assert world.ran == []


async def test_cancelled_build_leaves_what_another_build_waits_for(world: World) -> None:
    world.worker("a")
    world.hold("make")
    first = asyncio.create_task(world.build(chain(world, "make")))
    await world.wait_for("make")
    second = asyncio.create_task(world.build(chain(world, "make", "more")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    world.let_go("make")
    await first
    assert world.ran_steps() == {"make": 1}
