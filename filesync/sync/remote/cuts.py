"""Large files that a scan finds changed: who takes them is told of them while it goes on.

Who gives one reads and cuts all of it first, if it does not know how it was cut before. Who takes it
would have nothing to do meanwhile, and then do as much (``ahead``).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import ask
from filesync.transfer.connection.channel_zmq import Channel
from filesync.trees.united import below

MOST_TOLD: Final = 16
"""Files of one scan that are told of: who takes them cuts one after another, and more not in time."""


class Cuts:
    """Tells who takes them of the files that a scan finds changed; in the loop that it was made in."""

    def __init__(self, *, depth: int = 0) -> None:
        """``depth``: how many names their paths begin with that are not told."""
        self._depth = depth
        self._loop = asyncio.get_running_loop()
        self._found: asyncio.Queue[tuple[bytes, Digest]] = asyncio.Queue()

    def note(self, path: bytes, old: Digest) -> None:
        """Take note of a file, which held ``old``. For any thread."""
        told = below(path, self._depth), old
        self._loop.call_soon_threadsafe(self._found.put_nowait, told)

    @asynccontextmanager
    async def told(self, channel: Channel, token: bytes) -> AsyncIterator[None]:
        """Tell of them, as long as the block lasts."""
        telling = asyncio.create_task(self._tell(channel, token))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    async def _tell(self, channel: Channel, token: bytes) -> None:
        with suppress(FilesyncError):  # what is asked next shows what is wrong
            for _ in range(MOST_TOLD):
                path, old = await self._found.get()
                if len(path) <= fields.MAX_PATH_BYTES:
                    # One after another: all at once they would be as many requests as a peer takes.
                    await ask(channel, wire.Changing(token, path, old), wire.Done)
