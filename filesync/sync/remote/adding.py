"""What a peer's scan finds while it lasts, and what that adds to a place here that is not empty."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from filesync.digest import Digest, digest_of
from filesync.disk.handles import shown
from filesync.errors import FilesyncError, MalformedManifest, UnexpectedMessage
from filesync.manifest import Directory, Manifest, Nodes, is_name
from filesync.manifest.node import decode
from filesync.manifest.pack import PACK_BYTES, unpack_nodes
from filesync.sync.additions import Additions
from filesync.sync.applying import Update, add_to
from filesync.sync.filter import Filter
from filesync.sync.owner import this_writer
from filesync.sync.part import Part
from filesync.sync.places import Place
from filesync.sync.remote import wire
from filesync.sync.remote.asking import ask
from filesync.sync.remote.nodes import FEW, NodeBudget
from filesync.sync.scanning import Found
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.threads import in_thread

log = logging.getLogger(__name__)


class Adding:
    """Adds to ``place`` what a peer finds new, for as long as it scans.

    Args:
        channel: to the peer.
        token: what the peer knows its tree by.
        place: is not empty.
        part: what of a sync goes there.
        there: what the place holds.
        nodes: has the nodes of that, and gets what is new.
        unseen: what the scan of the place left out.
        caches: where stat caches are kept.
        deletes: what the peer's tree has not goes in the end.
    """

    def __init__(
        self,
        channel: Channel,
        token: bytes,
        place: Place,
        part: Part,
        there: Found,
        nodes: Nodes,
        *,
        unseen: Filter,
        caches: Path | None,
        deletes: bool,
    ) -> None:
        self._channel = channel
        self._token = token
        self._there = there
        self._nodes = nodes
        self._additions = Additions(
            there.manifest,
            nodes,
            writer=this_writer(),
            deletes=deletes,
            shut=there.unreadable.keys(),
        )
        self._add_to = partial(add_to, place, part, nodes=nodes, unseen=unseen, caches=caches)
        self._budget = NodeBudget()

    async def run(
        self, pull: Callable[[Update], Awaitable[None]], look: Callable[[], Found]
    ) -> Found:
        """Have ``pull`` finish one update after another; return what the place holds when the scan ends.

        Or before, where something could not be added: then ``look``, which blocks, says what is there.
        What was wrong is tried, and said, again when all is known.

        Raises:
            Unavailable: the peer is gone.
            StoreError: by ``look``.
        """
        try:
            while (top := await self._next()) is not None:
                if top.tree == self._there.manifest.tree:
                    continue
                addition = await in_thread(self._add_to, self._there.manifest, top)
                await pull(addition.update)
                if not addition.is_made:
                    return await in_thread(look)
                self._there = self._there._replace(manifest=addition.top)
        except FilesyncError as exc:
            if self._channel.lost is not None:
                raise
            log.info("no more is added: peer=%s why=%s", self._channel.name, exc)
            return await in_thread(look)
        return self._there

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
