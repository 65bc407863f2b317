"""How far a part of a sync has come: what is pulled, and what of it is copied where it goes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from filesync.transfer.stats import Progress

TELL_S: Final = 0.2


class Moving:
    """What has come, by one pull and one update, after the files and bytes before them.

    Attributes:
        pulled: how far the pull is.
    """

    def __init__(self, files: int = 0, content_bytes: int = 0) -> None:
        self.pulled = Progress(0, 0, 0)
        self._files = files
        self._bytes = content_bytes

    def note(self, pulled: Progress) -> None:
        """Take note of how far the pull is."""
        self.pulled = pulled

    def copied(self, size: int) -> None:
        """Take note of what the update copies (see ``TreeUpdate.on_copied``); in its thread."""
        self._bytes += size
        self._files += not size

    @property
    def progress(self) -> Progress:
        """All of it."""
        files, content_bytes, wire_bytes = self.pulled
        return Progress(self._files + files, self._bytes + content_bytes, wire_bytes)

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
