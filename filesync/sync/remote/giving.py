"""Syncs from this machine to a ``filesync serve``.

Where both sides turn out to have the same, most of what a sync may need is not: it is imported
when it is needed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from filesync.digest import Digest
from filesync.disk.scanning.mounts import Mounts
from filesync.errors import FilesyncError
from filesync.manifest.owner import Writer
from filesync.manifest.tree import Manifest, MemoryNodes
from filesync.process.entropy import random_bytes
from filesync.sync.changing import changes_of
from filesync.sync.filter import Filter
from filesync.sync.options import OnProgress, Options
from filesync.sync.part import Removal, as_told, in_one_place
from filesync.sync.planned import Planned
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import Peer, ask, tell, too_old, with_more
from filesync.sync.remote.offered import Offered
from filesync.sync.remote.sourcetrees import SourceTrees
from filesync.sync.remote.telling import ADD_AFTER_S
from filesync.sync.saying.stats import SyncStats
from filesync.sync.shadow import shadowing, stands_alone
from filesync.sync.source import Sources
from filesync.transfer.send.offer import TOKEN_BYTES, Offer
from filesync.transfer.stats import Progress
from filesync.transfer.threads import in_thread

if TYPE_CHECKING:
    from filesync.sync.scanning import Found

QUIET_S: Final = 0.02
"""A server that has asked for no nodes for so long has what it needs of them."""


class Giving:
    """Gives ``sources`` to a server: begin, then connect, ``give``, ``stop``.

    Attributes:
        offered: answers what the server asks.
        stats: what it took so far.
    """

    def __init__(
        self,
        sources: Sources,
        options: Options,
        progress: OnProgress | None,
    ) -> None:
        self.stats = SyncStats()
        self.stats.note_unreadable(sources.missing)
        self._sources = sources.found
        self._parts = in_one_place(source.part for source in sources.found)
        self.stats.note_unreadable(options.unmet(self._parts, sources.missing))
        self._is_directory = sources.are_several
        self._options = options
        self._listed: fields.Listed | None = None
        if options.listed is not None and not options.delete:
            from filesync.sync.remote.lists import pack_list

            self._listed = pack_list(options.listed)
        # Of a longer list the server looks at all: the rules alone may leave out what leads to a listed name.
        self._is_all_seen = options.delete or (options.listed is not None and not self._listed)
        self._progress = progress
        self._nodes = MemoryNodes()
        self._trees = SourceTrees(sources, options, self._nodes)
        self.offered = Offered(
            may_come_early=options.flow.is_free,  # two sessions at once would take twice as much
            on_moved=self._show if progress is not None else None,
        )
        self._planned = Planned(self._nodes)

    def begin(self) -> None:
        """Start to scan what is given first, while there is no connection yet."""
        if self._sources:
            self._trees.scan(len(self._sources) - 1)

    async def stop(self) -> None:
        """Let no scan go on; whoever closes the sources must wait for this."""
        await self._trees.stop()

    def _show(self, files: int, content_bytes: int) -> None:
        """Have people see what the server has got of what it is being given."""
        if self._progress is not None:
            before = self.stats
            self._progress(
                Progress(before.files + files, before.content_bytes + content_bytes, 0)
            )

    async def give(self, peer: Peer, path: bytes) -> None:
        """Make ``path`` on the server hold the sources.

        Raises:
            SourceChanged, ContentCorrupt: see ``changes_of``.
            Unavailable: the server is gone, or refuses.
            StoreError: this disk.
        """
        if not self._sources:  # nothing is asked of it, but it has to be there
            await peer.plane.connect(peer.address)
        for at in reversed(range(len(self._sources))):
            with changes_of(self._parts[at]):
                await self._give(peer, path, at)

    async def _give(self, peer: Peer, path: bytes, at: int) -> None:
        part, options, names = self._parts[at], self._options, self._options.owner
        self._trees.scan(at)
        request = wire.Prepare(
            path,
            tuple(sorted(part.names or ())),
            part.inside,
            is_directory=self._is_directory,
            dry_run=options.dry_run,
            rules=() if self._is_all_seen else options.rules,
            checksum=options.reads_all,
            is_bare=self._sources[at].place.is_bare(self._trees.filter(at)),
            delete=options.delete,
            scan=True,
            goes_on=True,
            given=None if part.is_of_files else self._sources[at].place.identity,
            owner=None if names is None else fields.OwnerNames(names.user, names.group),
            touches=part.touches,
            trees=part.trees,
            mounts=options.mounts_there is Mounts.NOTED,
            listed=self._listed,
        )
        if part.inside and await self._is_left_alone(peer, request):
            await self._give_nothing(at)
            return
        prepared, _ = await ask(peer.channel, request, wire.Prepared)
        if prepared.refused is not None:
            self.stats.note_refused({part.inside: prepared.refused})
            await self._give_nothing(at)
            return
        if prepared.writer is not None:
            self._trees.writer = Writer(*prepared.writer)
        try:
            await self._fill(peer, at, prepared)
        except FilesyncError:
            # Nobody else may give to it while this side holds it: the next attempt neither.
            with suppress(FilesyncError):
                await ask(peer.channel, wire.Drop(prepared.token), wire.Done)
            raise

    async def _is_left_alone(self, peer: Peer, request: wire.Prepare) -> bool:
        choice = self._options.choice
        if not (choice.only_existing or choice.only_new):
            return False
        from filesync.sync.remote.standing import is_left_alone

        return await is_left_alone(peer.channel, request, choice, self._nodes)

    async def _give_nothing(self, at: int) -> None:
        scan = self._trees.scan(at)
        scan.tree.close()
        self._note_source(at, await scan.task)

    async def _fill(self, peer: Peer, at: int, prepared: wire.Prepared) -> None:
        options, scan = self._options, self._trees.scan(at)
        is_whole = not self._sources[at].place.united
        is_alone = is_whole and stands_alone(self._parts, at, delete=options.delete)
        if options.owner is not None and prepared.new_owner is None:
            raise too_old("--chown")
        if prepared.is_empty and is_alone and options.takes_all:
            await self._send_growing(peer, at, prepared.token)
            return
        scan.tree.forget()
        there = prepared.scanned
        if there is None:
            there, _ = await ask(peer.channel, wire.Scan(prepared.token), wire.Scanned)
        has_added = False
        async with scan.cuts.told(peer.channel, prepared.token):
            if prepared.takes_additions and is_alone and self._may_add:
                has_added = await self._add(peer, at, prepared.token)
            self._note_source(at, await scan.task)
        top = await self._trees.coming(at, prepared.new_owner)
        removal = await self._trees.removal(at, top, there)
        if there.unreadable:
            top, removal = await self._around(at, there, top, removal)
        likely = await in_thread(self._trees.likely_there, at, top, prepared.group)
        if options.choice and not await self._is_told(at, there.tree, top):
            top, removal = await self._chosen(peer, at, prepared, there.tree, top, removal)
        is_done = (
            not has_added  # a large file may have come early that is gone by now: that goes with what is given
            and await self._is_told(at, there.tree, top, likely)
            and prepared.rename is None
            and not prepared.is_new
            and not self._planned.is_made_before(self._parts[at])
        )
        if not is_done and (options.on_changes is not None or options.dry_run):
            await self._note_plan(peer, at, prepared, there.tree, top, removal)
        if is_done or options.dry_run:
            await tell(peer.channel, wire.Drop(prepared.token))
        else:
            await self._send(peer, at, prepared.token, there.tree, top, removal)

    @property
    def _may_add(self) -> bool:
        options = self._options
        return options.takes_all and not options.choice and options.used_caches is not None

    async def _add(self, peer: Peer, at: int, token: bytes) -> bool:
        """Give what is new while the scan goes on, where that takes long: until then nothing else moves.

        Say whether there was anything.
        """
        scan = self._trees.scan(at)
        await asyncio.wait({scan.task}, timeout=ADD_AFTER_S)
        while not (scan.tree.fresh or scan.task.done()):
            await asyncio.wait({scan.task}, timeout=ADD_AFTER_S)
        if scan.task.done():
            return False
        async with self._offered(peer, at) as offer:
            self.offered.trees[offer.token] = Manifest(offer.tree, self._nodes)
            try:
                request = wire.Add(
                    token,
                    offer.token,
                    progress=self._progress is not None,
                    delete=self._options.delete,
                )
                given, _ = await ask(peer.channel, request, wire.Given)
            finally:
                del self.offered.trees[offer.token]
        self._note(at, given)
        return True

    @asynccontextmanager
    async def _offered(self, peer: Peer, at: int) -> AsyncIterator[Offer]:
        """Offer what the scan of a source has done so far, for the block."""
        scan, served = self._trees.scan(at), random_bytes(TOKEN_BYTES)
        root, flow = self._sources[at].place.root, self._options.flow.to(peer.address)
        with peer.plane.offer_growing(scan.tree, root, served, flow=flow) as offer:
            self.offered.scans[served] = scan
            try:
                await peer.plane.announce(peer.channel, offer)
                yield offer
            finally:
                del self.offered.scans[served]

    async def _is_told(self, at: int, tree: Digest, *tops: Manifest) -> bool:
        """Say whether a server that tells of ``tree`` has one of ``tops``, which come of a source."""
        part = self._parts[at]
        if part.names is None:
            return tree in [top.tree for top in tops]
        told = [await in_thread(as_told, part, top, self._nodes) for top in dict.fromkeys(tops)]
        return tree in [one.tree for one in told]

    async def _around(
        self, at: int, there: wire.Scanned, top: Manifest, removal: Removal | None
    ) -> tuple[Manifest, Removal | None]:
        """Return what can be given and removed there, and note what cannot."""
        from filesync.sync.applying import around_shut

        top, removal, stuck = await in_thread(
            around_shut, there.unreadable, top, removal, self._nodes
        )
        prefix = self._parts[at].prefix
        unnamed = there.unnamed if removal is not None else 0
        self.stats.note_stuck(stuck, prefix=prefix, unnamed=unnamed)
        return top, removal

    async def _chosen(
        self,
        peer: Peer,
        at: int,
        prepared: wire.Prepared,
        tree: Digest,
        top: Manifest,
        removal: Removal | None,
    ) -> tuple[Manifest, Removal | None]:
        """Return what comes of ``top`` by the user's choice, and what goes, where the server has ``tree``."""
        from filesync.sync.choice import choose
        from filesync.sync.remote.nodes import fetch_nodes

        await fetch_nodes(peer.channel, prepared.token, tree, self._nodes, basis=top.tree)
        return await in_thread(
            choose,
            self._options.choice,
            self._planned.basis(self._parts[at], Manifest(tree, self._nodes)),
            top,
            removal,
            self._nodes,
            rename=prepared.rename,
        )

    async def _note_plan(
        self,
        peer: Peer,
        at: int,
        prepared: wire.Prepared,
        tree: Digest,
        top: Manifest,
        removal: Removal | None,
    ) -> None:
        """Work out what the server will do, from the nodes of ``tree``, which it has; tell of that."""
        from filesync.sync.applying import as_it_stays
        from filesync.sync.plan import make_plan
        from filesync.sync.remote.nodes import fetch_nodes
        from filesync.sync.remote.unseen import UnseenThere
        from filesync.sync.saying.noting import note_plan

        await fetch_nodes(peer.channel, prepared.token, tree, self._nodes, basis=top.tree)
        part, options = self._parts[at], self._options
        names = part.names
        if prepared.rename is not None:
            names = frozenset((prepared.rename,))
        basis = self._planned.basis(part, Manifest(tree, self._nodes))
        stays = partial(
            as_it_stays,
            gives_away=self._trees.writer is None,
            tick_ns=prepared.tick_ns,
            rename=prepared.rename,
        )
        basis = await in_thread(stays, basis, top, self._nodes)
        filter = Filter(()) if self._is_all_seen else options.filter(part.prefix)
        unseen = UnseenThere(peer.channel, prepared.token, filter)
        make = partial(
            make_plan,
            basis,
            top,
            self._nodes,
            names=names,
            trees=part.trees,
            rename=prepared.rename,
            removal=removal,
            unseen=unseen,
        )
        plan, unwritable = await unseen.plan(make, self._nodes)
        if options.dry_run:  # otherwise the server says it, when it is done
            if not options.choice.only_new:
                self.stats.note_left_out(plan.left_out, prefix=part.prefix)
            self.stats.note_unwritable(unwritable, prefix=part.prefix)
        is_new = prepared.is_new and not self._planned.is_made_before(part)
        # Whoever reads the listing may take long; meanwhile the server must hear of this side.
        await in_thread(
            note_plan,
            self.stats,
            plan,
            options,
            prefix=part.prefix,
            is_sent=True,
            is_new=is_new,
            given_as=part.given_as(prepared.rename),
        )
        if options.dry_run:
            self._planned.note(part, plan)

    async def _send_growing(self, peer: Peer, at: int, token: bytes) -> None:
        """Give to an empty directory: all will be wanted, so nothing waits for the scan's end."""
        scan = self._trees.scan(at)
        async with self._offered(peer, at) as offer:
            request = wire.GiveGrowing(
                token, offer.token, progress=self._progress is not None, goes_on=True
            )
            asking = asyncio.create_task(ask(peer.channel, request, wire.Given))
            try:
                # A scan that fails says better why than the server, which is told of it.
                await asyncio.wait({asking, scan.task}, return_when=asyncio.FIRST_EXCEPTION)
                try:
                    found = await scan.task
                except FilesyncError:
                    await asyncio.wait({asking})  # the next attempt needs what it holds
                    raise
                given, _ = await asking
            finally:
                asking.cancel()
                await asyncio.wait({asking})
                scan.tree.close()
        self._note_source(at, found)
        self._note(at, given)

    async def _send(
        self,
        peer: Peer,
        at: int,
        token: bytes,
        tree: Digest,
        top: Manifest,
        removal: Removal | None,
    ) -> None:
        """Give ``top`` to a place that holds ``tree``."""
        options = self._options
        others = {random_bytes(TOKEN_BYTES): one for one in removal.others} if removal else {}
        self.offered.trees |= others
        scan = self._trees.scan(at)
        recent = scan.tree.recent_to(tree, comes_whole=not shadowing(self._parts, at))
        of_others = await in_thread(self._trees.seem_others, at, top)
        offer = peer.plane.offer(
            top,
            self._sources[at].place.root,
            flow=options.flow.to(peer.address),
            recipes=scan.tree.recipes,
            recent=recent,
            files=scan.task.result().files,
            is_live=True,
        )
        with offer:
            self.offered.trees[offer.token] = top
            await peer.plane.announce(peer.channel, offer)
            request = wire.Give(
                token,
                offer.token,
                top.tree,
                delete=removal is not None,
                rules=removal.rules if removal else (),
                others=tuple([fields.Other(other, one.tree) for other, one in others.items()]),
                spared=tuple(sorted(removal.spared)) if removal else (),
                progress=self._progress is not None,
                goes_on=True,
                of_others=of_others,
                passes_over=True,
            )
            request = await in_thread(self._with_beginning, request, at, tree, top)
            self.offered.is_asked.set()
            listing = asyncio.create_task(self._list(offer))
            try:
                given, _ = await ask(peer.channel, request, wire.Given)
            finally:
                listing.cancel()
                await asyncio.wait({listing})
                self.offered.trees.clear()
                scan.tree.close()
        self._note(at, given)

    def _with_beginning(
        self, request: wire.Give, at: int, tree: Digest, top: Manifest
    ) -> wire.Give:
        """Return ``request`` with what a server that has ``tree`` need not ask for, as far as it has room."""
        from filesync.sync.remote.edits import with_told
        from filesync.sync.remote.nodes import first_nodes

        if self._options.flow.is_free:
            edits = self._trees.scan(at).tree.edits(tree)
            request = with_told(request, edits)
            if edits.directories and request.edits is not None:
                return request
        return with_more(request, nodes=first_nodes(top))

    async def _list(self, offer: Offer) -> None:
        """List what is here while the server works out what it lacks.

        Not while it still asks for nodes: it waits for them, and two threads of this process
        take turns (of 40,000 files 400 were edited: the nodes came 20 ms later).
        """
        while self.offered.is_asked.is_set():
            self.offered.is_asked.clear()
            await asyncio.sleep(QUIET_S)
        await in_thread(offer.load)

    def _note_source(self, at: int, found: "Found") -> None:
        part = self._parts[at]
        self.stats.note_source(found.manifest, found.skipped)
        lacking = self._options.lacking(part, found.manifest, found.unreadable, found.mounts)
        self.stats.note_unreadable({**found.unreadable, **lacking}, prefix=part.prefix)

    def _note(self, at: int, given: wire.Given) -> None:
        stats, prefix = self.stats, self._parts[at].prefix
        if not self._options.choice.only_new:
            stats.note_left_out(given.left_out, prefix=prefix, unnamed=given.unnamed)
        stats.note_unwritable(given.unwritable, prefix=prefix, unnamed=given.unnamed_unwritable)
        stats.note_refused(given.refused, prefix=prefix, unnamed=given.unnamed_refused)
        stats.note_changing(given.changed, prefix=prefix, unnamed=given.unnamed_changed)
        stats.created += given.created
        stats.deleted += given.deleted
        stats.files += given.files
        stats.content_bytes += given.content_bytes
        stats.copied_bytes += given.copied_bytes
        stats.not_kept.update(given.not_kept)
