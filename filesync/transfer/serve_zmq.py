"""``filesync serve``: lets peers take and give trees below one directory."""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, assert_never

from filesync.disk.handles import shown
from filesync.disk.update import TreeUpdate
from filesync.errors import LocalError, PathMissing, UsageError
from filesync.manifest import Manifest, MemoryNodes, Subdirectory, empty_manifest
from filesync.transfer import serve_wire as wire
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.nodes_zmq import answer_nodes, fetch_nodes
from filesync.transfer.offer import Offer, Replica
from filesync.transfer.places_disk import Place, ServedPlaces, find, find_target
from filesync.transfer.plan_disk import make_plan, scan_place
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.wire import MAX_DETAIL_CHARS

log = logging.getLogger(__name__)

MAX_OFFERS: Final = 16
"""Trees that one peer may have on offer at once; each costs its manifest in memory."""


class TreeServer:
    """Answers the requests of ``serve_wire`` for the directory ``root``.

    Args:
        root: nothing outside of it is read or written.
        read_only: give nothing to it.
        caches: where stat caches are kept.
    """

    def __init__(self, root: Path, *, read_only: bool, caches: Path | None) -> None:
        self._places = ServedPlaces(root)
        self._read_only = read_only
        self._caches = caches
        self._offers: dict[Channel, dict[bytes, tuple[Offer, Place]]] = {}
        self._writing: set[str] = set()
        self._plane: DataPlane | None = None

    def use(self, plane: DataPlane) -> None:
        """Send and pull over ``plane``, whose ``answer`` this object's is."""
        self._plane = plane

    async def answer(self, channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        """Answer one request.

        Raises:
            FilesyncError: it is refused; the peer is to be told why.
        """
        request = wire.decode_request(body)
        payload = b""
        result: wire.Answer
        match request:
            case wire.Look():
                result = await self._look(channel, request)
            case wire.AskNodes(token, digests):
                manifest = self._offer(channel, token).manifest
                payload = await asyncio.to_thread(answer_nodes, manifest, digests)
                result = wire.Nodes()
            case wire.Drop(token):
                self._drop(channel, token)
                result = wire.Done()
            case wire.Give():
                result = await self._give(channel, request)
            case _:
                assert_never(request)
        return wire.encode(result), payload

    # --- taking -------------------------------------------------------------------------------

    async def _look(self, channel: Channel, request: wire.Look) -> wire.Found:
        held = self._offers.get(channel)
        if held is None:
            held = self._offers[channel] = {}
            channel.on_lost.append(lambda _: self._drop_all(channel))
        if len(held) >= MAX_OFFERS:
            raise TooMuchWanted("too many trees on offer at once")
        place = find(self._places, request.path)
        try:
            manifest = await asyncio.to_thread(
                scan_place, place, MemoryNodes(), excludes=request.excludes, caches=self._caches
            )
            offer = self.plane.offer(manifest, place.root)
        except BaseException:
            place.close()
            raise
        held[offer.token] = (offer, place)
        if channel.lost is not None:
            self._drop_all(channel)
        log.info("on offer: peer=%s path=%r", channel.name, request.path)
        return wire.Found(offer.token, offer.tree, place.only is not None)

    def _offer(self, channel: Channel, token: bytes) -> Offer:
        held = self._offers.get(channel, {}).get(token)
        if held is None:
            raise NotOffered("this token is not on offer to you")
        return held[0]

    def _drop(self, channel: Channel, token: bytes) -> None:
        held = self._offers.get(channel, {}).pop(token, None)
        if held is not None:
            offer, place = held
            offer.close()
            place.close()

    def _drop_all(self, channel: Channel) -> None:
        for token in list(self._offers.get(channel, ())):
            self._drop(channel, token)
        self._offers.pop(channel, None)

    # --- being given --------------------------------------------------------------------------

    async def _give(self, channel: Channel, request: wire.Give) -> wire.Given:
        if self._read_only:
            raise UsageError("this server is read-only")
        if request.token not in channel.served:
            raise NotOffered("the tree to be given is not served over this connection")
        nodes = MemoryNodes()
        file: bytes | None = None
        if request.is_file:
            await fetch_nodes(channel, request.token, request.tree, nodes)
            file = only_name(Manifest(request.tree, nodes))
        try:
            place = find_target(
                self._places,
                request.path,
                file=file,
                inside=_checked_name(request.inside),
                make=not request.dry_run,
            )
        except PathMissing:
            if not request.dry_run:
                raise
            place = None
        with ExitStack() as stack:
            if place is not None:
                stack.callback(place.close)
                stack.enter_context(self._claimed(place))
            return await self._fill(channel, request, place, nodes)

    async def _fill(
        self, channel: Channel, request: wire.Give, place: Place | None, nodes: MemoryNodes
    ) -> wire.Given:
        if place is None:
            basis = empty_manifest(nodes)
        else:
            basis = await asyncio.to_thread(scan_place, place, nodes, caches=self._caches)
        # After the scan: nodes that this side has do not travel.
        await fetch_nodes(channel, request.token, request.tree, nodes)
        plan = await asyncio.to_thread(
            make_plan,
            basis,
            Manifest(request.tree, nodes),
            nodes,
            only=None if place is None else place.only,
            delete=request.delete,
            excludes=request.excludes,
        )
        if place is None or request.dry_run:
            changes = islice(plan.changes(), wire.MAX_CHANGES)
            return wire.Given(changes=tuple(line[:MAX_DETAIL_CHARS] for line in changes))
        if plan.is_done:
            return wire.Given()
        update = TreeUpdate(
            place.root,
            basis=plan.basis,
            target=plan.target,
            atomic=True,
            preserve_owner=os.geteuid() == 0,
        )
        replica = Replica(None, request.token)
        stats = await self.plane.pull(update, [replica], tree=request.tree)
        log.info("given: peer=%s path=%r files=%d", channel.name, request.path, stats.files)
        return wire.Given(stats.files, stats.content_bytes, stats.copied_bytes)

    @contextmanager
    def _claimed(self, place: Place) -> Iterator[None]:
        """Keep others from giving to the same directory meanwhile."""
        key = os.path.realpath(place.root)
        if key in self._writing:
            raise UsageError("someone else is giving to this directory; try again later")
        self._writing.add(key)
        try:
            yield
        finally:
            self._writing.remove(key)

    @property
    def plane(self) -> DataPlane:
        """The data plane that this server uses."""
        if self._plane is None:
            raise LocalError("a tree server answers before it has a data plane")
        return self._plane


def only_name(manifest: Manifest) -> bytes:
    """Return the name of the one file in ``manifest``.

    Raises:
        UsageError: there is not exactly one, or it is a directory.
    """
    entries = manifest.root.entries
    if len(entries) != 1 or isinstance(entries[0], Subdirectory):
        raise UsageError("what was announced as one file is none")
    return entries[0].name


def _checked_name(name: bytes) -> bytes:
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        raise UsageError(f"{shown(name)} cannot be the name of a directory")
    return name
