"""Steps of which it is about to be known whether they have to run."""

import asyncio

from filesync.digest import EMPTY
from solver.graph import Graph, Vertex
from solver.manager.deciding import Deciding
from worker.wire.ops import ExecOp, LocalOp


def row(length: int) -> Graph:
    """Return a context and steps that stand on each other, the first on the context."""
    context = Vertex(LocalOp("context", EMPTY, EMPTY))
    steps = [Vertex(ExecOp(("true",)), (at,)) for at in range(length)]
    return Graph((context, *steps), length)


class Rig:
    """What is decided of a row of steps, and which are solved."""

    def __init__(self, length: int, *opened: int) -> None:
        self.solved = {0}
        self.deciding = Deciding(row(length), self.solved.__contains__)
        for step in opened:
            self.deciding.begin(step)

    def waiting(self, *steps: int) -> "asyncio.Task[None]":
        return asyncio.create_task(self.deciding.until_known(steps))


async def waits(task: "asyncio.Task[None]") -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


async def test_a_step_that_is_looked_at_is_waited_for_until_the_answer_is_there() -> None:
    rig = Rig(1, 1)
    waiting = rig.waiting(1)
    assert await waits(waiting)
    rig.deciding.end(1)
    await waiting


async def test_a_step_that_runs_is_not_waited_for() -> None:
    await Rig(2, 2).waiting(1)


async def test_a_step_that_waits_for_one_that_runs_is_not_waited_for() -> None:
    await Rig(3, 2, 3).waiting(3)


async def test_a_step_whose_inputs_are_about_to_be_known_is_waited_for() -> None:
    rig = Rig(3, 2, 3)
    rig.solved.add(1)
    waiting = rig.waiting(3)
    assert await waits(waiting)
    rig.solved.add(2)
    rig.deciding.end(2)
    assert await waits(waiting)
    rig.deciding.end(3)
    await waiting


async def test_where_an_input_turns_out_to_run_its_readers_are_waited_for_no_more() -> None:
    rig = Rig(3, 1, 2, 3)
    waiting = rig.waiting(3)
    assert await waits(waiting)
    rig.deciding.end(1)
    await waiting


async def test_several_are_waited_for_until_the_last() -> None:
    rig = Rig(2, 1, 2)
    waiting = rig.waiting(1, 2)
    for step in (1, 2):
        assert await waits(waiting)
        rig.solved.add(step)
        rig.deciding.end(step)
    await waiting


async def test_who_has_ended_may_end_again_and_wakes_nobody() -> None:
    rig = Rig(1)
    rig.deciding.end(1)
    await rig.waiting(1)
