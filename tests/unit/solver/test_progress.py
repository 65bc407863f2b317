"""Progress: what people and programs are told, and what output cannot do to a terminal."""

import io
import json
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import digest_of
from solver.client.outputlines import MAX_LINE_CHARS
from solver.client.progress import make_progress
from solver.client.wording import human, printable
from solver.graph import Graph, Vertex
from solver.wire import (
    Event,
    Explained,
    InputUse,
    PushProgress,
    StepDone,
    StepOutput,
    StepProgress,
    StepStarted,
    TransferProgress,
)
from worker.wire.ops import ExecOp
from worker.wire.orders import Mode

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e"


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def graph(*names: str) -> Graph:
    return Graph(tuple(Vertex(ExecOp(("x",)), (), name, "s") for name in names), 0)


def told(kind: str, events: Sequence[Event], *, name: str = "RUN make") -> list[str]:
    out = io.StringIO()
    progress = make_progress(kind, out)
    progress.begin(graph(name))
    for event in events:
        progress.event(event)
    progress.close()
    return out.getvalue().splitlines()


def test_plain_tells_of_a_step_line_by_line() -> None:
    use = InputUse(Mode.PATHS, "[build] make", ("b",), 1500, 2, 3_000_000)
    lines = told(
        "plain",
        [
            Explained(0, ("chosen a: cheap",)),
            StepStarted(0, "a"),
            StepProgress(0, 0, 1, 2),
            StepDone(0, "a", cached=False, seconds=1.234, inputs=(use, InputUse(Mode.LOCAL))),
        ],
    )
    assert lines == [
        "#1 chosen a: cheap",
        "#1 RUN make on a",
        "#1 RUN make DONE 1.23s on a",
        "#1   paths: [build] make from b: 1.5 kB in 2 files moved, 3.0 MB as whole layers",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StepDone(0, "a", cached=True), "#1 RUN make CACHED on a"),
        (StepDone(0, "a", True, shared=True), "#1 RUN make SHARED with an equal step on a"),
        (
            StepStarted(0, "", shared=True),
            "#1 RUN make waits for an equal step that runs already",
        ),
    ],
)
def test_plain_tells_why_a_step_did_not_run(event: Event, line: str) -> None:
    assert told("plain", [event]) == [line]


def test_plain_puts_output_that_comes_in_pieces_into_whole_lines() -> None:
    pieces = [
        StepOutput(0, 1, b"one\ntw"),
        StepOutput(0, 2, b"err\n"),
        StepOutput(0, 1, b"o\nx"),
    ]
    lines = told("plain", [*pieces, StepDone(0, "a", cached=False)])
    assert [line.split()[-1] for line in lines[:-1]] == ["one", "err", "two", "x"]


def test_plain_keeps_the_last_line_of_a_step_that_never_ends() -> None:
    assert told("plain", [StepOutput(0, 1, b"no newline")]) == ["#1 no newline"]


def test_plain_does_not_gather_a_line_without_end() -> None:
    lines = told("plain", [StepOutput(0, 1, b"x" * 1000)] * 5)
    assert max(map(len, lines)) < MAX_LINE_CHARS + 20
    assert sum(line.count("x") for line in lines) == 5000


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (b"10%\r20%\r30%\r\n", ["30%"]),
        (b"(Reading ... \r(Reading ... 5%\r(Reading ... done.)\n", ["(Reading ... done.)"]),
        (b"of Windows\r\n", ["of Windows"]),
        (b"\x1b[1;31mred\x1b[0m\x1b[K \x1b]8;;http://a\x1b\\link\x1b]8;;\x07\n", ["red link"]),
        (b"x" * 4500 + b"\n", ["x" * 2000, "x" * 2000, "x" * 500]),
        (b"\n", [""]),
    ],
)
def test_plain_shows_a_line_as_a_terminal_would_when_it_is_complete(
    printed: bytes, lines: list[str]
) -> None:
    told_lines = told("plain", [StepOutput(0, 1, printed)])
    assert told_lines == [f"#1 0.000 {line}" for line in lines]


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_a_character_that_comes_in_pieces_is_one_character(kind: str) -> None:
    pieces = [StepOutput(0, 1, bytes([byte])) for byte in "ü€😀\n".encode()]
    lines = told(kind, pieces)
    if kind == "json":
        lines = ["".join(json.loads(line).get("data", "") for line in lines)]
    assert "ü€😀" in lines[0]
    assert "\ufffd" not in lines[0]


