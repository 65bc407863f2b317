"""Which steps of a build it is not yet known of whether they have to run."""

import asyncio
from collections.abc import Callable, Iterable

from solver.graph import Graph


class Deciding:
    """Steps between the first look at them and the answer: their result is known, or they run.

    For one event loop.
    """

    def __init__(self, graph: Graph, is_solved: Callable[[int], bool]) -> None:
        self._graph = graph
        self._is_solved = is_solved
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

    async def until_known(self, steps: Iterable[int]) -> None:
        """Wait until it is known of ``steps``, but for those that wait for what runs."""
        steps = list(steps)
        while any(self._is_known_soon(step) for step in steps):
            await self._change.wait()

    def _is_known_soon(self, step: int) -> bool:
        """Whether nothing has to run before it is known."""
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
