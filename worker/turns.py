"""Turns at work that keeps a core busy and that several may want done at once."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from filesync.digest import Digest


class Turns:
    """Lets few work at a time, and no two on one thing.

    Args:
        at_once: how many.
    """

    def __init__(self, at_once: int) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, things: Collection[Digest]) -> AsyncIterator[None]:
        """Wait until nobody works on any of ``things``; nothing needs no turn."""
        async with AsyncExitStack() as stack:
            # All in one order: two never wait for each other.
            for thing in sorted(set(things)):
                lock = self._locks.setdefault(thing, asyncio.Lock())
                await stack.enter_async_context(lock)
            if things:
                await stack.enter_async_context(self._room)
            yield