def test_a_terminal_has_one_line_for_each_step_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    out = Screen()
    progress = make_progress("auto", out)
    progress.begin(graph("RUN --mount=type=cache,target=/a     " + "apt-get install " * 20))
    progress.event(StepStarted(0, "w1"))
    time.sleep(0.4)
    progress.close()
    shown = [line for line in re.split(r"[\r\n]", out.getvalue()) if "RUN" in line]
    assert shown
    assert all("w1" in line and "…" in line and "s  " in line for line in shown)


def test_a_push_is_told_when_it_begins() -> None:
    names = ("a.io/b:1", "a.io/b:\x1b2")
    events = [PushProgress(names, "w1"), PushProgress(names, "w1", 5, 10)]
    assert told("plain", events) == ["pushing a.io/b:1, a.io/b:\ufffd2 from w1"]
    assert [json.loads(line)["done_bytes"] for line in told("json", events)[1:]] == [0, 5]


def test_json_is_one_object_a_line() -> None:
    use = InputUse(Mode.LOCAL, "one")
    lines = told(
        "json",
        [
            StepStarted(0, "a"),
            StepOutput(0, 1, b"\xff\x1b[2J"),
            StepDone(0, "a", False, inputs=(use,)),
        ],
    )
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events] == [
        "begin",
        "step-started",
        "step-output",
        "step-done",
    ]
    assert events[0]["steps"] == [{"name": "RUN make", "stage": "s"}]
    assert events[2]["data"] == "\ufffd\x1b[2J"
    assert events[3]["inputs"][0]["mode"] == "local"


def test_quiet_says_nothing() -> None:
    assert told("quiet", [StepStarted(0, "a"), StepOutput(0, 1, b"x\n")]) == []


@pytest.mark.parametrize("kind", ["plain", "json", "auto"])
@given(data=st.binary(max_size=60))
def test_output_cannot_steer_a_terminal(kind: str, data: bytes) -> None:
    hostile = HOSTILE.encode() + data
    lines = told(kind, [StepOutput(0, 1, hostile), StepDone(0, "a", cached=False)])
    assert all(char.isprintable() or char == "\t" for line in lines for char in line)


@pytest.mark.parametrize("kind", ["plain", "json"])
def test_names_cannot_steer_a_terminal(kind: str) -> None:
    lines = told(
        kind,
        [
            Explained(0, (HOSTILE,)),
            StepStarted(0, HOSTILE),
            StepDone(0, HOSTILE, False, inputs=(InputUse(Mode.PATHS, HOSTILE, (HOSTILE,)),)),
        ],
        name=HOSTILE,
    )
    assert all(char.isprintable() for line in lines for char in line)


def test_terminal_is_drawn_by_us_and_not_by_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    progress = make_progress("auto", screen)
    progress.begin(graph("RUN \x1b]0;name\x07"))
    progress.event(StepStarted(0, "a\x1b]0;worker\x07"))
    progress.event(StepOutput(0, 1, b"\x1b]0;output\x07\n"))
    progress.event(StepDone(0, "a\x1b]0;done\x07", cached=False))
    progress.note("\x1b]0;note\x07")
    progress.close()
    progress.close()
    assert "\x1b]" not in screen.getvalue()
    assert "\x07" not in screen.getvalue()
    assert "DONE" in screen.getvalue()


@given(st.text())
def test_printable_is_one_bounded_line(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= MAX_LINE_CHARS
    assert all(char.isprintable() or char == "\t" or char == "\ufffd" for char in shown)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert human(size) == text


def test_a_terminal_shows_how_far_a_move_has_come() -> None:
    out = Screen()
    progress = make_progress("auto", out)
    progress.begin(None)
    progress.event(TransferProgress(digest_of(b""), "w1", f"w2{HOSTILE}", 1_500_000, 4_000_000))
    progress.close()
    drawn = out.getvalue()
    assert "moving af1349b9f5f9a1a6 to w2" in drawn
    assert "1.5 MB of 4.0 MB" in drawn
    assert "\x1b]0;" not in drawn
