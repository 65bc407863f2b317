"""Progress on a terminal: a line that appears once something takes over a second."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from filesync.transfer.stats import Progress

PATIENCE_S: Final = 1.0
"""What is over sooner needs no line."""
_TICK_S: Final = 0.1
_LINE_S: Final = 1.0


class ShownProgress:
    """Shows what ``note`` was told last, for as long as the ``with`` block lasts.

    A thread of its own shows it, so that whatever blocks is seen to go on; rich, which takes
    60 ms to import, is imported only when there is something to show.

    Args:
        wanted: show it from the start, and a line a second where there is no terminal; None:
            on a terminal, after a second; False: never.
    """

    def __init__(self, wanted: bool | None) -> None:
        is_terminal = sys.stderr.isatty()
        is_shown = is_terminal if wanted is None else wanted
        self._patience_s = 0.0 if wanted else PATIENCE_S
        self._latest: Progress | None = None
        self._over = threading.Event()
        self._turn = threading.Lock()
        show = self._show if is_terminal else self._show_lines
        self._thread = threading.Thread(target=show, daemon=True) if is_shown else None

    @property
    def is_shown(self) -> bool:
        """Somebody looks at it."""
        return self._thread is not None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def note(self, progress: Progress) -> None:
        """Take note of how far it is. For any thread; does not block."""
        self._latest = progress

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Leave the terminal to others meanwhile."""
        with self._turn:
            yield

    def _show(self) -> None:
        if self._over.wait(self._patience_s):
            return
        from rich.console import Console
        from rich.progress import FileSizeColumn, SpinnerColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            FileSizeColumn(),
            TransferSpeedColumn(),
        )
        bar = Bar(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        task = bar.add_task("looking", total=None)
        while not self._over.wait(_TICK_S):
            with self._turn:
                bar.start()
                if (latest := self._latest) is not None:
                    files = _files(latest)
                    bar.update(task, completed=latest.content_bytes, description=files)
                bar.refresh()
                bar.stop()

    def _show_lines(self) -> None:
        told: Progress | None = None
        is_over = False
        while not is_over:
            is_over = self._over.wait(_LINE_S)
            if (latest := self._latest) is None or latest == told:
                continue
            told = latest
            with self._turn:
                sys.stderr.write(f"{_files(latest)}, {latest.content_bytes:,} bytes\n")
                sys.stderr.flush()


def _files(progress: Progress) -> str:
    return f"{progress.files:,} file{'s' * (progress.files != 1)}"
