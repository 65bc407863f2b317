"""Work of one order that is done some at a time."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final

AT_ONCE: Final = 4
"""Blobs of one image on their way at the same time."""


async def at_once(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of ``work``, some at a time; the first failure ends it all."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(doing: Coroutine[Any, Any, None]) -> None:
        async with slots:
            await doing

    todo = list(work)
    try:
        async with asyncio.TaskGroup() as group:
            for doing in todo:
                group.create_task(one(doing))
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    finally:
        for doing in todo:
            doing.close()
