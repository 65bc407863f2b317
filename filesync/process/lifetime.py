"""When a process ends: on SIGINT, SIGTERM, a command on SIGHUP too, or when its parent's pipe closes."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from filesync.errors import Ended
from filesync.process.ending import ENDING

T = TypeVar("T")


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` as ``asyncio.run`` does, in the main thread; SIGINT, SIGTERM and SIGHUP cancel it.

    ``asyncio.run`` alone can be late: a signal just before the loop falls asleep, or one that another
    thread takes, does not wake it, and it goes on until something else happens.

    Not one that is ignored, as a script has its background jobs ignore SIGINT. Who stops a job, or
    loses its terminal, is left no temporary files.

    A second signal ends the process at once: what is being cleaned up would be torn otherwise, and
    who has died leaves what the next run can go on from.

    Raises:
        KeyboardInterrupt: it was cancelled by SIGINT.
        Ended: it was cancelled by another.
    """
    numbers = [one for one in (signal.SIGINT, *ENDING) if not _is_ignored(one)]

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in numbers:
            loop.add_signal_handler(number, interrupt, task, number)
        return await work

    by: signal.Signals | None = None

    def interrupt(task: asyncio.Task[T], number: signal.Signals) -> None:
        nonlocal by
        by = number
        for one in numbers:
            task.get_loop().remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)
        task.cancel()

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if by is None:
            raise
        if by != signal.SIGINT:
            raise Ended(by) from None
        raise KeyboardInterrupt from None


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


async def wait_for_end(*, until_eof: bool = False) -> None:
    """Return when this process should stop.

    Args:
        until_eof: also when standard input closes, which it does when the parent dies.
    """
    loop = asyncio.get_running_loop()
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    if until_eof:
        loop.add_reader(sys.stdin.fileno(), _read_or_end, end)
    try:
        await end.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        if until_eof:
            loop.remove_reader(sys.stdin.fileno())


def _read_or_end(end: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        end.set()
