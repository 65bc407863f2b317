"""What a client that gives offers to its server, and its answers to what the server asks of that."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from filesync.errors import UnexpectedMessage
from filesync.manifest.tree import Manifest
from filesync.sync.remote import wire
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered
from filesync.transfer.threads import in_thread

if TYPE_CHECKING:
    from filesync.sync.remote.growing import GrowingScan


class Offered:
    """Trees by the tokens that they are offered by.

    Attributes:
        trees: those that are known, whose nodes may be asked for.
        scans: those that are still being scanned.
        is_asked: set when nodes are asked for.
    """

    def __init__(
        self, *, may_come_early: bool, on_moved: Callable[[int, int], None] | None
    ) -> None:
        """Large files that are still read are told of if they ``may_come_early``.

        ``on_moved`` is told how many files and bytes the server has of what it is being given.
        """
        self.trees: dict[bytes, Manifest] = {}
        self.scans: dict[bytes, GrowingScan] = {}
        self.is_asked = asyncio.Event()
        self._may_come_early = may_come_early
        self._on_moved = on_moved

    async def answer(self, _: Channel, body: bytes) -> tuple[bytes, bytes]:
        """Answer a request of the server.

        Raises:
            PeerError: a client that gives does not answer this.
        """
        match wire.decode_request(body):
            case wire.AskNodes() | wire.AskNodeDeltas() as asked:
                return await self._answer_nodes(asked)
            case wire.AskDirectories(token, fresh):
                return await self._answer_directories(token, fresh=fresh)
            case wire.Progressed(files, content_bytes):
                if self._on_moved is not None:
                    self._on_moved(files, content_bytes)
                return wire.encode(wire.Done()), b""
            case _:
                raise UnexpectedMessage("a client that gives answers no such request")

    async def _answer_nodes(
        self, asked: wire.AskNodes | wire.AskNodeDeltas
    ) -> tuple[bytes, bytes]:
        from filesync.sync.remote.nodes import answer

        self.is_asked.set()
        if (manifest := self.trees.get(asked.token)) is None:
            raise NotOffered("nodes were asked for of a tree that is not given")
        answered, payload = await in_thread(answer, manifest, asked)
        return wire.encode(answered), payload

    async def _answer_directories(self, token: bytes, *, fresh: bool) -> tuple[bytes, bytes]:
        if (scan := self.scans.get(token)) is None:
            raise NotOffered("directories were asked for of a tree that is not given")
        if fresh:
            done, payload = await scan.telling.directories(), b""
        else:
            done, payload = await scan.directories()
        if not self._may_come_early:
            done = replace(done, begun=())
        return wire.encode(done), payload
