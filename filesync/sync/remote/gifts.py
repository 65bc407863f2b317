"""What a server of trees is given: planned, pulled from the giver, and put in its place."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.disk.updating.early import EarlyFile, Keeper
from filesync.errors import FilesyncError, UsageError
from filesync.manifest import Manifest
from filesync.process.descriptors import with_room
from filesync.sync.applying import (
    Arrival,
    Update,
    around_shut,
    as_others,
    making_room,
    plan_target,
)
from filesync.sync.changing import changes_of
from filesync.sync.filter import Filter
from filesync.sync.part import Part, Removal
from filesync.sync.places import Place
from filesync.sync.plan import Plan
from filesync.sync.remote import wire
from filesync.sync.remote.adding import Adding
from filesync.sync.remote.arriving import Arrivals
from filesync.sync.remote.asking import ask
from filesync.sync.remote.earlies import Earlies
from filesync.sync.remote.edits import unpack_edits, unpack_remains
from filesync.sync.remote.held import Held, Stage
from filesync.sync.remote.holders import Holders
from filesync.sync.remote.moving import Moving
from filesync.sync.remote.named import named_of, some_of
from filesync.sync.remote.nodes import NodeBudget, fetch_nodes
from filesync.sync.scanning import Found
from filesync.sync.target import Target
from filesync.sync.unwritable import around_unwritable
from filesync.transfer.coding.edit import Edit
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import NotOffered
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.receive.effects import Feed
from filesync.transfer.receive.told import Told
from filesync.transfer.replica import Replica
from filesync.transfer.send.offer import stand_in
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.threads import in_thread

log = logging.getLogger(__name__)

Gift = wire.Give | wire.GiveGrowing | wire.Add
_NOTHING: Final = wire.Given()


class Gifts:
    """Takes what peers give to the places that they have prepared.

    Args:
        plane: what is pulled over.
        holders: of the places; one is let go of when it was given to.
        caches: where stat caches are kept.
    """

    def __init__(self, plane: DataPlane, holders: Holders, caches: Path | None) -> None:
        self._plane = plane
        self._holders = holders
        self._caches = caches

    async def take(self, channel: Channel, request: Gift) -> wire.Given:
        """Do what is asked for."""
        match request:
            case wire.Give():
                return await self._give(channel, request)
            case wire.GiveGrowing():
                return await self._give_growing(channel, request)
            case wire.Add():
                return await self._add(channel, request)

    @contextmanager
    def _given_to(
        self, channel: Channel, request: wire.Give | wire.GiveGrowing, stage: Stage
    ) -> Iterator[tuple[Held, Place]]:
        """Use what was prepared, which is at ``stage``, for the block; let go of it at its end."""
        held, place = self._find(channel, request)
        with held.used(stage):
            try:
                yield held, place
            finally:
                self._holders.drop(channel, request.token)

    def _find(self, channel: Channel, request: Gift) -> tuple[Held, Place]:
        held = self._holders.find(channel, request.token)
        if held.place is None or not held.is_claimed:
            raise UsageError("what was prepared for a dry run is not written")
        if request.served not in channel.served:
            raise NotOffered("the tree to be given is not served over this connection")
        return held, held.place

    async def _add(self, channel: Channel, request: wire.Add) -> wire.Given:
        """Take what is new of a tree that is still being scanned, into what was scanned.

        Of what cannot be added nothing is said: it is tried again when all is given.
        """
        held, place = self._find(channel, request)
        if not held.takes_additions:
            raise UsageError("nothing is added to this before all is given")
        tree, total, moving = stand_in(request.served), wire.Given(), Moving()

        async def pull(update: Update) -> None:
            nonlocal total
            total = await self._fill(channel, request, update, tree, since=total, moving=moving)

        earlies = self._earlies(channel, request, place.staging, moving)
        with held.used(Stage.SCANNED, during=Stage.OPEN):
            adding = Adding(
                channel,
                request.served,
                place,
                held.part,
                Found(held.manifest, {}, held.shut),
                held.nodes,
                unseen=held.filter,
                caches=self._caches,
                deletes=request.delete,
                rename=held.rename,
                earlies=earlies,
            )
            async with moving.told(_teller(channel, request)):
                found = await adding.run(pull, partial(with_room, held.scan_again))
            held.manifest, held.shut = found.manifest, found.unreadable
        total = _with_earlies(total, earlies)
        return wire.Given(
            total.created, total.deleted, total.files, total.content_bytes, total.copied_bytes
        )

    async def _give_growing(self, channel: Channel, request: wire.GiveGrowing) -> wire.Given:
        """Take a tree that is scanned while it comes, into what is empty."""
        with self._given_to(channel, request, Stage.NEW) as (held, place):
            if not place.is_empty:
                raise UsageError("it is not empty any more; try again")
            update = Arrival(
                place,
                held.nodes,
                part=held.part,
                caches=self._caches,
                goes_on=request.goes_on,
            )
            tree, moving = stand_in(request.served), Moving()

            earlies = self._earlies(channel, request, update, moving)
            arrivals = Arrivals(channel, request.served, update, held.nodes, earlies)
            try:
                async with moving.told(_teller(channel, request)):
                    given = await self._fill(
                        channel, request, update, tree, feed=arrivals.feed, moving=moving
                    )
            finally:
                await earlies.stop()
            await arrivals.check()
            return _with_earlies(given, earlies)

    def _earlies(
        self,
        channel: Channel,
        request: wire.GiveGrowing | wire.Add,
        keeper: Keeper,
        moving: Moving,
    ) -> Earlies:
        """Return what brings large files to ``keeper``, before their digests are known."""

        async def pull(file: EarlyFile) -> PullStats:
            return await self._plane.pull(
                file,
                [Replica(None, request.served, channel)],
                tree=stand_in(request.served),
                progress=moving.pull(),
            )

        return Earlies(keeper, pull)

    async def _give(self, channel: Channel, request: wire.Give) -> wire.Given:
        """Take what a prepared place lacks of a tree, and remove what is to be removed."""
        with self._given_to(channel, request, Stage.SCANNED) as (held, place):
            told = await in_thread(_told, request)
            plan = await self._plan(channel, request, held, place, told.edits)
            plan, unwritable = await in_thread(around_unwritable, place.root, plan, held.nodes)
            given, moving = wire.Given(), Moving()
            if plan.is_done:
                await in_thread(partial(place.staging.close, keep=False))
            else:
                update = Update(
                    place,
                    plan,
                    part=held.part,
                    rename=held.rename,
                    caches=self._caches,
                    goes_on=request.goes_on,
                    passes_over=request.passes_over,
                )
                with making_room(update):
                    async with moving.told(_teller(channel, request)):
                        given = await self._fill(
                            channel, request, update, request.tree, told=told, moving=moving
                        )
            named = some_of(plan.left_out)
            shut = named_of(unwritable)
            return msgspec.structs.replace(
                given,
                left_out=named,
                unnamed=len(plan.left_out) - len(named),
                unwritable=shut,
                unnamed_unwritable=len(unwritable) - len(shut),
            )

    async def _plan(
        self,
        channel: Channel,
        request: wire.Give,
        held: Held,
        place: Place,
        edits: Mapping[Digest, Edit],
    ) -> Plan:
        # After the scan: nodes that this side has do not travel.
        basis = held.manifest
        if request.of_others:
            basis = await in_thread(as_others, basis, held.nodes)
        budget = NodeBudget()
        await fetch_nodes(
            channel,
            request.served,
            request.tree,
            held.nodes,
            basis=basis.tree,
            first=request.nodes,
            edits=edits,
            budget=budget,
        )
        removal = None
        if request.delete:
            filter = await in_thread(Filter, request.rules, root=held.part.prefix)
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
        request: Gift,
        update: Update | Arrival,
        tree: Digest,
        *,
        feed: Feed | None = None,
        told: Told | None = None,
        since: wire.Given = _NOTHING,
        moving: Moving,
    ) -> wire.Given:
        """Pull what ``update`` wants; return what that took, besides what was taken ``since``."""
        # Waited for to dial again, one who is gone would keep the place from all others.
        replica = Replica(None, request.served, channel)
        update.on_copied = moving.copied
        with changes_of(Part()):  # what the giver says has changed, the giver is told
            stats = await self._plane.pull(
                update,
                [replica],
                tree=tree,
                progress=moving.pull(),
                feed=feed,
                told=told,
            )
        log.info("given: peer=%s files=%d", channel.name, stats.files)
        assert update.done is not None  # it was finished, or there was an error
        refused = named_of(update.refused.named)
        changed = some_of(update.passed_over)
        return wire.Given(
            since.created + update.done.created,
            since.deleted + update.done.deleted,
            since.files + stats.files,
            since.content_bytes + stats.content_bytes,
            since.copied_bytes + stats.copied_bytes,
            update.done.not_kept,
            refused=refused,
            unnamed_refused=update.refused.count - len(refused),
            changed=changed,
            unnamed_changed=len(update.passed_over) - len(changed),
        )


def _told(request: wire.Give) -> Told:
    return Told(unpack_edits(request.edits), unpack_remains(request.remains))


def _with_earlies(given: wire.Given, earlies: Earlies) -> wire.Given:
    """Return ``given`` with what came early."""
    pulled = earlies.pulled
    return msgspec.structs.replace(
        given,
        files=given.files + sum(one.files for one in pulled),
        content_bytes=given.content_bytes + sum(one.content_bytes for one in pulled),
    )


def _teller(channel: Channel, request: Gift) -> Callable[[Progress], Awaitable[None]] | None:
    """Return what tells the giver how far it is; None if that is not asked for."""
    return partial(_tell, channel) if request.progress else None


async def _tell(channel: Channel, progress: Progress) -> None:
    request = wire.Progressed(progress.files, progress.content_bytes)
    with suppress(FilesyncError):  # the gift itself shows what is wrong
        await ask(channel, request, wire.Done)
