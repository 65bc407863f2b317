"""SSH agents: what the steps of a build, wherever they run, ask of its client's."""

import logging
from typing import Final, NamedTuple

from solver.manager.workers import WorkerLink
from solver.wire import AgentSaid, AskAgent
from worker.wire.agents import AgentAnswered, AgentAsked

log = logging.getLogger(__name__)

MAX_LINES: Final = 1024
"""Connections at once of one build's steps; more are not answered."""


class _End(NamedTuple):
    """Where a process's connection is."""

    worker: WorkerLink
    order: int
    line: int


class AgentLines:
    """The connections of one build's steps to its client's agents, and their numbers there."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, int, int], int] = {}
        self._ends: dict[int, _End] = {}
        self._waiting: set[int] = set()
        self._last = 0

    def asked(self, worker: WorkerLink, asked: AgentAsked) -> AskAgent | None:
        """Return what the client is to be asked.

        None where nobody can wait for the answer: a process asks one thing after the other.
        """
        key = (worker.identity, asked.id, asked.line)
        number = self._numbers.get(key)
        if number is None:
            if not asked.said:
                return None
            if len(self._ends) >= MAX_LINES:
                log.warning("too many ask an agent at once worker=%s", worker.name)
                return None
            self._last += 1
            number = self._numbers[key] = self._last
            self._ends[number] = _End(worker, asked.id, asked.line)
        if not asked.said:
            self._forget(number)
        elif number in self._waiting:
            return None
        else:
            self._waiting.add(number)
        return AskAgent(asked.agent, number, asked.said)

    def answered(self, said: AgentSaid) -> tuple[WorkerLink, AgentAnswered] | None:
        """Return who is to be told what; None where the process has ended meanwhile."""
        end = self._ends.get(said.line)
        if end is None or said.line not in self._waiting:
            return None
        self._waiting.discard(said.line)
        if not said.said:
            self._forget(said.line)
        return end.worker, AgentAnswered(end.order, end.line, said.said)

    def _forget(self, number: int) -> None:
        end = self._ends.pop(number)
        del self._numbers[end.worker.identity, end.order, end.line]
        self._waiting.discard(number)
