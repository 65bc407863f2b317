"""Threads that outlive who waits for them, or that had better take turns."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Final, ParamSpec, TypeVar

from filesync.process.wanted import until_given_up

P = ParamSpec("P")
T = TypeVar("T")

CUTTING: Final = Lock()
"""Held while bytes are cut into small pieces (``coding.delta``).

FastCDC lets go of the interpreter's lock for each piece: threads that cut at once would hand it to
and fro, for five times the CPU time.
"""


BUSY_THREADS: Final = 64


def take_threads_for_many() -> None:
    """Have ``in_thread`` of this loop not wait for others' long calls; before its first.

    A loop has four threads more than there are processors: as many scans of large trees that
    others ask for would have all else wait for their end.
    """
    threads = ThreadPoolExecutor(BUSY_THREADS, thread_name_prefix="filesync")
    asyncio.get_running_loop().set_default_executor(threads)


async def until_done(
    work: Awaitable[T], *, on_cancel: Callable[[], object] = lambda: None
) -> T:
    """Return what ``work`` returns; cancelled, wait for its end first, and then be cancelled.

    ``on_cancel`` is called when that waiting begins.

    Whoever closes what a thread uses must not do so under its hands, however often it is
    cancelled meanwhile: who has no patience presses Ctrl-C twice. What is begun so is done to
    its end, too, so it is how to let go of something.

    What the work raises is only the cancellation's cause where both happen: whoever takes an
    error for a reason to go on must not go on when cancelled.
    """
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as exc:
            cancelled = exc
            on_cancel()
    if cancelled is None:
        return future.result()
    raise cancelled from (None if future.cancelled() else future.exception())


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what ``call`` returns in a thread; cancelled, wait for its end first.

    ``asyncio.to_thread`` leaves the thread to itself then, or never begins it.
    """
    return await until_done(asyncio.to_thread(call, *args, **kwargs))


async def while_wanted(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `in_thread`; cancelled, have ``call`` end at its next `check_wanted`.

    For what reads as much as a stranger likes and leaves nothing behind where it ends early.
    """
    with until_given_up() as given_up:
        work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    return await until_done(work, on_cancel=given_up.set)


async def acquired(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Return what ``make`` returns in a thread: from then on it is the caller's to let go of.

    Cancelled meanwhile, nobody would ever know of it. So this waits for the thread, which ends at
    its next `check_wanted` as in `while_wanted`, has ``undo`` let go of what it made, in a thread
    too, and only then raises the cancellation.
    """
    with until_given_up() as given_up:
        making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await until_done(making, on_cancel=given_up.set)
    except asyncio.CancelledError:
        if not making.cancelled() and making.exception() is None:
            await in_thread(undo, making.result())
        raise
