"""Cutting ahead: who takes a large file cuts what it has of it while the giver still reads the new one."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from filesync.digest import Digest
from filesync.disk.handles import READ_FLAGS, DirectoryHandles
from filesync.errors import FilesyncError, UnexpectedMessage
from filesync.manifest import File, Manifest
from filesync.sync.places import Place
from filesync.sync.remote import wire
from filesync.sync.scanning import Found
from filesync.sync.target import Target
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.threads import in_thread


class Ahead:
    """Answers a server that says which large files are changing, and cuts those that are here.

    Its ``answer`` is that of ``plane``, which is to be set once it is there.
    """

    def __init__(self) -> None:
        self.plane: DataPlane | None = None
        self._scans: dict[bytes, tuple[Target, asyncio.Future[Found]]] = {}

    @contextmanager
    def scanning(
        self, token: bytes, target: Target | None, there: asyncio.Future[Found]
    ) -> Iterator[None]:
        """Listen, for the block, to what is said of files that are taken by ``token``.

        They go to ``target``, whose scan is ``there``.
        """
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
