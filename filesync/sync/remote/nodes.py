"""Directory nodes over a connection: from the root down, only those that the asker lacks.

A node of which the asker has an older one, of the same place, comes as a delta against that:
directories have many entries, of which few change.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedManifest, MalformedMessage, UnexpectedMessage
from filesync.manifest import Manifest, Nodes, accept, subdirectories
from filesync.manifest.pack import PACK_BYTES, pack_nodes, unpack_nodes
from filesync.process.entropy import random_bits
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import ask
from filesync.transfer.coding import codec, delta, edit
from filesync.transfer.coding.edit import Edit
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered
from filesync.transfer.threads import in_thread
from filesync.transfer.wire import Buffer

MAX_NODES: Final = 1 << 22
MAX_NODES_BYTES: Final = 1 << 30
"""Some twelve million files."""
FIRST_NODES_BYTES: Final = 16 << 10
"""Nodes that are sent before they are asked for: on a slow link they must cost less than asking."""
CUT_BYTES: Final = 16 << 20
"""Nodes that are cut for one answer: it can be small however many they are."""


class NodeBudget:
    """What may come of directory nodes in answer to one request, however many trees they are of."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0

    def take(self, size: int, *, missing: int = 0) -> None:
        """Count a node of ``size`` bytes, behind which so many more are known to be ``missing``.

        Raises:
            MalformedManifest: it is too much.
        """
        self._count += 1
        self._bytes += size
        if self._count + missing > MAX_NODES or self._bytes > MAX_NODES_BYTES:
            raise MalformedManifest(
                f"what is new of the tree is more than one sync takes: {MAX_NODES:,} directories, or "
                f"{MAX_NODES_BYTES >> 20:,} MiB of names; sync directories of it one after another"
            )


async def fetch_nodes(
    channel: Channel,
    token: bytes,
    tree: Digest,
    nodes: Nodes,
    *,
    basis: Digest | None = None,
    first: bytes = b"",
    edits: Mapping[Digest, Edit] | None = None,
    budget: NodeBudget | None = None,
) -> None:
    """Bring the tree's nodes into ``nodes``.

    Args:
        channel: to who has the tree.
        token: what the peer knows it by.
        tree: its digest.
        nodes: what is here already.
        basis: a tree in ``nodes`` that is most likely much like it.
        first: what came of ``first_nodes`` already.
        edits: what makes some of the nodes out of those of ``basis``.
        budget: what is left of it may come; without it, as much as one tree may have.

    Raises:
        PeerError: what came are not the nodes asked for, or is no tree, or is too large.
        Unavailable: the peer is gone, or refused.
    """
    fetch = NodeFetch(token, {tree: basis}, nodes, budget=budget)
    if edits:
        await in_thread(fetch.take_edits, edits)
    if first:
        await in_thread(fetch.take_first, first)
    await _ask_for(channel, fetch)


async def fetch_trees(
    channel: Channel,
    token: bytes,
    trees: Mapping[Digest, Digest | None],
    nodes: Nodes,
    *,
    budget: NodeBudget,
) -> None:
    """Bring the nodes of all ``trees`` into ``nodes``, each by the one that is most likely much like it.

    Else as ``fetch_nodes``.
    """
    await _ask_for(channel, NodeFetch(token, trees, nodes, budget=budget))


async def _ask_for(channel: Channel, fetch: "NodeFetch") -> None:
    while request := await in_thread(fetch.next_request):
        if isinstance(request, wire.AskNodes):
            _, payload = await ask(channel, request, wire.Nodes)
            await in_thread(fetch.take_nodes, payload)
        else:
            answer, payload = await ask(channel, request, wire.NodeDeltas)
            await in_thread(fetch.take_deltas, answer, payload)
    await in_thread(fetch.settle)


