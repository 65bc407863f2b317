"""Steps of which it is about to be known whether they have to run."""

import asyncio

from filesync.digest import EMPTY
from solver.graph import Graph, Vertex
from solver.manager.deciding import Deciding
from solver.manager.shared import Solved
from worker.wire.ops import BindMount, ExecOp, LocalOp

CONTEXT = 0


def row(length: int) -> Graph:
    """Return a context, and steps that stand on each other and read it."""
    context = Vertex(LocalOp("context", EMPTY, EMPTY))
    run = ExecOp(("true",), mounts=(BindMount("/src", 1, "/src"),))
    first = Vertex(ExecOp(("true",)), (CONTEXT,))
    steps = [Vertex(run, (at, CONTEXT)) for at in range(1, length)]
    return Graph((context, first, *steps), length)


class Rig:
    """What is decided of a row of steps, all of which are looked at."""

    def __init__(self, length: int, *opened: int) -> None:
        loop = asyncio.get_running_loop()
        self._answers = [loop.create_future() for _ in range(length + 1)]
        tasks = {at: asyncio.create_task(self._solve(at)) for at in range(length + 1)}
        self.deciding = Deciding(row(length), tasks)
        for step in opened:
            self.deciding.begin(step)

    async def _solve(self, step: int) -> Solved:
        await self._answers[step]
        return Solved(step, EMPTY, None, "")

    async def solve(self, *steps: int) -> None:
        for step in steps:
            self._answers[step].set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)
        for step in steps:
            self.deciding.end(step)

    def asked(self) -> "asyncio.Task[list[int]]":
        async def ask() -> list[int]:
            return sorted(read.step for read in await self.deciding.still_read(CONTEXT))

        return asyncio.create_task(ask())


async def waits(task: "asyncio.Task[list[int]]") -> bool:
    await asyncio.sleep(0.01)
    return not task.done()


async def test_steps_that_are_solved_read_no_more() -> None:
    rig = Rig(3)
    await rig.solve(CONTEXT, 1, 2)
    assert await rig.asked() == [3]


async def test_a_step_that_is_looked_at_is_waited_for_until_the_answer_is_there() -> None:
    rig = Rig(2, 1, 2)
    await rig.solve(CONTEXT)
    asked = rig.asked()
    assert await waits(asked)
    await rig.solve(1)
    assert await waits(asked)
    rig.deciding.end(2)
    assert await asked == [2]


async def test_a_step_that_runs_is_not_waited_for_nor_who_waits_for_it() -> None:
    rig = Rig(3, 2, 3)
    await rig.solve(CONTEXT)
    assert await rig.asked() == [1, 2, 3]


async def test_where_an_input_turns_out_to_run_its_readers_are_waited_for_no_more() -> None:
    rig = Rig(3, 1, 2, 3)
    await rig.solve(CONTEXT)
    asked = rig.asked()
    assert await waits(asked)
    rig.deciding.end(1)
    assert await asked == [1, 2, 3]


async def test_steps_that_nobody_looked_at_are_not_counted() -> None:
    graph = row(2)
    assert await Deciding(graph, {}).still_read(CONTEXT) == ()
