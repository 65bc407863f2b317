"""``filesync serve``: lets peers take and give trees below one directory."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final, Self, assert_never
from weakref import WeakSet

import msgspec

from filesync.digest import Digest
from filesync.disk.handles import shown
from filesync.entropy import random_bytes
from filesync.errors import (
    FilesyncError,
    LocalError,
    UnexpectedMessage,
    UsageError,
)
from filesync.manifest import Manifest, canonical_links, is_name
from filesync.sync.applying import (
    Arrival,
    Update,
    around_shut,
    named_at_target,
    only_owner,
    plan_target,
)
from filesync.sync.changing import changes_of
from filesync.sync.filter import Filter
from filesync.sync.part import Part, Removal
from filesync.sync.places import Claimed, Place, Places
from filesync.sync.plan import Plan
from filesync.sync.remote import wire
from filesync.sync.remote.arriving import Arrivals
from filesync.sync.remote.asking import ask, with_more
from filesync.sync.remote.edits import pack_edits, unpack_edits
from filesync.sync.remote.held import Held, Stage
from filesync.sync.remote.nodes import NodeBudget, answer_deltas, answer_nodes, fetch_nodes
from filesync.sync.remote.unseen import answer_unseen
from filesync.sync.scanning import note_proved
from filesync.sync.source import find_sources
from filesync.sync.target import NotMade, Target, find_target
from filesync.sync.unwritable import around_unwritable
from filesync.transfer.coding.edit import Edit
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.receive.effects import Feed
from filesync.transfer.replica import Replica
from filesync.transfer.send.offer import TOKEN_BYTES
from filesync.transfer.stats import Progress
from filesync.transfer.threads import in_thread
from filesync.transfer.wire import Ping

log = logging.getLogger(__name__)

MAX_HELD: Final = 64
"""Places that one peer may hold at once; each costs a descriptor and its manifest in memory."""
TELL_S: Final = 0.2
CLAIM_S: Final = 2.0
"""How long a gift waits for a place that somebody held who is lost."""
NOTICE_S: Final = 0.2
"""How long it takes to see that somebody is lost: all that he has sent is read before that."""
CLAIM_AGAIN_S: Final = 0.05


class TreeServer:
    """Answers the requests of ``filesync.sync.remote.wire``.

    Args:
        places: what the paths of peers mean.
        read_only: give nothing to it.
        caches: where stat caches are kept.
    """

    def __init__(self, places: Places, *, read_only: bool, caches: Path | None) -> None:
        self._places = places
        self._read_only = read_only
        self._caches = caches
        self._held: dict[Channel, dict[bytes, Held]] = {}
        self._lost: WeakSet[Held] = WeakSet()  # what is being given to by lost peers
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
        result: wire.Answer = wire.Done()
        match request:
            case wire.Look():
                result = self._look(channel, request)
            case wire.Prepare():
                result = await self._prepare(channel, request)
            case wire.Scan(token, owner, wants_edits):
                held = self._find(channel, token)
                result = await self._scan(held, token, owner)
                if wants_edits:
                    edits = await in_thread(pack_edits, held.edits)
                    result = with_more(result, edits=edits)
            case wire.AskNodes() | wire.AskNodeDeltas() | wire.AskUnseen():
                held = self._find(channel, request.token)
                result, payload = await _answer_scanned(held, request)
            case wire.Drop(token):
                self._drop(channel, token)
            case wire.Give():
                result = await self._give(channel, request)
            case wire.GiveGrowing():
                result = await self._give_growing(channel, request)
            case wire.Progressed() | wire.AskDirectories():
                raise UnexpectedMessage("a server gives nothing away but on demand")
            case _:
                assert_never(request)
        return wire.encode(result), payload

    # --- places -------------------------------------------------------------------------------

    def _look(self, channel: Channel, request: wire.Look) -> wire.Found:
        caches = None if request.checksum else self._caches
        # Before anything is open: it may fail.
        filter = Filter(request.rules)
        sources = find_sources(self._places, request.paths, filter, most=MAX_HELD)
        if not request.skip_missing:
            sources.check()
        helds: list[Held] = []
        for source in sources.found:
            below = Filter(request.rules, root=source.part.prefix)
            helds.append(Held(source.place, source.part, below, caches, is_offered=True))
        found: list[wire.Part] = []
        for token, held in zip(self._hold(channel, *helds), helds, strict=True):
            (inside, names), bare = held.part, held.is_bare()
            found.append(wire.Part(token, inside, tuple(sorted(names or ())), bare))
        nowhere = {
            at: sources.missing[path]
            for at, path in enumerate(request.paths)
            if path in sources.missing
        }
        return wire.Found(tuple(found), nowhere)

    async def _prepare(self, channel: Channel, request: wire.Prepare) -> wire.Prepared:
        if self._read_only and not request.dry_run:
            raise UsageError("this server is read-only; nothing can be given to it")
        part = Part(_checked(request.inside), frozenset(map(_checked, request.names)) or None)
        # Before anything is open, or is claimed: it may fail.
        filter = Filter(request.rules, root=part.prefix)
        try:
            target = await self._find_target(channel, request, part)
        except NotMade as exc:
            if not request.goes_on:
                raise
            return wire.Prepared(bytes(TOKEN_BYTES), refused=exc.errno)
        place = None if target is None else target.place
        rename = None if target is None else target.rename
        caches = None if request.checksum else self._caches
        held = Held(
            place,
            part,
            filter,
            caches,
            rename=rename,
            is_claimed=not request.dry_run,
            named=named_at_target(delete=request.delete),
        )
        is_new = target is None or target.is_new
        is_empty = (
            held.is_claimed and place is not None and place.is_writable and place.is_empty
        )
        (token,) = self._hold(channel, held)
        scanned: wire.Scanned | None = None
        if request.scan and not is_empty:
            try:
                scanned = await self._scan(held, token, None)
            except BaseException:
                self._drop(channel, token)  # nobody is told of it
                raise
        return wire.Prepared(token, is_new, rename, is_empty, only_owner(), scanned)

    async def _find_target(
        self, channel: Channel, request: wire.Prepare, part: Part
    ) -> Target | None:
        """As ``find_target``, but wait for what peers that were killed still hold."""
        began = monotonic()
        while True:
            try:
                return find_target(
                    self._places,
                    request.path,
                    part=part,
                    is_directory=request.is_directory,
                    is_bare=request.is_bare,
                    dry_run=request.dry_run,
                )
            except Claimed:
                is_ending = any(held.is_used for held in self._lost)
                if monotonic() - began > (CLAIM_S if is_ending else NOTICE_S):
                    raise
            # Who is lost shows where something is sent to it.
            for other, helds in list(self._held.items()):
                if other is not channel and any(held.is_claimed for held in helds.values()):
                    other.send_nowait(Ping())
            await asyncio.sleep(CLAIM_AGAIN_S)

    def _hold(self, channel: Channel, *helds: Held) -> list[bytes]:
        """Keep ``helds`` for ``channel``, all of them or none; return their tokens."""
        mine = self._held.get(channel, {})
        if len(mine) + len(helds) > MAX_HELD or channel.lost is not None:
            for held in helds:
                held.close()
            raise TooMuchWanted(f"more than {MAX_HELD} directories at once; name fewer")
        if channel not in self._held:
            self._held[channel] = mine
            channel.on_lost.append(lambda _: self._drop_all(channel))
        tokens = [random_bytes(TOKEN_BYTES) for _ in helds]
        mine.update(zip(tokens, helds, strict=True))
        return tokens

    def _find(self, channel: Channel, token: bytes) -> Held:
        held = self._held.get(channel, {}).get(token)
        if held is None:
            raise NotOffered("this token is none of yours")
        return held

    def _drop(self, channel: Channel, token: bytes) -> None:
        if held := self._held.get(channel, {}).pop(token, None):
            held.close()

    def _drop_all(self, channel: Channel) -> None:
        for held in self._held.pop(channel, {}).values():
            held.close()
            if held.is_claimed and held.is_used:
                self._lost.add(held)

    async def _scan(self, held: Held, token: bytes, owner: wire.Owner | None) -> wire.Scanned:
        held.use(Stage.NEW)
        try:
            found = await in_thread(held.scan, owner)
            held.manifest, held.shut = found.manifest, found.unreadable
            if held.is_offered and held.place is not None and held.stage is not Stage.CLOSED:
                held.offer = self.plane.offer(held.manifest, held.place.root, token)
        finally:
            held.leave(Stage.SCANNED)
        return wire.scanned(found.manifest.tree, found.skipped, found.unreadable)

    # --- being given --------------------------------------------------------------------------

    def _find_given(
        self, channel: Channel, request: wire.Give | wire.GiveGrowing
    ) -> tuple[Held, Place]:
        held = self._find(channel, request.token)
        if held.place is None or not held.is_claimed:
            raise UsageError("what was prepared for a dry run is not written")
        if request.served not in channel.served:
            raise NotOffered("the tree to be given is not served over this connection")
        return held, held.place

    async def _give_growing(self, channel: Channel, request: wire.GiveGrowing) -> wire.Given:
        held, place = self._find_given(channel, request)
        held.use(Stage.NEW)
        try:
            if not place.is_empty:
                raise UsageError("it is not empty any more; try again")
            update = Arrival(place, held.nodes, goes_on=request.goes_on)
            arrivals = Arrivals(channel, request.served, update, held.nodes)
            given = await self._fill(channel, request, place, update, feed=arrivals.feed)
            made = await in_thread(canonical_links, held.nodes, update.made.tree)
            if made != arrivals.tree:
                raise UnexpectedMessage("the tree that came is not the one that was scanned")
            return given
        finally:
            held.leave(Stage.SCANNED)
            self._drop(channel, request.token)

    async def _give(self, channel: Channel, request: wire.Give) -> wire.Given:
        held, place = self._find_given(channel, request)
        held.use(Stage.SCANNED)
        try:
            edits = unpack_edits(request.edits)
            plan = await self._plan(channel, request, held, place, edits)
            plan, unwritable = await in_thread(around_unwritable, place.root, plan, held.nodes)
            given = wire.Given()
            if not plan.is_done:
                update = Update(place, plan, goes_on=request.goes_on)
                given = await self._fill(channel, request, place, update, edits=edits)
            named = [path for path in plan.left_out if len(path) <= wire.MAX_PATH_BYTES]
            named = named[: wire.MAX_NAMED]
            shut = wire.named_of(unwritable)
            return msgspec.structs.replace(
                given,
                left_out=tuple(named),
                unnamed=len(plan.left_out) - len(named),
                unwritable=shut,
                unnamed_unwritable=len(unwritable) - len(shut),
            )
        finally:
            held.leave(Stage.SCANNED)
            self._drop(channel, request.token)

    async def _plan(
        self,
        channel: Channel,
        request: wire.Give,
        held: Held,
        place: Place,
        edits: Mapping[Digest, Edit],
    ) -> Plan:
        # After the scan: nodes that this side has do not travel.
        basis = held.manifest.tree
        budget = NodeBudget()
        await fetch_nodes(
            channel,
            request.served,
            request.tree,
            held.nodes,
            basis=basis,
            first=request.nodes,
            edits=edits,
            budget=budget,
        )
        removal = None
        if request.delete:
            filter = Filter(request.rules, root=held.part.prefix)
            others: list[Manifest] = []
            for other in request.others:
                await fetch_nodes(channel, other.token, other.tree, held.nodes, budget=budget)
                others.append(Manifest(other.tree, held.nodes))
            removal = Removal(filter, others, frozenset(request.spared))
        given = Manifest(request.tree, held.nodes)
        given, removal, _ = await in_thread(around_shut, held.shut, given, removal, held.nodes)
        return await in_thread(
            plan_target,
            Target(place, held.rename),
            held.part,
            held.manifest,
            given,
            held.nodes,
            removal=removal,
            unseen=held.filter,
        )

    async def _fill(
        self,
        channel: Channel,
        request: wire.Give | wire.GiveGrowing,
        place: Place,
        update: Update | Arrival,
        *,
        feed: Feed | None = None,
        edits: Mapping[Digest, Edit] | None = None,
    ) -> wire.Given:
        # Waited for to dial again, one who is gone would keep the place from all others.
        replica = Replica(None, request.served, channel)
        async with _Teller(channel, is_wanted=request.progress) as tell:
            with changes_of(Part()):  # what the giver says has changed, the giver is told
                stats = await self.plane.pull(
                    update,
                    [replica],
                    tree=request.tree,
                    progress=tell.note,
                    feed=feed,
                    edits=edits,
                )
        await in_thread(note_proved, place, self._caches, update.proved(), update.written_ns)
        log.info("given: peer=%s files=%d", channel.name, stats.files)
        assert update.done is not None  # it was finished, or there was an error
        refused = wire.named_of(update.refused.named)
        return wire.Given(
            update.done.created,
            update.done.deleted,
            stats.files,
            stats.content_bytes,
            stats.copied_bytes,
            update.done.not_kept,
            refused=refused,
            unnamed_refused=update.refused.count - len(refused),
        )

    @property
    def plane(self) -> DataPlane:
        """The data plane that this server uses."""
        if self._plane is None:
            raise LocalError("a tree server answers before it has a data plane")
        return self._plane


class _Teller:
    """Tells a peer now and then how far a gift has come, for as long as the block lasts."""

    def __init__(self, channel: Channel, *, is_wanted: bool) -> None:
        self._channel = channel
        self._latest = Progress(0, 0, 0)
        self._task = asyncio.create_task(self._tell()) if is_wanted else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def note(self, progress: Progress) -> None:
        """Take note of how far it is."""
        self._latest = progress

    async def _tell(self) -> None:
        told = self._latest
        with suppress(FilesyncError):  # the gift itself shows what is wrong
            while True:
                await asyncio.sleep(TELL_S)
                if self._latest is not told:
                    told = self._latest
                    request = wire.Progressed(told.files, told.content_bytes)
                    await ask(self._channel, request, wire.Done)


async def _answer_scanned(
    held: Held, request: wire.AskNodes | wire.AskNodeDeltas | wire.AskUnseen
) -> tuple[wire.Answer, bytes]:
    """Answer a question about what was scanned."""
    match request:
        case wire.AskNodes():
            return wire.Nodes(), await in_thread(answer_nodes, held.scanned(), request.digests)
        case wire.AskNodeDeltas():
            return await in_thread(answer_deltas, held.scanned(), request)
        case wire.AskUnseen():
            held.use(Stage.SCANNED)
            try:
                return await in_thread(answer_unseen, held.place, held.filter, request), b""
            finally:
                held.leave(Stage.SCANNED)


def _checked(name: bytes) -> bytes:
    if name and not is_name(name):
        raise UsageError(f"{shown(name)} cannot be a name in a directory")
    return name
