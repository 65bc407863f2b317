"""Cancels what waits for a thread while that thread is at a certain call."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import pytest

CALLS_S = 30.0
T = TypeVar("T")
P = ParamSpec("P")


class Held(Generic[P, T]):
    """A call that has done its work and does not return before it is let go.

    Attributes:
        made: what it will return.
    """

    def __init__(self, call: Callable[P, T]) -> None:
        self._call = call
        self._go = threading.Event()
        self._begun = threading.Event()
        self._ended = threading.Event()
        self.made: T | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        made = self.made = self._call(*args, **kwargs)
        self._begun.set()
        try:
            assert self._go.wait(CALLS_S)
            return made
        finally:
            self._ended.set()

    @property
    def is_over(self) -> bool:
        """Whether it was let go, and has returned."""
        return self._ended.is_set()

    async def is_reached(self) -> None:
        """Wait until the call is under way."""
        assert await asyncio.to_thread(self._begun.wait, CALLS_S)

    async def let_go(self) -> None:
        """Let the call return, and wait until it has."""
        self._go.set()
        assert await asyncio.to_thread(self._ended.wait, CALLS_S)


async def cancel_during(work: Coroutine[Any, Any, object], held: Held[..., Any]) -> None:
    """Cancel ``work`` while it waits for ``held``, which returns when that has been dealt with."""
    task = asyncio.create_task(work)
    await held.is_reached()
    task.cancel()
    # As many turns of the loop as it may take to end without waiting for the thread.
    for _ in range(20):
        await asyncio.sleep(0)
    await held.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task


def open_below(directory: Path) -> list[str]:
    """Return which files below ``directory`` this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(path for path in found if path.startswith(f"{directory}/"))
