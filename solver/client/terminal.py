"""How a build goes, on a terminal."""

import time
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from solver.client.wording import WAITS, done_text, human, moving, printable, use_text
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


class Terminal:
    """What runs now, kept in place at the bottom of a terminal; what is done scrolls up."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False)
        self._graph: Graph | None = None
        self._running: dict[int, tuple[str, float, str]] = {}
        self._moving: tuple[str, float, str, str] | None = None
        self._live = Live(
            console=self._console,
            get_renderable=self._table,
            refresh_per_second=8,
            transient=True,
        )

    def begin(self, graph: Graph | None) -> None:
        """Start to draw."""
        self._graph = graph
        self._live.start()

    def event(self, event: Event) -> None:
        """Draw what happened."""
        match event:
            case StepStarted(position, worker):
                last = WAITS if event.shared else ""
                self._running[position] = (worker, time.monotonic(), last)
            case StepOutput(position, _, data):
                lines = data.decode(errors="replace").strip().splitlines()
                self._last(position, printable(lines[-1])[:80] if lines else "")
            case StepProgress(position, _, done, total):
                self._last(position, f"{human(done)} of {human(total)}")
            case StepDone(position):
                self._running.pop(position, None)
                style = "dim" if event.cached else "green"
                self._print(done_text(event, self._name(position)), style)
                for use in event.inputs:
                    if use.bytes_moved or use.mode.value != "local":
                        self._print(f"    {use_text(use)}", "cyan")
            case PushProgress() | TransferProgress():
                self._moves(event)
            case Explained(_, lines):
                for line in lines:
                    self._print(line, "dim")

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._print(text)

    def close(self) -> None:
        """Stop drawing."""
        self._live.stop()

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(printable(text), style))

    def _moves(self, event: PushProgress | TransferProgress) -> None:
        what, giver = moving(event)
        began_s = self._moving[1] if self._moving else time.monotonic()
        total = event.total_bytes
        last = f"{human(event.done_bytes)} of {human(total)}" if total else ""
        self._moving = (what, began_s, giver, last)

    def _last(self, position: int, text: str) -> None:
        if position in self._running:
            worker, began_s, _ = self._running[position]
            self._running[position] = (worker, began_s, text)

    def _table(self) -> Table:
        # A line for each: commands are long, and a table that grows and shrinks cannot be read.
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
        now_s = time.monotonic()
        rows = [
            (self._name(position), began_s, worker, last)
            for position, (worker, began_s, last) in sorted(self._running.items())
        ]
        for name, began_s, worker, last in [*rows, *([self._moving] if self._moving else [])]:
            table.add_row(
                Text(" ".join(printable(name).split())),
                Text(printable(worker), "blue"),
                f"{now_s - began_s:.1f}s",
                Text(last, "dim"),
            )
        return table

    def _name(self, position: int) -> str:
        return "" if self._graph is None else self._graph.vertices[position].name
