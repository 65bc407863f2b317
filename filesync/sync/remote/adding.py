"""What a peer's scan finds while it lasts, and what that adds to a place here that is not empty."""

from collections.abc import Awaitable, Callable, Sequence

from filesync.digest import Digest, digest_of
from filesync.disk.handles import shown
from filesync.errors import MalformedManifest, UnexpectedMessage
from filesync.manifest import Directory, Manifest, Nodes, is_name
from filesync.manifest.node import decode
from filesync.manifest.pack import PACK_BYTES, unpack_nodes
from filesync.sync.additions import Additions
from filesync.sync.remote import wire
from filesync.sync.remote.asking import ask
from filesync.sync.remote.nodes import FEW, NodeBudget
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.threads import in_thread

Bring = Callable[[Manifest, Manifest], Awaitable[Manifest]]
"""Makes of what is there what adds to it; returns what is there then."""


class Adding:
    """Asks for directories that are new at a peer, for as long as it scans.

    Args:
        channel: to the peer.
        token: what the peer knows its tree by.
        nodes: has the directory nodes that are here.
        additions: to what is here.
    """

    def __init__(
        self, channel: Channel, token: bytes, nodes: Nodes, additions: Additions
    ) -> None:
        self._channel = channel
        self._token = token
        self._nodes = nodes
        self._additions = additions
        self._budget = NodeBudget()

    async def run(self, there: Manifest, bring: Bring) -> Manifest:
        """Have ``bring`` make what is new, again and again; return what is there when the scan ends.

        Or before, when not all that was new could be made.

        Raises:
            PeerError: what came are no directories, or too many.
            Unavailable: the peer is gone, or refused.
        """
        while (top := await self._next()) is not None:
            if top.tree != there.tree:
                there = await bring(there, top)
                if there.tree != top.tree:
                    break
        return there

    async def _next(self) -> Manifest | None:
        """Return what is to be here with what was found since the last time; None when that is all."""
        request = wire.AskDirectories(self._token, fresh=True)
        answer, _ = await ask(self._channel, request, wire.Directories)
        if answer.tree is not None:
            return None
        fresh = [(path, tree) for path, tree in answer.fresh if tree not in self._nodes]
        for path, _ in fresh:
            self._check(path)
        found = await self._fetch([tree for _, tree in fresh])
        directories = [(path, found[tree]) for path, tree in fresh]
        return await in_thread(self._additions.add, directories)

    def _check(self, path: bytes) -> None:
        if path and not all(map(is_name, path.split(b"/"))):
            raise MalformedManifest(f"{shown(path)} is no path of a directory")
        self._budget.take(len(path))

    async def _fetch(self, trees: Sequence[Digest]) -> dict[Digest, Directory]:
        found: dict[Digest, Directory] = {}
        while missing := [tree for tree in dict.fromkeys(trees) if tree not in found]:
            request = wire.AskNodes(self._token, tuple(missing))
            _, payload = await ask(self._channel, request, wire.Nodes)
            found.update(await in_thread(self._decoded, payload, missing))
        return found

    def _decoded(self, pack: bytes, asked: Sequence[Digest]) -> dict[Digest, Directory]:
        batch = unpack_nodes(pack)
        if len(batch) < len(asked) and sum(map(len, batch)) < PACK_BYTES:
            raise UnexpectedMessage(FEW)
        found: dict[Digest, Directory] = {}
        for node in batch:
            self._budget.take(len(node))
            found[digest_of(node)] = decode(node)
        if not found.keys() <= set(asked):
            raise UnexpectedMessage("a directory node came that was not asked for")
        return found
