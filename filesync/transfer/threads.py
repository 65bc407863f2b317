"""Threads that outlive who waits for them."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def until_done(work: Awaitable[T]) -> T:
    """Return what ``work``, done by a thread, returns; cancelled, wait for its end first.

    Whoever closes what a thread uses must not do so under its hands.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise
