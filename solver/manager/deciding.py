"""Which steps of a build it is not known of yet whether they have to run."""

import asyncio
from collections.abc import Mapping

from solver.graph import Graph
from solver.manager.shared import Solved
from solver.reads import Read, reads


class Deciding:
    """Steps between the first look at them and the answer: their result is known, or they run.

    For one event loop.
    """

    def __init__(self, graph: Graph, solving: Mapping[int, "asyncio.Task[Solved]"]) -> None:
        """``solving`` has a task for each step that was looked at; it is done once that is solved."""
        self._graph = graph
        self._solving = solving
        self._reads = reads(graph)
        self._open: set[int] = set()
        self._change = asyncio.Event()

    def begin(self, step: int) -> None:
        """Look at a step."""
        self._open.add(step)

    def end(self, step: int) -> None:
        """Know the answer, or that it will take long. Idempotent."""
        if step in self._open:
            self._open.remove(step)
            self._change.set()
            self._change = asyncio.Event()

    async def still_read(self, position: int) -> tuple[Read, ...]:
        """Return who is to read a result, of the steps that were looked at.

        Waits for the answer of those for which nothing has to run before.
        """
        readers = [read for read in self._reads[position] if read.step in self._solving]
        while any(self._is_known_soon(read.step) for read in readers):
            await self._change.wait()
        return tuple(read for read in readers if not self._is_solved(read.step))

    def _is_known_soon(self, step: int) -> bool:
        todo, seen = [step], set[int]()
        while todo:
            at = todo.pop()
            if at in seen or self._is_solved(at):
                continue
            if at not in self._open:
                return False
            seen.add(at)
            todo.extend(self._graph.vertices[at].inputs)
        return bool(seen)

    def _is_solved(self, step: int) -> bool:
        task = self._solving.get(step)
        if task is None or not task.done():
            return False
        return not task.cancelled() and task.exception() is None
