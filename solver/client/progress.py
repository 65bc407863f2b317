"""Telling a person, or a program, how a build goes."""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

import msgspec

from solver.client.outputlines import MAX_LINE_CHARS, Decoder, OutputLines
from solver.client.wording import WAITS, done_text, moving, printable, use_text
from solver.graph import Graph
from solver.wire import (
    Event,
    Explained,
    PushProgress,
    StepDone,
    StepOutput,
    StepProgress,
    StepStarted,
    TransferProgress,
)

LONG_S = 1.0
"""What takes longer is to be told of."""
_MARGIN_CHARS = 16
"""For the time before a line of output."""


class Progress(Protocol):
    """Takes a build's events as they come."""

    def begin(self, graph: Graph | None) -> None:
        """The build starts; or something that has no steps."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def note(self, text: str) -> None:
        """Say a sentence of the client's own."""

    def close(self) -> None:
        """The build is over. Idempotent."""


@contextmanager
def told_if_long(tell: Callable[[str], None], text: str) -> Iterator[None]:
    """Tell ``text`` if the block, which lets the event loop run, takes longer than a second."""
    telling = asyncio.get_running_loop().call_later(LONG_S, tell, text)
    try:
        yield
    finally:
        telling.cancel()


def make_progress(kind: str, stream: TextIO | None = None) -> Progress:
    """Return the progress called ``auto``, ``plain``, ``json`` or ``quiet``."""
    out = stream if stream is not None else sys.stderr
    match kind:
        case "quiet":
            return Quiet()
        case "json":
            return JsonLines(out)
        case "auto" if out.isatty():
            # What it draws with takes as long to load as a small build to be found cached.
            from solver.client.terminal import Terminal

            return Terminal(out)
        case _:
            return Plain(out)


class Quiet:
    """Says nothing."""

    def begin(self, graph: Graph | None) -> None:
        """Say nothing."""

    def event(self, event: Event) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class Plain:
    """Lines of text, each with its step's number, as BuildKit's plain progress."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._graph: Graph | None = None
        self._began_s: dict[int, float] = {}
        self._outputs: defaultdict[tuple[int, int], OutputLines] = defaultdict(OutputLines)

    def begin(self, graph: Graph | None) -> None:
        """The build starts."""
        self._graph = graph

    def event(self, event: Event) -> None:
        """Print what happened."""
        match event:
            case StepStarted(position, worker):
                self._began_s[position] = time.monotonic()
                how = WAITS if event.shared else f"on {worker}"
                self._line(position, f"{self._name(position)} {how}")
            case StepOutput(position, stream, data):
                self._output(position, stream, data)
            case StepDone(position):
                self._flush(position)
                self._line(position, done_text(event, self._name(position)))
                for use in event.inputs:
                    if use.bytes_moved or use.mode.value != "local":
                        self._line(position, f"  {use_text(use)}")
            case Explained(position, lines):
                for line in lines:
                    self._line(position, line)
            case PushProgress(done_bytes=0) | TransferProgress(done_bytes=0):
                self.note("{} from {}".format(*moving(event)))
            case StepProgress() | PushProgress() | TransferProgress():
                pass

    def note(self, text: str) -> None:
        """Print a sentence."""
        print(printable(text), file=self._out, flush=True)

    def close(self) -> None:
        """Print what is left of unfinished lines."""
        for position, _ in list(self._outputs):
            self._flush(position)

    def _output(self, position: int, stream: int, data: bytes) -> None:
        now_s = time.monotonic()
        elapsed = now_s - self._began_s.get(position, now_s)
        for line in self._outputs[position, stream].add(data):
            self._line(position, f"{elapsed:.3f} {line}")

    def _flush(self, position: int) -> None:
        for stream in (1, 2):
            if output := self._outputs.pop((position, stream), None):
                for line in output.end():
                    self._line(position, line)

    def _name(self, position: int) -> str:
        return "" if self._graph is None else self._graph.vertices[position].name

    def _line(self, position: int, text: str) -> None:
        # Names come from a Dockerfile and workers' names from afar: hostile, like output.
        shown = printable(text, MAX_LINE_CHARS + _MARGIN_CHARS)
        print(f"#{position + 1} {shown}", file=self._out, flush=True)


class JsonLines:
    """One JSON object a line, one line an event."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._texts: defaultdict[tuple[int, int], Decoder] = defaultdict(Decoder)

    def begin(self, graph: Graph | None) -> None:
        """Print the steps."""
        vertices = () if graph is None else graph.vertices
        steps = [{"name": vertex.name, "stage": vertex.stage} for vertex in vertices]
        self._print({"event": "begin", "steps": steps})

    def event(self, event: Event) -> None:
        """Print the event."""
        value = msgspec.to_builtins(event)
        value["event"] = value.pop("m")
        if isinstance(event, StepOutput):
            value["data"] = self._texts[event.position, event.stream].add(event.data)
        self._print(value)

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._print({"event": "note", "text": text})

    def close(self) -> None:
        """Nothing is left to print."""

    def _print(self, value: object) -> None:
        print(json.dumps(value), file=self._out, flush=True)
