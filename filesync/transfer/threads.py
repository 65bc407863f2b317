"""Threads that outlive who waits for them."""

import asyncio
from collections.abc import Awaitable
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
