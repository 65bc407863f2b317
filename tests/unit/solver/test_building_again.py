"""How often, and for how long, a build is begun again whose manager has gone."""

import asyncio
from collections.abc import Iterator

import pytest

from solver.client import again
from solver.client.outputs.outputs import STDOUT, Output, OutputType
from solver.client.progress import Quiet
from solver.client.request import BuildRequest
from solver.dockerfile import Options
from solver.errors import BuildError, CutOff, ManagerLost

GONE = CutOff("it has restarted", "run it again")
AWAY = ManagerLost("nobody answers")


class Tries:
    """What each try comes to, and how many there were."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, ends: Iterator[Exception | None]
    ) -> None:
        self.count = 0
        self.notes: list[str] = []
        self._ends = ends
        monkeypatch.setattr(again, "run_once", self._run_once)

    async def _run_once(self, *_: object) -> dict[str, object]:
        self.count += 1
        if (end := next(self._ends)) is not None:
            raise end
        return {"tries": self.count}

    def run(self, *outputs: Output) -> dict[str, object]:
        request = BuildRequest(None, "", Options(), {}, {}, outputs)
        return asyncio.run(again.run_build(request, "tcp://manager:1", lambda: Noting(self)))


class Noting(Quiet):
    def __init__(self, tries: Tries) -> None:
        self._tries = tries

    def note(self, text: str) -> None:
        self._tries.notes.append(text)


def test_a_build_is_begun_again_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, iter([GONE, GONE, None]))
    assert tries.run() == {"tries": 3}
    assert len(tries.notes) == 2
    assert tries.notes[0].startswith("warning: it has restarted; the build is begun again")


def test_it_is_not_begun_again_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, iter([GONE] * 100))
    with pytest.raises(CutOff, match="what was built is kept: run it again"):
        tries.run()
    assert tries.count == again.TRIES


def test_a_manager_that_never_answered_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = Tries(monkeypatch, iter([AWAY]))
    with pytest.raises(ManagerLost, match="nobody answers"):
        tries.run()


def test_one_that_was_there_is_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Tries(monkeypatch, iter([GONE, AWAY, AWAY, None])).run() == {"tries": 4}
    monkeypatch.setattr(again, "RETURN_S", -1.0)
    tries = Tries(monkeypatch, iter([GONE, AWAY, None]))
    with pytest.raises(ManagerLost, match="nobody answers"):
        tries.run()
    assert tries.count == 2


def test_what_may_have_gone_to_a_pipe_is_not_sent_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = Tries(monkeypatch, iter([GONE, None]))
    with pytest.raises(CutOff):
        tries.run(Output(OutputType.TAR, STDOUT))
    assert tries.count == 1


def test_a_step_that_fails_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(monkeypatch, iter([BuildError("step-failed", "exit status 1"), None]))
    with pytest.raises(BuildError):
        tries.run()
    assert tries.count == 1
