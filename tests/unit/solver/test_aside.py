"""Progress that is shown by a thread of its own."""

import threading

import pytest

from solver.client import aside
from solver.client.aside import Aside
from solver.graph import Graph
from solver.wire import Event, StepOutput, StepStarted

STARTED = StepStarted(0, "a")


class Reader:
    """Progress whose reader stops reading until it is let go on."""

    def __init__(self) -> None:
        self.reads = threading.Event()
        self.shown: list[object] = []
        self.error: Exception | None = None

    def _take(self, what: object) -> None:
        self.reads.wait(10)
        if self.error is not None:
            raise self.error
        self.shown.append(what)

    def begin(self, graph: Graph | None) -> None:
        self._take("begin")

    def event(self, event: Event) -> None:
        self._take(event)

    def note(self, text: str) -> None:
        self._take(text)

    def close(self) -> None:
        self.shown.append("close")


def test_nobody_waits_for_a_reader_and_nothing_is_lost() -> None:
    reader = Reader()
    told = Aside(reader)
    told.begin(None)
    for number in range(100):
        told.event(StepStarted(number, "a"))
    told.note("note")
    assert reader.shown == []
    reader.reads.set()
    told.close()
    started = [StepStarted(number, "a") for number in range(100)]
    assert reader.shown == ["begin", *started, "note", "close"]
    told.close()
    told.note("after")
    assert reader.shown[-1] == "after"


def test_what_is_noted_before_the_build_is_shown_at_once() -> None:
    reader = Reader()
    reader.reads.set()
    Aside(reader).note("before")
    assert reader.shown == ["before"]


def test_more_output_than_is_held_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aside, "MAX_HELD_BYTES", 10)
    reader = Reader()
    told = Aside(reader)
    told.begin(None)
    output = [StepOutput(0, 1, bytes([number]) * 4) for number in range(5)]
    for one in output:
        told.event(one)
    told.event(STARTED)
    reader.reads.set()
    told.close()
    assert reader.shown[:5] == ["begin", *output[:2], STARTED, reader.shown[4]]
    assert "12 bytes that steps printed were not shown" in str(reader.shown[4])


def test_a_reader_that_has_gone_is_told_of_by_the_next_call() -> None:
    reader = Reader()
    told = Aside(reader)
    told.begin(None)
    reader.error = BrokenPipeError()
    reader.reads.set()
    with pytest.raises(BrokenPipeError):
        told.close()
    with pytest.raises(BrokenPipeError):
        told.event(STARTED)
