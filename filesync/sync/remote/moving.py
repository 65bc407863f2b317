"""How far a part of a sync has come: what is pulled, and what of it is copied where it goes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from filesync.transfer.stats import Progress

TELL_S: Final = 0.2


class Moving:
    """What has come, by some pulls and updates."""

    def __init__(self) -> None:
        self._pulled: list[Progress] = []
        self._copied = 0, 0

    def pull(self) -> Callable[[Progress], None]:
        """Return what takes note of how far another pull is."""
        at = len(self._pulled)
        self._pulled.append(Progress(0, 0, 0))

        def note(progress: Progress) -> None:
            self._pulled[at] = progress

        return note

    def copied(self, size: int) -> None:
        """Take note of what an update copies (see ``TreeUpdate.on_copied``); in its thread."""
        files, content_bytes = self._copied
        self._copied = files + (not size), content_bytes + size

    @property
    def progress(self) -> Progress:
        """All of it."""
        files, content_bytes = self._copied
        for one in self._pulled:
            files += one.files
            content_bytes += one.content_bytes
        return Progress(files, content_bytes, 0)

    @asynccontextmanager
    async def told(
        self, tell: Callable[[Progress], Awaitable[None]] | None
    ) -> AsyncIterator[None]:
        """Have ``tell`` told now and then how far it is, as long as the block lasts and there is news."""
        telling = asyncio.create_task(self._tell(tell)) if tell is not None else None
        try:
            yield
        finally:
            if telling is not None:
                telling.cancel()
                await asyncio.wait({telling})

    async def _tell(self, tell: Callable[[Progress], Awaitable[None]]) -> None:
        told = self.progress
        while True:
            await asyncio.sleep(TELL_S)
            if (now := self.progress) != told:
                told = now
                await tell(now)
