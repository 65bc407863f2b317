"""Large files that have changed: who takes them is told at once, and cuts what it has of them.

Who gives one reads and cuts all of it first, if it does not know how it was cut before. Who takes it
would have nothing to do meanwhile, and then do as much.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final

from filesync.digest import Digest
from filesync.disk.handles import READ_FLAGS, DirectoryHandles
from filesync.errors import FilesyncError, UnexpectedMessage
from filesync.manifest import File, Manifest
from filesync.sync.places import Place
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import tell
from filesync.sync.scanning import Found
from filesync.sync.target import Target
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.threads import in_thread

MOST_TOLD: Final = 16
"""Files of one scan that are told of. Of more, who takes them has not cut the first when it needs them."""


class Cuts:
    """Files that a scan finds changed, for who takes them; for the loop that it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._found: asyncio.Queue[tuple[bytes, Digest]] = asyncio.Queue()

    def note(self, path: bytes, old: Digest) -> None:
        """Take note of a file, which held ``old``. For any thread."""
        self._loop.call_soon_threadsafe(self._found.put_nowait, (path, old))

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
                    await tell(channel, wire.Changing(token, path, old))


class Ahead:
    """What this side takes, and what it has: of what it is told of, it cuts that.

    Its ``answer`` is that of ``plane``, once that is there.
    """

    def __init__(self) -> None:
        self.plane: DataPlane | None = None
        self._scans: dict[bytes, tuple[Target, asyncio.Future[Found]]] = {}

    @contextmanager
    def scanning(
        self, token: bytes, target: Target | None, there: asyncio.Future[Found]
    ) -> Iterator[None]:
        """Take what is told of for the block: what is taken by ``token`` goes to ``target``."""
        if target is not None:
            self._scans[token] = target, there
        try:
            yield
        finally:
            self._scans.pop(token, None)

    async def answer(self, _: Channel, body: bytes) -> tuple[bytes, bytes]:
        """Answer a request of the server.

        Raises:
            PeerError: a client that takes does not answer this.
        """
        match wire.decode_request(body):
            case wire.Changing(token, path, old):
                await self._cut(token, path, old)
                return wire.encode(wire.Done()), b""
            case _:
                raise UnexpectedMessage("a client that takes answers no such request")

    async def _cut(self, token: bytes, path: bytes, old: Digest) -> None:
        if (scan := self._scans.get(token)) is None or self.plane is None:
            raise NotOffered("nothing is taken by this token")
        target, there = scan
        found = await asyncio.shield(there)
        if token in self._scans:
            path = target.rename or path
            await cut_ahead(self.plane, target.place, found.manifest, path, old)


async def cut_ahead(
    plane: DataPlane, place: Place, there: Manifest, path: bytes, old: Digest
) -> None:
    """Cut the file at ``path`` in ``place``, if it is ``there`` and held ``old``."""
    with place.handles() as handles:  # the place may be let go of meanwhile
        entry = await in_thread(there.find, path)
        if isinstance(entry, File) and entry.digest == old:
            with suppress(FilesyncError, OSError):  # who needs it finds out why
                await plane.cut_ahead(old, partial(_opened, handles, path))


def _opened(handles: DirectoryHandles, path: bytes) -> int:
    above, _, name = path.rpartition(b"/")
    return os.open(name, READ_FLAGS, dir_fd=handles.open(above))
