"""Directory nodes over a connection: from the root down, only those that the asker lacks."""

from itertools import islice
from typing import Final

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedManifest, UnexpectedMessage
from filesync.manifest import Manifest, Nodes, Subdirectory, accept, decode
from filesync.manifest.pack import PACK_BYTES, pack_nodes, unpack_nodes
from filesync.sync import wire
from filesync.sync.asking import ask, in_thread
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.errors import NotOffered

MAX_NODES: Final = 1 << 22
MAX_NODES_BYTES: Final = 1 << 30


async def fetch_nodes(channel: Channel, token: bytes, tree: Digest, nodes: Nodes) -> int:
    """Bring the tree's nodes into ``nodes``; return how many came.

    Raises:
        PeerError: what came are not the nodes asked for, or is no tree, or is too large.
        Unavailable: the peer is gone, or refused.
    """
    fetching = _Fetching(tree, nodes)
    while asked := fetching.next_ask():
        _, payload = await ask(channel, wire.AskNodes(token, asked), wire.Nodes)
        await in_thread(fetching.take, payload)
    await in_thread(fetching.settle)
    return len(fetching.found)


def answer_nodes(manifest: Manifest, asked: tuple[Digest, ...]) -> bytes:
    """Return a pack of the first of the nodes that were asked for.

    Raises:
        NotOffered: one is not the tree's.
    """
    batch: list[bytes] = []
    size = 0
    for digest in asked:
        if digest not in manifest.nodes:
            raise NotOffered("a directory node was asked for that is not in the tree on offer")
        node = manifest.nodes.read(digest)
        batch.append(node)
        size += len(node)
        if size >= PACK_BYTES:
            break
    return next(pack_nodes(batch))


class _Fetching:
    """The nodes of one tree on their way; decides what to ask for next."""

    def __init__(self, tree: Digest, nodes: Nodes) -> None:
        self.found: dict[Digest, bytes] = {}
        self._children: dict[Digest, list[Digest]] = {}
        self._tree = tree
        self._nodes = nodes
        self._missing: dict[Digest, None] = {} if tree in nodes else {tree: None}
        self._bytes = 0

    def next_ask(self) -> tuple[Digest, ...]:
        return tuple(islice(self._missing, wire.MAX_ASKED_NODES))

    def take(self, payload: bytes) -> None:
        """Take a pack of nodes; memory is bounded by what one tree may have."""
        batch = unpack_nodes(payload)
        if not batch:
            raise UnexpectedMessage("no node came of those that were asked for")
        for node in batch:
            digest = digest_of(node)
            if digest not in self._missing:
                raise UnexpectedMessage("a directory node came that was not asked for")
            del self._missing[digest]
            self.found[digest] = node
            self._bytes += len(node)
            children = [e.tree for e in decode(node).entries if isinstance(e, Subdirectory)]
            self._children[digest] = children
            for child in children:
                if child not in self.found and child not in self._nodes:
                    self._missing[child] = None
        if len(self.found) + len(self._missing) > MAX_NODES or self._bytes > MAX_NODES_BYTES:
            raise MalformedManifest("the tree has more directories than this side takes")

    def settle(self) -> None:
        """Accept what was found, children before parents."""
        stack = [self._tree] if self.found else []
        while stack:
            digest = stack[-1]
            below = [c for c in self._children.pop(digest, []) if c not in self._nodes]
            if below:
                stack.extend(below)
                continue
            stack.pop()
            if digest not in self._nodes:
                accept(self._nodes, self.found[digest])
