"""Syncs from a ``filesync serve`` to this machine."""

import asyncio
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from filesync.digest import Digest
from filesync.disk.updating.early import EarlyFile, Keeper
from filesync.errors import FilesyncError, UnexpectedMessage, UsageError
from filesync.manifest import Manifest, MemoryNodes
from filesync.process.entropy import random_bytes
from filesync.sync.applying import (
    Arrival,
    Update,
    as_others,
    making_room,
    plan_part,
    scan_target,
)
from filesync.sync.changing import changes_of
from filesync.sync.filter import Filter
from filesync.sync.options import OnProgress, Options
from filesync.sync.owner import as_known_here, this_writer
from filesync.sync.part import Part, Removal, as_told, in_one_place
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.planned import Planned
from filesync.sync.remote import fields, wire
from filesync.sync.remote.ahead import Ahead
from filesync.sync.remote.arriving import Arrivals
from filesync.sync.remote.asking import Peer, ask, tell, too_old
from filesync.sync.remote.earlies import MOST_AT_ONCE, Earlies
from filesync.sync.remote.edits import unpack_edits, unpack_remains
from filesync.sync.remote.lists import pack_list
from filesync.sync.remote.moving import Moving
from filesync.sync.remote.nodes import fetch_nodes
from filesync.sync.remote.telling import ADD_AFTER_S
from filesync.sync.remote.unasked import Unasked
from filesync.sync.saying.stats import SyncStats
from filesync.sync.scanning import Found
from filesync.sync.shadow import removal_of, shadowing, stands_alone, unshadowed
from filesync.sync.source import are_several, is_named
from filesync.sync.sparing import sparing_of, too_many_mounts
from filesync.sync.target import NotMade, Target, find_target, is_left_alone
from filesync.transfer.receive.told import Told
from filesync.transfer.replica import Replica
from filesync.transfer.send.offer import TOKEN_BYTES, stand_in
from filesync.transfer.stats import Progress, PullStats
from filesync.transfer.threads import in_thread, until_done

if TYPE_CHECKING:
    from filesync.transfer.receive.effects import Feed


async def take(
    peer: Peer,
    paths: Sequence[bytes],
    dest: bytes,
    options: Options,
    progress: OnProgress | None,
    ahead: Ahead,
) -> SyncStats:
    """Make ``dest`` hold what ``paths`` have on the server ``peer``, which is answered by ``ahead``.

    Raises:
        SourceChanged, ContentCorrupt: see ``changes_of``.
        PathMissing: the directory above the destination is not there.
        PeerError: the server gives what was not asked for, or is no tree.
        Unavailable: the server is gone, or refuses.
        StoreError: this disk.
        UsageError: this machine does not know whom all is given to, or may not give it.
    """
    options = await in_thread(as_known_here, options)
    listed: fields.Listed | None = None
    if options.listed is not None and (listed := pack_list(options.listed)) is None:
        raise UsageError(
            "that is more than another machine can be asked for by a list; run this there, with DST here, "
            "or list less at once"
        )
    request = wire.Look(
        tuple(paths),
        options.rules,
        options.reads_all,
        skip_missing=True,
        copies=options.afresh,
        one_file_system=options.mounts.value,
        unites=True,
        listed=listed,
    )
    found, _ = await ask(peer.channel, request, wire.Found)
    if found.one_file_system != request.one_file_system:
        raise too_old("--one-file-system")
    if options.listed is not None:
        if not found.is_of_list:
            raise too_old("--files-from")
        paths, _ = options.listed.of(paths[0], dest)
    taking = _Taking(peer, found, paths, dest, options, progress, ahead)
    for at in reversed(range(len(found.parts))):
        with changes_of(taking.parts[at]):
            await taking.take(at)
    return taking.stats


