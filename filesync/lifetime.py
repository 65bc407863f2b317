"""When a server process ends: on SIGINT, on SIGTERM, or when its parent's pipe closes."""

import asyncio
import os
import signal
import sys


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
