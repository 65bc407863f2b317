"""Progress that is shown by a thread of its own: who reads it may stop for as long as they like.

A client that waits for its reader says nothing to the manager meanwhile, which ends its build, and serves
nothing that the build reads.
"""

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final

from solver.client.progress import Progress
from solver.graph import Graph
from solver.wire import Event, StepOutput

MAX_HELD_BYTES: Final = 64 << 20
"""Of what steps print, while nobody reads; the rest is dropped, and that is said."""


class Aside:
    """Shows what comes between ``begin`` and ``close`` in the background, in order.

    Before and after that it is shown at once. What cannot be shown, because nobody will read any
    more, is raised by the next call.
    """

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._calls: SimpleQueue[tuple[Callable[[], None], int] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._dropped_bytes = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def begin(self, graph: Graph | None) -> None:
        """Start to show, in the background."""
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()
        self._call(partial(self._shown.begin, graph))

    def event(self, event: Event) -> None:
        """Show it when the others before it have been."""
        size = len(event.data) if isinstance(event, StepOutput) else 0
        self._call(partial(self._shown.event, event), size)

    def note(self, text: str) -> None:
        """Show it when the others before it have been."""
        self._call(partial(self._shown.note, text))

    def close(self) -> None:
        """Return when all has been shown. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            thread.join()
            if self._error is None and self._dropped_bytes:
                text = f"warning: {self._dropped_bytes} bytes that steps printed were not shown"
                self._shown.note(f"{text}: nobody read them")
        self._shown.close()
        self._raise()

    def _call(self, call: Callable[[], None], size: int = 0) -> None:
        self._raise()
        if self._thread is None:
            call()
            return
        with self._lock:
            if size and self._held_bytes + size > MAX_HELD_BYTES:
                self._dropped_bytes += size
                return
            self._held_bytes += size
        self._calls.put((call, size))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _show(self) -> None:
        while (one := self._calls.get()) is not None:
            call, size = one
            with self._lock:
                self._held_bytes -= size
            if self._error is None:
                try:
                    call()
                except Exception as exc:  # the top of a thread: who called it is told
                    self._error = exc
