"""``filesync serve``: lets peers take and give trees below one directory."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final, assert_never

from filesync.disk.handles import shown
from filesync.disk.scanning.mounts import Mounts
from filesync.errors import LocalError, StoreError, UnexpectedMessage, UsageError
from filesync.manifest import is_name
from filesync.manifest.owner import Writer
from filesync.process.descriptors import PATIENCE_S, are_used_up, with_room
from filesync.sync.applying import named_at_target
from filesync.sync.filter import Filter
from filesync.sync.options import OwnerNames
from filesync.sync.owner import look_up, this_writer
from filesync.sync.part import Part, as_told
from filesync.sync.places import Claimed, Places
from filesync.sync.remote import fields, wire
from filesync.sync.remote.ahead import cut_ahead
from filesync.sync.remote.cuts import Cuts
from filesync.sync.remote.edits import with_told
from filesync.sync.remote.gifts import Gifts
from filesync.sync.remote.held import Held, Stage
from filesync.sync.remote.holders import MAX_HELD, Holders
from filesync.sync.remote.lists import unpack_list
from filesync.sync.remote.named import scanned_of
from filesync.sync.remote.nodes import answer
from filesync.sync.remote.telling import Telling
from filesync.sync.remote.unseen import answer_unseen
from filesync.sync.remote.waiting import Waiting
from filesync.sync.source import find_sources
from filesync.sync.target import NotMade, Target, find_target
from filesync.sync.ticks import FINE_NS
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.send.copies import Copies
from filesync.transfer.send.fresh import Fresh
from filesync.transfer.send.offer import TOKEN_BYTES
from filesync.transfer.threads import acquired, in_thread

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
        self._holders = Holders()
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
                result = await self._look(channel, request)
            case wire.Prepare():
                result = await self._prepare(channel, request)
            case wire.Scan():
                result = await self._answer_scan(channel, request)
            case wire.Changing():
                await self._cut_ahead(channel, request)
            case (
                wire.AskDirectories()
                | wire.AskNodes()
                | wire.AskNodeDeltas()
                | wire.AskUnseen()
            ):
                held = self._holders.find(channel, request.token)
                result, payload = await _answer_held(held, request)
            case wire.Drop(token):
                self._holders.drop(channel, token)
            case wire.Give() | wire.GiveGrowing() | wire.Add():
                gifts = Gifts(self.plane, self._holders, self._caches)
                result = await gifts.take(channel, request)
            case wire.Progressed():
                raise UnexpectedMessage("a server gives nothing away but on demand")
            case _:
                assert_never(request)
        return wire.encode(result), payload

    async def _answer_scan(self, channel: Channel, request: wire.Scan) -> wire.Scanned:
        if request.grows:
            return await self._grow(channel, request.token)
        held = self._holders.find(channel, request.token)
        scanned = await self._scan(channel, held, request.token, request.writer, request.fresh)
        if request.edits:
            scanned = await in_thread(with_told, scanned, held.edits)
        return scanned

    # --- places -------------------------------------------------------------------------------

    async def _look(self, channel: Channel, request: wire.Look) -> wire.Found:
        find = partial(with_room, self._find_sources, request)
        helds, bare, nowhere = await acquired(find, lambda made: _close(made[0]))
        tokens = self._holders.hold(channel, *helds)
        found = [
            fields.Part(
                token,
                held.part.inside,
                tuple(sorted(held.part.names or ())),
                is_bare,
                trees=held.part.trees,
                identity=held.identity(),
                united=held.is_united,
            )
            for token, held, is_bare in zip(tokens, helds, bare, strict=True)
        ]
        is_of_list = request.listed is not None
        return wire.Found(tuple(found), nowhere, request.one_file_system, is_of_list)

    def _find_sources(
        self, request: wire.Look
    ) -> tuple[list[Held], list[bool], dict[int, int]]:
        """Return what is to be taken, which of it is bare, and which paths lead nowhere. Blocks."""
        caches = None if request.checksum else self._caches
        # Before anything is open: it may fail.
        paths: Sequence[bytes] = request.paths
        listed = None if request.listed is None else unpack_list(request.listed)
        if listed is not None:
            if len(paths) > 1:
                raise UsageError("a list is of what is in one directory")
            paths, _ = listed.of(paths[0], b"")
        before = None if listed is None else listed.decides(request.rules)
        ways = None if listed is None else listed.ways(request.rules)
        filter = Filter(request.rules, before=before, ways=ways)
        sources = find_sources(
            self._places, paths, filter, most=MAX_HELD, unites=request.unites
        )
        if not request.skip_missing:
            sources.check()
        helds: list[Held] = []
        for source in sources.found:
            below = Filter(request.rules, root=source.part.prefix, before=before, ways=ways)
            held = Held(
                source.place,
                source.part,
                below,
                caches,
                mounts=Mounts(request.one_file_system),
                is_offered=True,
            )
            if request.copies and self._caches is not None:
                held.recent.copies = Copies(self._caches)
            helds.append(held)
        with ExitStack() as undo:
            undo.callback(_close, helds)
            bare = [held.is_bare() for held in helds]
            undo.pop_all()
        nowhere = {
            at: sources.missing[path]
            for at, path in enumerate(paths)
            if path in sources.missing
        }
        return helds, bare, nowhere

    async def _prepare(self, channel: Channel, request: wire.Prepare) -> wire.Prepared:
        if self._read_only and not request.dry_run:
            raise UsageError("this server is read-only; nothing can be given to it")
        part = Part(
            _checked(request.inside),
            frozenset(map(_checked, request.names)) or None,
            trees=request.trees,
            touches=request.touches,
        )
        # Before anything is open, or is claimed: it may fail.
        filter = await in_thread(_unseen, request, part)
        new_owner = None if request.owner is None else await in_thread(_known, request.owner)
        try:
            target, is_empty = await self._find_target(channel, request, part)
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
            mounts=Mounts.NOTED if request.mounts else Mounts.ENTERED,
            rename=rename,
            is_claimed=not request.dry_run,
            named=named_at_target(delete=request.delete),
        )
        held.takes_additions = not is_empty and _takes_additions(target, request)
        is_new = target is None or target.is_new
        (token,) = self._holders.hold(channel, held)
        scanned: wire.Scanned | None = None
        if request.scan and not is_empty:
            try:
                scanned = await self._scan(channel, held, token, None)
            except BaseException:
                self._holders.drop(channel, token)  # nobody is told of it
                raise
        writer = this_writer()
        return wire.Prepared(
            token,
            is_new,
            rename,
            is_empty,
            writer,
            scanned,
            new_owner=new_owner,
            group=writer and os.getegid(),
            takes_additions=held.takes_additions,
            tick_ns=FINE_NS if place is None else place.tick_ns,
        )

    async def _find_target(
        self, channel: Channel, request: wire.Prepare, part: Part
    ) -> tuple[Target | None, bool]:
        """As ``find_target``, but wait for what peers that are gone still hold, and for room.

        Say, too, whether it may be given to while it is scanned.
        """
        began = monotonic()
        waiting = Waiting(self._holders, channel)
        while True:
            try:
                target = find_target(
                    self._places,
                    request.path,
                    part=part,
                    is_directory=request.is_directory,
                    is_bare=request.is_bare,
                    dry_run=request.dry_run,
                )
                return target, _is_free(target, request)
            except Claimed as exc:
                if not waiting.goes_on(exc.directory):
                    raise
            except StoreError as exc:
                if not are_used_up(exc) or monotonic() - began > PATIENCE_S:
                    raise
            await asyncio.sleep(CLAIM_AGAIN_S)

    async def _scan(
        self,
        channel: Channel,
        held: Held,
        token: bytes,
        writer: fields.Writer | None,
        fresh_token: bytes | None = None,
    ) -> wire.Scanned:
        cuts = Cuts(depth=held.place.depth if held.place else 0)
        scan = partial(held.scan, writer and Writer(*writer), self.plane.recipes, cuts.note)
        with held.used(Stage.NEW, during=Stage.OPEN if fresh_token else Stage.BUSY):
            fresh = self._offer_fresh(held, fresh_token)
            scanning = asyncio.ensure_future(in_thread(with_room, partial(scan, fresh=fresh)))
            if fresh is not None:
                held.telling = Telling(fresh, scanning)
            async with cuts.told(channel, token):
                found = await scanning
            told = await in_thread(as_told, held.part, found.manifest, held.nodes)
            held.manifest = told if held.is_offered else found.manifest
            held.shut = found.unreadable
            if held.is_offered and held.place is not None and held.stage is not Stage.CLOSED:
                held.offer = self.plane.offer(
                    held.manifest,
                    held.place.root,
                    token,
                    recent=held.recent,
                    files=found.files,
                    is_live=True,
                )
        return scanned_of(
            told.tree,
            found.skipped,
            found.unreadable,
            None if held.mounts is Mounts.ENTERED else found.mounts,
            of_others=held.of_others,
        )

    def _offer_fresh(self, held: Held, token: bytes | None) -> Fresh | None:
        """Offer by ``token`` what a scan of what is to be taken will find new, if that is asked for."""
        if token is None or held.place is None or held.is_united or not held.is_offered:
            return None
        if held.fresh_offer is not None:  # of a scan that has failed
            held.fresh_offer.close()
        fresh = Fresh(held.nodes, held.recent)
        held.fresh_offer = self.plane.offer_growing(fresh, held.place.root, token)
        return fresh

    async def _grow(self, channel: Channel, token: bytes) -> wire.Scanned:
        """Scan what is held, and offer what the scan has found so far, to be taken meanwhile."""
        held = self._holders.find(channel, token)
        place = held.place
        if place is None or not held.is_offered:
            raise UnexpectedMessage("what is given to is not taken from")
        if held.is_united:
            raise UnexpectedMessage("what is in several directories does not come early")
        if self._holders.is_growing(channel):
            raise UnexpectedMessage("what is taken while it is scanned is taken one by one")
        with held.used(Stage.NEW):
            try:
                growing = held.grow(place, among=self._holders.growing_count + 1)
                held.offer = self.plane.offer_growing(growing.tree, place.root, token)
                found = await growing.task
            except BaseException:
                self._holders.drop(channel, token)  # some of it may have been taken
                raise
        held.manifest = found.manifest
        return scanned_of(
            held.manifest.tree,
            found.skipped,
            found.unreadable,
            None if held.mounts is Mounts.ENTERED else found.mounts,
            of_others=False,
        )

    async def _cut_ahead(self, channel: Channel, request: wire.Changing) -> None:
        held = self._holders.find(channel, request.token)
        there = held.scanned()
        if held.is_claimed and held.place is not None:
            path = held.rename or request.path
            await cut_ahead(self.plane, held.place, there, path, request.content)

    @property
    def plane(self) -> DataPlane:
        """The data plane that this server uses."""
        if self._plane is None:
            raise LocalError("a tree server answers before it has a data plane")
        return self._plane


async def _answer_held(
    held: Held,
    request: wire.AskDirectories | wire.AskNodes | wire.AskNodeDeltas | wire.AskUnseen,
) -> tuple[wire.Answer, bytes]:
    """Answer a question about what was scanned, or is."""
    match request:
        case wire.AskDirectories(_, fresh):
            if fresh and held.telling is not None:
                return await held.telling.directories(), b""
            if fresh or held.growing is None:
                raise UnexpectedMessage("directories were asked for of what does not grow")
            return await held.growing.directories()
        case wire.AskNodes() | wire.AskNodeDeltas():
            return await in_thread(answer, held.scanned(), request)
        case wire.AskUnseen():
            with held.used(Stage.SCANNED):
                return await in_thread(answer_unseen, held.place, held.filter, request), b""


def _close(helds: Sequence[Held]) -> None:
    for held in helds:
        held.close()


def _is_free(target: Target | None, request: wire.Prepare) -> bool:
    """Say whether ``target`` may be given to while it is scanned; close it where that cannot be told.

    Raises:
        StoreError: it cannot be read.
    """
    if target is None or request.dry_run:
        return False
    place, given = target.place, request.given
    try:
        # One that is scanned while it fills would grow for as long as it is.
        return place.is_free and not (given is not None and place.is_in(given))
    except OSError as exc:
        place.close()
        raise StoreError(f"{shown(request.path)} cannot be read: {exc.strerror}") from exc


def _takes_additions(target: Target | None, request: wire.Prepare) -> bool:
    """Say whether ``target`` may be added to while what is given is scanned.

    One that is in that would be found by that scan, and what was added to it.
    """
    if target is None or request.dry_run:
        return False
    return not (request.given and target.place.is_in(request.given))


def _unseen(request: wire.Prepare, part: Part) -> Filter:
    """Return what the scan of what was prepared leaves out. Blocks."""
    listed = None if request.listed is None else unpack_list(request.listed)
    before = None if listed is None else listed.decides(request.rules)
    return Filter(request.rules, root=part.prefix, before=before)


def _known(names: fields.OwnerNames) -> fields.NewOwner:
    return look_up(OwnerNames(names.user, names.group))


def _checked(name: bytes) -> bytes:
    if name and not is_name(name):
        raise UsageError(f"{shown(name)} cannot be a name in a directory")
    return name
