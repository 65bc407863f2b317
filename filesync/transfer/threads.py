"""Threads that outlive who waits for them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until_done(work: Awaitable[T]) -> T:
    """Return what ``work``, done by a thread, returns; cancelled, wait for its end first.

    Whoever closes what a thread uses must not do so under its hands, however often it is
    cancelled meanwhile: who has no patience presses Ctrl-C twice.
    """
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is None:
        return future.result()
    if not future.cancelled():
        future.exception()
    raise cancelled


async def acquired(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Return what ``make`` returns in a thread: from then on it is the caller's to let go of.

    Cancelled meanwhile, nobody would ever know of it. So this waits for the thread, has ``undo``
    let go of what it made, in a thread too, and only then raises the cancellation.
    """
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await until_done(making)
    except asyncio.CancelledError:
        if not making.cancelled() and making.exception() is None:
            await until_done(asyncio.to_thread(undo, making.result()))
        raise
