"""Directories over a connection while the peer's scan goes on: what to fetch first is known then."""

from collections.abc import Sequence

from filesync.digest import Digest
from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.incoming import WantedFile
from filesync.errors import MalformedManifest, UnexpectedMessage
from filesync.manifest import Manifest, Nodes, accept, canonical_links
from filesync.manifest.pack import unpack_directories
from filesync.sync.remote import wire
from filesync.sync.remote.asking import ask
from filesync.sync.remote.earlies import Earlies
from filesync.sync.remote.nodes import NodeBudget
from filesync.sync.remote.unasked import Unasked
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.threads import in_thread
from filesync.transfer.wire import Buffer


class Arrivals:
    """Asks a peer for directories, adds them to an update, and says what files that wants.

    Args:
        channel: to the peer.
        token: what the peer knows its tree by.
        update: of the place where the tree is to be.
        nodes: gets the directory nodes; the update's own.
        earlies: brings large files that the peer has begun to read.
        unasked: refuses what was to be left out, where the peer was told so.

    Attributes:
        tree: the whole tree as the peer's scan had it in the end; None until then.
    """

    def __init__(
        self,
        channel: Channel,
        token: bytes,
        update: ArrivingUpdate,
        nodes: Nodes,
        earlies: Earlies,
        *,
        unasked: Unasked | None = None,
    ) -> None:
        self._unasked = unasked
        self.tree: Digest | None = None
        self._channel = channel
        self._token = token
        self._update = update
        self._nodes = nodes
        self._earlies = earlies
        self._budget = NodeBudget()

    async def feed(self) -> tuple[Sequence[WantedFile], bool]:
        """Return what is wanted of the directories that were done since the last time.

        For ``DataPlane.pull``.

        Raises:
            PeerError: what came is no tree, or is too large.
            Unavailable: the peer is gone, or refused.
            StoreError: this disk.
        """
        request = wire.AskDirectories(self._token)
        answer, payload = await ask(self._channel, request, wire.Directories)
        self._earlies.begin(answer.begun)
        directories = await in_thread(self._accepted, payload)
        await self._earlies.come({path for path, _ in directories})
        if answer.tree is not None:
            await self._earlies.stop()
        wanted = await in_thread(self._update.add, directories)
        if answer.tree is not None and not self._update.is_whole:
            raise MalformedManifest("a tree was named before its root came")
        self.tree = answer.tree
        return wanted, answer.tree is not None

    async def check(self) -> Digest:
        """Return the whole tree, when all of it is there.

        Raises:
            UnexpectedMessage: what came is another than was scanned.
        """
        came = await in_thread(canonical_links, self._nodes, self._update.came)
        if came != self.tree:
            raise UnexpectedMessage("the tree that came is not the one that was scanned")
        return came

    def _accepted(self, payload: Buffer) -> list[tuple[bytes, Digest]]:
        found: list[tuple[bytes, Digest]] = []
        for path, node in unpack_directories(payload) if payload else ():
            self._budget.take(len(node))
            found.append((path, tree := accept(self._nodes, node)))
            if self._unasked is not None:
                self._unasked.refuse_in(path, Manifest(tree, self._nodes).root)
        return found
