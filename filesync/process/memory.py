"""Memory that this process has freed, and that its allocator keeps for the next time."""

import asyncio
import gc
from functools import cache
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # as malloc.h has them
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
_KEPT_BYTES: Final = 64 << 20
"""More than all frames of a session that wait for who writes them, where the link is faster than that."""
_MOST_MAPPED_BYTES: Final = 32 << 20
"""The most that glibc lets this threshold be."""
GIVE_BACK_S: Final = 60.0
MAPPED_BYTES: Final = 128 << 10
"""What is as large is given back to the system when it is freed, unless ``keep_pages`` was called."""


def share_arenas() -> None:
    """Have all threads that begin later share two arenas; does nothing where libc is not glibc.

    There are eight for each processor otherwise, and what is free at the end of one is not given back: with
    each kind of work that came to another thread a server held more. After 1,800 syncs, on two
    processors, 115 MB, with two arenas 71, in the same time; two workers after
    400 builds 223 and 199, then 99 and 119.
    """
    _call("mallopt", _M_ARENA_MAX, _ARENAS)


@cache
def keep_pages() -> None:
    """Have each arena keep up to 64 MiB that are free at its end; does nothing where libc is not glibc.

    For who sends or gets megabytes: the memory of a frame is given back when it is sent or written otherwise,
    and each page of the next one is a fault, and cleared. 1 GiB took 1.15 s and 130,000 faults of who
    sends it, and takes 0.95 and 19,000. Who gets it has 2,300, and with half as much 42,000: what was free
    was more than that again and again. The first call takes 2 ms, where nothing has loaded ctypes.
    """
    # What is mapped by itself is never kept.
    _call("mallopt", _M_MMAP_THRESHOLD, _MOST_MAPPED_BYTES)
    _call("mallopt", _M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Give it back to the system, with what is only held in cycles. Blocks all threads for some 50 ms.

    What threads have used stays with each thread's arena otherwise, if libc is glibc: a server that had 40
    clients at once kept five times of what it needed. And Python looks for cycles after so many objects, not bytes:
    with what was under way of 24 clients that were killed a server came to 111 MB, now to 32.
    """
    gc.collect()
    _call("malloc_trim", 0)


class GivingBack:
    """Has a process that goes on give back what its works have used, ``GIVE_BACK_S`` after one has ended.

    Others that are under way then do not put it off: some processes are never idle for so long.
    """

    def __init__(self) -> None:
        self._ended = 0
        self._is_waiting = False

    def note_end(self) -> None:
        """Take note that a work has ended, in the event loop."""
        self._ended += 1
        if not self._is_waiting:
            self._wait()

    def _wait(self) -> None:
        self._is_waiting = True
        asyncio.get_running_loop().call_later(GIVE_BACK_S, self._give_back, self._ended)

    def _give_back(self, ended: int) -> None:
        asyncio.get_running_loop().run_in_executor(None, give_back)
        self._is_waiting = False
        if self._ended != ended:  # one that has ended just now may not be done with its memory
            self._wait()


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library, if this one has it."""
    from ctypes import CDLL  # most runs of a client need none

    if (function := getattr(CDLL(None), name, None)) is not None:
        function(*arguments)
