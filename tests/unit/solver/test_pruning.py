"""Pruning as the manager drives it: what workers are told, and what it believes afterwards."""

import asyncio

from filesync.digest import digest_of
from solver.manager.results.lastcopies import Holder, holds_of
from solver.manager.results.pruning import Pruning
from tests.unit.solver.fakes import FakeWorker, World
from worker.wire.disk import Holdings, Holds, Kind, Prune, PrunePolicy, ReadUsage, Usage
from worker.wire.orders import Failed, RefInfo

LAYER = "sha256:" + "1" * 64
REF = digest_of(b"ref")
INFO = RefInfo(REF, digest_of(b"tree"))
POLICY = PrunePolicy()


def told(worker: FakeWorker) -> list[Holds]:
    return [one.holds for one in worker.orders if isinstance(one, Prune | ReadUsage)]


def both(world: World) -> tuple[FakeWorker, FakeWorker]:
    """Two workers that hold one result with its layer."""
    workers = (world.worker("a"), world.worker("b"))
    for worker in workers:
        worker.holdings = Holdings((LAYER,), ((REF, LAYER),))
        world.shared.cluster.add_ref(worker.link, INFO)
    return workers


async def test_of_two_workers_with_a_blob_the_second_is_told_that_it_has_the_last_copy(
    world: World,
) -> None:
    first, second = both(world)

    def gone(worker: FakeWorker) -> Usage:
        worker.holdings = Holdings((), ((REF, LAYER),))
        return Usage(())

    first.answers = lambda: gone(first)
    second.says.append(Usage(()))
    await Pruning(world.shared).prune(POLICY, verbose=False)
    assert told(first) == [Holds(copied=(LAYER,))]
    assert told(second) == [Holds(last_copies=(LAYER,))]


async def test_what_has_moved_while_others_were_pruned_is_known_of(world: World) -> None:
    first, second = world.worker("a"), world.worker("b")

    def moved() -> Usage:
        # It was made by the second one meanwhile, and came to the first without its blob.
        second.holdings = Holdings((LAYER,), ((REF, LAYER),))
        for worker in (first, second):
            world.shared.cluster.add_ref(worker.link, INFO)
        return Usage(())

    first.answers = moved
    second.says.append(Usage(()))
    await Pruning(world.shared).prune(POLICY, verbose=False)
    assert told(second) == [Holds(last_copies=(LAYER,))]


def test_the_only_copy_of_a_form_is_kept_for_the_layer_of_a_result_that_lives_elsewhere() -> (
    None
):
    forms = [f"sha256:{digit * 64}" for digit in "23"]
    gone = f"sha256:{'4' * 64}"
    here = Holdings(tuple(forms), (), ((LAYER, forms[0]), (gone, forms[1])))
    holders = {
        "here": Holder(here, frozenset()),
        "there": Holder(Holdings((LAYER,), ((REF, LAYER),)), frozenset({REF})),
    }
    assert holds_of("here", holders, ()).last_copies == (forms[0],)


async def test_what_a_worker_has_removed_is_believed_of_it_alone(world: World) -> None:
    first, second = both(world)
    first.says.append(Usage((), refs=(REF,)))
    second.says.append(Usage(()))
    await Pruning(world.shared).prune(POLICY, verbose=False)
    assert world.shared.cluster.holders(REF) == [second.link]


async def test_a_result_that_nobody_has_any_more_is_forgotten_when_nobody_builds(
    world: World,
) -> None:
    first, second = both(world)
    world.shared.records.add(INFO)
    pruning = Pruning(world.shared)
    first.says.append(Usage((), refs=(REF,)))
    second.says.append(Usage(()))
    await pruning.prune(POLICY, verbose=False)
    pruning.forget()
    assert world.shared.records.ref(REF) == INFO, "the second one has it"
    first.says.append(Usage(()))
    second.says.append(Usage((), refs=(REF,)))
    await pruning.prune(POLICY, verbose=False)
    assert world.shared.records.ref(REF) == INFO, "a build may have found it before"
    pruning.forget()
    assert world.shared.records.ref(REF) is None


async def test_who_could_not_sweep_when_it_was_pruned_is_asked_once_more(world: World) -> None:
    first, second = both(world)
    first.says.append(Usage((), swept=False))
    second.says.append(Usage(()))
    pruning = Pruning(world.shared)
    await pruning.prune(POLICY, verbose=False)
    first.says.append(Usage(()))
    await pruning.sweep()
    await pruning.sweep()
    assert [len(told(worker)) for worker in (first, second)] == [2, 1]


async def test_what_a_build_holds_is_told_and_let_go_with_it(world: World) -> None:
    worker = world.worker("a")
    recipe = world.recipe()
    recipe.run("one")
    world.hold("one")
    building = asyncio.create_task(world.build(recipe.graph()))
    await world.wait_for("one")
    world.shared.leases.hold(b"other", [REF])
    worker.says.extend([Usage(())] * 2)
    await Pruning(world.shared).usage(verbose=False)
    assert told(worker)[-1].refs == (REF,)
    world.let_go("one")
    solved = await building
    assert worker.touched == {solved.ref}
    world.shared.leases.release(b"other")
    await Pruning(world.shared).usage(verbose=False)
    assert told(worker)[-1].refs == ()


async def test_a_worker_that_does_not_answer_is_named_and_keeps_nobody_waiting(
    world: World,
) -> None:
    first, second = both(world)
    first.says.append(Failed("store", "its disk is broken"))
    second.says.append(Usage(()))
    usages = await Pruning(world.shared).prune(POLICY, verbose=False)
    assert [name for name, _ in usages.workers] == ["b"]
    assert usages.failed[0][0] == "a"
    assert "its disk is broken" in usages.failed[0][1]


async def test_a_crowded_worker_is_pruned_by_its_own_policies_and_once_at_a_time(
    world: World,
) -> None:
    worker = world.worker("a")
    policies = (PrunePolicy((Kind.RESULT,), 5.0), PrunePolicy(max_used_bytes=7))
    worker.says.append(Usage(()))
    pruning = Pruning(world.shared)
    await asyncio.gather(*(pruning.relieve(worker.link, policies) for _ in range(3)))
    assert [one.policies for one in worker.orders if isinstance(one, Prune)] == [policies]