class _Taking:
    def __init__(
        self,
        peer: Peer,
        found: wire.Found,
        paths: Sequence[bytes],
        dest: bytes,
        options: Options,
        progress: OnProgress | None,
        ahead: Ahead,
    ) -> None:
        """Of ``paths`` the server has ``found``.

        Raises:
            UnexpectedMessage: that is more, or is to stand elsewhere.
        """
        self.stats = SyncStats()
        self._peer = peer
        self._found = found.parts
        self.parts = in_one_place(
            Part(one.inside, frozenset(one.names) or None, trees=one.trees)
            for one in found.parts
        )
        self._check(found, paths, options.filter())
        self._is_all_found = not found.missing
        missing = {paths[at]: why for at, why in found.missing.items()}
        self.stats.note_unreadable(missing)
        self.stats.note_unreadable(options.unmet(self.parts, missing))
        there = [path for at, path in enumerate(paths) if at not in found.missing]
        self._is_directory = are_several(self.parts, there)
        self._dest = dest
        self._options = options
        self._progress = progress
        self._ahead = ahead
        self._nodes = MemoryNodes()
        self._tops: dict[int, wire.Scanned] = {}
        self._moving = Moving()
        self._planned = Planned(self._nodes)

    def _check(self, found: wire.Found, paths: Sequence[bytes], filter: Filter) -> None:
        if len(found.parts) > len(paths) or any(at >= len(paths) for at in found.missing):
            raise UnexpectedMessage("the server gives more than was asked for")
        for part in self.parts:
            is_left_out = part.inside and filter.excludes(part.inside, is_directory=True)
            if is_left_out or not is_named(part, paths):
                raise UnexpectedMessage("the server gives something else than was asked for")

    async def take(self, at: int) -> None:
        """Take one part."""
        part, options = self.parts[at], self._options
        try:
            if is_left_alone(LocalPlaces(), self._dest, part, options.choice):
                self._note_source(at, await self._top(at), await self._scan(at))
                return
            target = find_target(
                LocalPlaces(),
                self._dest,
                part=part,
                is_directory=self._is_directory,
                is_bare=self._found[at].is_bare,
                dry_run=options.dry_run,
            )
        except NotMade as exc:
            self._note_source(at, await self._top(at), await self._scan(at))
            self.stats.note_refused({part.inside: exc.errno})
            return
        with nullcontext() if target is None else closing(target.place):
            if target is not None and self._may_grow(at, target.place):
                await self._take_growing(at, target)
                return
            there, scanned = await self._scan_both(at, target)
            await self._bring(at, target, there, scanned)
        if not shadowing(self.parts, at):  # nobody else needs to know what it has
            await tell(self._peer.channel, wire.Drop(self._found[at].token))

    def _may_grow(self, at: int, place: Place) -> bool:
        """Say whether a part may be taken to ``place`` while the server scans it."""
        return place.is_free and self._may_come_early(at, place)

    def _may_come_early(self, at: int, place: Place) -> bool:
        given = self._found[at].identity
        return (
            not self._found[at].united
            and not self._options.dry_run
            and not (given is not None and place.is_in(given))
            and stands_alone(self.parts, at, delete=self._options.delete)
            and self._options.takes_all
        )

    async def _take_growing(self, at: int, target: Target) -> None:
        """Take a part to an empty directory: all is wanted, so nothing waits for the scan's end."""
        peer, token = self._peer, self._found[at].token
        update = Arrival(
            target.place,
            self._nodes,
            part=self.parts[at],
            caches=self._options.used_caches,
            goes_on=True,
        )

        earlies = self._earlies(update, token)
        unasked = await in_thread(self._unasked, at, target)
        arrivals = Arrivals(peer.channel, token, update, self._nodes, earlies, unasked=unasked)
        request = wire.Scan(token, grows=True)
        scanning = asyncio.create_task(ask(peer.channel, request, wire.Scanned))
        pulling = asyncio.create_task(
            self._pull(update, token, stand_in(token), feed=arrivals.feed)
        )
        try:
            # A scan that fails says better why than what comes of that.
            await asyncio.wait({scanning, pulling}, return_when=asyncio.FIRST_EXCEPTION)
            if scanning.done():
                scanning.result()
            await pulling
            scanned, _ = await scanning
            top = Manifest(await arrivals.check(), self._nodes)
        finally:
            await until_done(_stop(earlies, scanning, pulling))
            with suppress(FilesyncError):  # it is let go of with the connection, too
                await tell(peer.channel, wire.Drop(token))
        self._note_source(at, top, scanned)
        self._note_update(at, update)

    def _unasked(self, at: int, target: Target | None) -> Unasked:
        if target is not None and target.is_new and self._found[at].is_bare:
            # As nothing is in it, it may stand there itself, and not under its own name.
            return Unasked(Filter((b"*",)))
        return Unasked(self._options.filter(self.parts[at].prefix))

    def _earlies(self, keeper: Keeper, token: bytes) -> Earlies:
        """Return what brings large files to ``keeper``, by what stands for their digests."""

        async def pull(file: EarlyFile) -> PullStats:
            return await self._pull(file, token, stand_in(token))

        # Of two sessions at once each would take all that may be taken.
        return Earlies(keeper, pull, most=MOST_AT_ONCE if self._options.flow.is_free else 0)

    def _note_update(self, at: int, update: Update | Arrival) -> None:
        if update.done is not None:
            self.stats.not_kept.update(update.done.not_kept)
        refused = update.refused
        prefix = self.parts[at].prefix
        self.stats.note_refused(refused.named, prefix=prefix, unnamed=refused.unnamed)

    async def _scan_both(self, at: int, target: Target | None) -> tuple[Found, wire.Scanned]:
        """Return what is there, and what the server has, which scans while this side does."""
        options = self._options
        scan = in_thread(scan_target, target, self.parts[at], self._nodes, options)
        scanning = asyncio.ensure_future(scan)
        changing = None if options.dry_run else target
        fresh = random_bytes(TOKEN_BYTES) if self._may_add(at, target) else None
        asked = asyncio.ensure_future(self._scan(at, fresh))
        try:
            with self._ahead.scanning(self._found[at].token, changing, scanning):
                await asyncio.wait({scanning})
                there = scanning.result()
                if target is not None and fresh is not None:
                    there = await self._add(at, target, there, fresh, asked)
                return there, await asked
        finally:
            asked.cancel()
            await until_done(asyncio.wait({asked, scanning}))

    def _may_add(self, at: int, target: Target | None) -> bool:
        """Say whether something of a part may be taken to ``target`` before it is known what all of it is."""
        options = self._options
        return (
            target is not None
            and not options.choice
            and options.used_caches is not None
            and self._may_come_early(at, target.place)
        )

    async def _add(
        self,
        at: int,
        target: Target,
        there: Found,
        fresh: bytes,
        asked: "asyncio.Future[wire.Scanned]",
    ) -> Found:
        """Take what is new while the server's scan goes on, where that takes long; return what is there then."""
        await asyncio.wait({asked}, timeout=ADD_AFTER_S)
        if asked.done():
            return there
        from filesync.sync.remote.adding import Adding

        part, options = self.parts[at], self._options
        adding = Adding(
            self._peer.channel,
            self._found[at].token,
            target.place,
            part,
            there,
            self._nodes,
            unseen=options.unseen(part.prefix),
            caches=options.used_caches,
            deletes=options.delete,
            rename=target.rename,
            earlies=self._earlies(target.place.staging, fresh),
            unasked=await in_thread(self._unasked, at, target),
        )

        async def bring(update: Update) -> None:
            await self._pull(update, fresh, stand_in(fresh))

        return await adding.run(
            bring,
            partial(scan_target, target, part, self._nodes, options),
        )

    async def _bring(
        self, at: int, target: Target | None, there: Found, scanned: wire.Scanned
    ) -> None:
        """Make ``target``, where ``there`` is, what the server has ``scanned``."""
        part, token = self.parts[at], self._found[at].token
        told = Told(unpack_edits(scanned.edits), unpack_remains(scanned.remains))
        basis = there.manifest
        if scanned.of_others:
            basis = await in_thread(as_others, basis, self._nodes)
        basis = await in_thread(as_told, part, basis, self._nodes)
        # After the scan: nodes that this side has do not travel.
        await fetch_nodes(
            self._peer.channel,
            token,
            scanned.tree,
            self._nodes,
            basis=basis.tree,
            edits=told.edits,
        )
        top = Manifest(scanned.tree, self._nodes)
        unasked = await in_thread(self._unasked, at, target)
        await in_thread(unasked.refuse_new, there.manifest, top)
        self._note_source(at, top, scanned)
        given = await self._unshadowed(at, top)
        plan = await in_thread(
            plan_part,
            target,
            part,
            there,
            given,
            self._nodes,
            removal=await self._removal(at, given, there),
            options=self._options,
            planned=self._planned,
            stats=self.stats,
        )
        if target is None or self._options.dry_run:
            return
        if plan.is_done:
            await in_thread(partial(target.place.staging.close, keep=False))
        else:
            update = Update(
                target.place,
                plan,
                part=part,
                rename=target.rename,
                caches=self._options.used_caches,
            )
            with making_room(update):
                await self._pull(update, token, scanned.tree, told=told)
            self._note_update(at, update)
            self.stats.note_changing(update.passed_over, prefix=part.prefix)

    def _note_source(self, at: int, top: Manifest, scanned: wire.Scanned) -> None:
        part = self.parts[at]
        self.stats.note_source(top, scanned.skipped)
        lacking = self._options.lacking(part, top, scanned.unreadable, scanned.mounts or ())
        self.stats.note_unreadable(
            {**scanned.unreadable, **lacking}, prefix=part.prefix, unnamed=scanned.unnamed
        )

    async def _scan(self, at: int, fresh: bytes | None = None) -> wire.Scanned:
        """Have the server scan a part, unless it has, and offer what is new in it by ``fresh``."""
        if at not in self._tops:
            is_free = self._options.flow.is_free
            request = wire.Scan(
                self._found[at].token, this_writer(), edits=is_free, fresh=fresh
            )
            self._tops[at], _ = await ask(self._peer.channel, request, wire.Scanned)
        return self._tops[at]

    async def _top(self, at: int) -> Manifest:
        """Return the whole tree of a part."""
        tree = (await self._scan(at)).tree
        await fetch_nodes(self._peer.channel, self._found[at].token, tree, self._nodes)
        return Manifest(tree, self._nodes)

    async def _unshadowed(self, at: int, top: Manifest) -> Manifest:
        tops = {at: top} | await self._shadowing(at)
        return await in_thread(unshadowed, self.parts, at, tops, self._nodes)

    async def _shadowing(self, at: int) -> dict[int, Manifest]:
        return {number: await self._top(number) for number in shadowing(self.parts, at)}

    async def _removal(self, at: int, given: Manifest, there: Found) -> Removal | None:
        if not self._options.delete or not self._is_all_found or not await self._is_all_read():
            return None
        tops = await self._shadowing(at)
        trees = {at: given} | tops
        found = {number: await self._scan(number) for number in trees}
        if any(one.unnamed_mounts for one in found.values()):
            raise too_many_mounts()
        met = {number: one.mounts or () for number, one in found.items()}
        rules = sparing_of(
            self._options.kept, self.parts, at, trees, met=met, there=there.mounts
        )
        return removal_of(self.parts, at, given, tops, rules, self._nodes)

    async def _is_all_read(self) -> bool:
        """Say whether the server could read all parts: else what is not there may be yet."""
        found = [await self._scan(number) for number in range(len(self.parts))]
        return not any(one.unreadable or one.unnamed for one in found)

    async def _pull(
        self,
        update: Update | Arrival | EarlyFile,
        token: bytes,
        tree: Digest,
        *,
        told: Told | None = None,
        feed: "Feed | None" = None,
    ) -> PullStats:
        peer, stats, show, moving = self._peer, self.stats, self._progress, self._moving
        take_note = moving.pull()

        def note(progress: Progress) -> None:
            take_note(progress)
            if show is not None:
                show(moving.progress)

        async def tell(progress: Progress) -> None:
            if show is not None:
                show(progress)

        if not isinstance(update, EarlyFile):
            update.on_copied = moving.copied
        async with moving.told(None if show is None else tell):
            pulled = await peer.plane.pull(
                update,
                [Replica(peer.address, token)],
                tree=tree,
                progress=note,
                flow=self._options.flow,
                told=told,
                feed=feed,
            )
        stats.files += pulled.files
        stats.content_bytes += pulled.content_bytes
        stats.copied_bytes += pulled.copied_bytes
        if not isinstance(update, EarlyFile) and update.done is not None:
            stats.created += update.done.created
            stats.deleted += update.done.deleted
        return pulled


async def _stop(earlies: Earlies, *tasks: "asyncio.Task[Any]") -> None:
    """Cancel all of them; nobody writes to the place any more then."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await earlies.stop()