def first_nodes(manifest: Manifest) -> bytes:
    """Return a pack of the tree's first levels from the root down, those that are few bytes.

    Empty if the root alone is too many.
    """
    found: list[bytes] = []
    room = FIRST_NODES_BYTES
    level = [manifest.tree]
    while level:
        nodes: list[bytes] = []
        for digest in level:
            nodes.append(manifest.nodes.read(digest))
            room -= len(nodes[-1])
            if room < 0:
                return next(pack_nodes(found), b"")
        found += nodes
        below = [entry.tree for node in nodes for entry in subdirectories(node)]
        level = list(dict.fromkeys(below))
    return next(pack_nodes(found), b"")


def answer(
    manifest: Manifest, asked: wire.AskNodes | wire.AskNodeDeltas
) -> tuple[wire.Nodes | wire.NodeDeltas, bytes]:
    """Return the first of what was asked for of a tree. Blocks.

    Raises:
        NotOffered: one is not the tree's.
    """
    if isinstance(asked, wire.AskNodes):
        return wire.Nodes(), answer_nodes(manifest, asked.digests)
    return answer_deltas(manifest, asked)


def answer_nodes(manifest: Manifest, asked: tuple[Digest, ...]) -> bytes:
    """Return a pack of the first of the nodes that were asked for.

    Raises:
        NotOffered: one is not the tree's.
    """
    batch: list[bytes] = []
    size = 0
    for digest in asked:
        batch.append(_offered(manifest, digest))
        size += len(batch[-1])
        if size >= PACK_BYTES:
            break
    return next(pack_nodes(batch))


def answer_deltas(
    manifest: Manifest, asked: wire.AskNodeDeltas
) -> tuple[wire.NodeDeltas, bytes]:
    """Return the first of the nodes that were asked for as deltas.

    Raises:
        NotOffered: one is not the tree's.
    """
    sizes: list[int] = []
    deltas: list[bytes] = []
    total = cut = 0
    for digest, signatures in asked.items:
        node = _offered(manifest, digest)
        made = delta.encode(node, signatures, asked.key, average=delta.NODE_PIECE_BYTES)
        sizes.append(len(node))
        deltas.append(made)
        total += len(made)
        cut += len(node)
        if total >= PACK_BYTES or cut >= CUT_BYTES:
            break
    joined = delta.join(deltas)
    coding, payload = codec.compress(joined)
    return wire.NodeDeltas(tuple(sizes), len(joined), coding), bytes(payload)


def _offered(manifest: Manifest, digest: Digest) -> bytes:
    if digest not in manifest.nodes:
        raise NotOffered("a directory node was asked for that is not in the tree on offer")
    return manifest.nodes.read(digest)


_FEW: Final = "fewer directory nodes came than were asked for"
"""What is asked for costs time by its number: who answers one at a time would have hours of it."""


