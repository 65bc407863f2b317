"""When a process ends: a command on SIGINT, a server on SIGTERM too, or when its parent's pipe closes."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` as ``asyncio.run`` does, in the main thread, and cancel it on SIGINT.

    ``asyncio.run`` alone can be late: a signal just before the loop falls asleep, or one that another
    thread takes, does not wake it, and it goes on until something else happens.

    A second SIGINT ends the process at once: what is being cleaned up would be torn otherwise, and
    who has died leaves what the next run can go on from.

    Raises:
        KeyboardInterrupt: it was cancelled so.
    """

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGINT, interrupt, task)
        return await work

    interrupted = False

    def interrupt(task: asyncio.Task[T]) -> None:
        nonlocal interrupted
        interrupted = True
        task.get_loop().remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        task.cancel()

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


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