class NodeFetch:
    """The nodes of trees on their way. Without I/O; one request at a time.

    Memory is bounded by the budget. The arguments are those of ``fetch_trees``.
    """

    def __init__(
        self,
        token: bytes,
        trees: Mapping[Digest, Digest | None],
        nodes: Nodes,
        *,
        budget: NodeBudget | None = None,
    ) -> None:
        self._token = token
        self._trees = trees
        self._nodes = nodes
        self._found: dict[Digest, bytes] = {}
        self._children: dict[Digest, list[Digest]] = {}
        # What is still to come, and the older node of each.
        self._missing = {tree: basis for tree, basis in trees.items() if tree not in nodes}
        self._signed: list[tuple[Digest, delta.Pieces]] = []
        self._asked = 0
        self._budget = budget or NodeBudget()

    def next_request(self) -> wire.AskNodes | wire.AskNodeDeltas | None:
        """Return what to ask next; None when all is here."""
        whole: list[Digest] = []
        self._signed = []
        key, size = random_bits(63), 0
        for digest, basis in self._missing.items():
            if basis is None:
                whole.append(digest)
            elif not whole:
                pieces = delta.cut(self._nodes.read(basis), key, average=delta.NODE_PIECE_BYTES)
                size += len(pieces.signatures)
                if size > fields.MAX_SIGNATURES_BYTES:
                    break
                self._signed.append((digest, pieces))
            if len(whole) + len(self._signed) == fields.MAX_ASKED_NODES:
                break
        if self._signed:
            items = tuple([(digest, pieces.signatures) for digest, pieces in self._signed])
            self._asked = len(items)
            return wire.AskNodeDeltas(self._token, key, items)
        if not whole:
            # What is left has more signatures than go into an ask.
            whole = list(self._missing)[:1]
        self._asked = len(whole)
        return wire.AskNodes(self._token, tuple(whole)) if whole else None

    def take_first(self, pack: Buffer) -> None:
        """Take what is missing of a pack of nodes that nobody has asked for.

        Raises:
            PeerError: it is none.
        """
        for node in unpack_nodes(pack):
            if (digest := digest_of(node)) in self._missing:
                self._take(digest, node)

    def take_edits(self, edits: Mapping[Digest, Edit]) -> None:
        """Take what ``edits`` make of the older nodes of those that are missing."""
        tried: set[Digest] = set()
        while told := (self._missing.keys() & edits.keys()) - tried:
            tried |= told
            for digest in told:
                if (basis := self._missing[digest]) is None:
                    continue
                with suppress(MalformedMessage):  # of another node it makes nonsense
                    node = edit.apply(edits[digest], self._nodes.read(basis))
                    if digest_of(node) == digest:
                        self._take(digest, node)

    def take_nodes(self, payload: Buffer) -> None:
        """Take a pack of nodes.

        Raises:
            PeerError: it holds none, or what was not asked for.
        """
        batch = unpack_nodes(payload)
        if len(batch) < self._asked and sum(map(len, batch)) < PACK_BYTES:
            raise UnexpectedMessage(_FEW)
        for node in batch:
            digest = digest_of(node)
            if digest not in self._missing:
                raise UnexpectedMessage("a directory node came that was not asked for")
            self._take(digest, node)

    def take_deltas(self, answer: wire.NodeDeltas, payload: Buffer) -> None:
        """Take deltas; what comes of one and is not right is asked for as it is.

        Raises:
            PeerError: they are no deltas for what was asked for.
        """
        if len(answer.sizes) > len(self._signed):
            raise UnexpectedMessage("directory nodes came that were not asked for")
        is_few = len(answer.sizes) < self._asked
        if is_few and answer.raw_bytes < PACK_BYTES and sum(answer.sizes) < CUT_BYTES:
            raise UnexpectedMessage(_FEW)
        joined = codec.decompress(answer.codec, payload, answer.raw_bytes)
        deltas = delta.split(joined, len(answer.sizes))
        for (digest, pieces), size, one in zip(
            self._signed, answer.sizes, deltas, strict=False
        ):
            node = delta.apply(one, pieces, size)
            if digest_of(node) == digest:
                self._take(digest, node)
            else:
                self._missing[digest] = None

    def settle(self) -> None:
        """Accept what was found, children before parents, and let go of it.

        Raises:
            MalformedManifest: one is no tree.
        """
        stack = list(self._trees) if self._found else []
        while stack:
            digest = stack[-1]
            below = [c for c in self._children.pop(digest, []) if c not in self._nodes]
            if below:
                stack.extend(below)
                continue
            stack.pop()
            if digest not in self._nodes:
                # Kept both here and there, a tree's nodes would be in memory twice.
                accept(self._nodes, self._found.pop(digest))

    def _take(self, digest: Digest, node: bytes) -> None:
        basis = self._missing.pop(digest)
        self._found[digest] = node
        below = subdirectories(node)
        self._children[digest] = [entry.tree for entry in below]
        if lacking := [one for one in below if not self._has(one.tree)]:
            older = [] if basis is None else subdirectories(self._nodes.read(basis))
            known = {entry.name: entry.tree for entry in older}
            for entry in lacking:
                self._missing.setdefault(entry.tree, known.get(entry.name))
        self._budget.take(len(node), missing=len(self._missing))

    def _has(self, tree: Digest) -> bool:
        return tree in self._found or tree in self._nodes
