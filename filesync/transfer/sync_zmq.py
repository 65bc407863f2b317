"""Syncs: one tree to one place, on this machine or from or to a ``filesync serve``."""

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from filesync.digest import name_of
from filesync.disk.update import LocalTree, TreeUpdate, UpdateStats
from filesync.errors import PathMissing, SourceChanged, UnexpectedMessage, UsageError
from filesync.manifest import Manifest, MemoryNodes, empty_manifest
from filesync.transfer import serve_wire as wire
from filesync.transfer.calls_zmq import call
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.nodes_zmq import answer_nodes, fetch_nodes
from filesync.transfer.offer import Replica
from filesync.transfer.places_disk import LocalPlaces, Place, find, find_target
from filesync.transfer.plan_disk import Plan, make_plan, scan_place
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.serve_zmq import only_name
from filesync.transfer.stats import Progress

_REMOTE: Final = re.compile(rb"(tcp://[^/]+)(?:/(.*))?", re.DOTALL)
OnProgress = Callable[[Progress], None]


class Remote(NamedTuple):
    """A path below what a ``filesync serve`` serves."""

    address: str
    path: bytes


@dataclass(frozen=True, slots=True)
class Options:
    """How to sync.

    Attributes:
        delete: remove what the source does not have.
        dry_run: change nothing, and say what would be changed.
        excludes: patterns of what to leave out, and alone.
        caches: where stat caches are kept.
    """

    delete: bool = False
    dry_run: bool = False
    excludes: tuple[str, ...] = ()
    caches: Path | None = None


@dataclass(slots=True)
class SyncStats:
    """What a sync took.

    Attributes:
        files: contents that came from the source.
        content_bytes: their bytes, without those that an old file had.
        copied_bytes: bytes that an old file had.
        wire_in: bytes received; wire_out: sent.
        seconds: altogether.
        tree: the source's tree, by its text form.
        changes: of a dry run, a line for each name.
    """

    files: int = 0
    content_bytes: int = 0
    copied_bytes: int = 0
    wire_in: int = 0
    wire_out: int = 0
    seconds: float = 0.0
    tree: str = ""
    changes: list[str] = field(default_factory=list)


def parse(text: str) -> Remote | bytes:
    """Return what a source or destination names: ``tcp://host:port/path``, or a local path."""
    raw = os.fsencode(text)
    if match := _REMOTE.fullmatch(raw):
        return Remote(os.fsdecode(match[1]), match[2] or b"")
    if b"://" in raw:
        raise UsageError(f"{text}: write it as tcp://host:port/path, or as a local path")
    if not raw:
        raise UsageError("an empty path names nothing")
    return raw


def sync_local(source: bytes, dest: bytes, options: Options) -> SyncStats:
    """Make the directory ``dest`` hold what ``source`` has, both on this machine. Blocks.

    A source that ends in '/' is what is in the directory; without it, the directory itself,
    which comes to stand in ``dest`` under its name.

    Raises:
        PathMissing: the source, or the directory above the destination, is not there.
        SourceChanged: the source changed meanwhile; run again.
        StoreError: this disk.
    """
    started = monotonic()
    with ExitStack() as stack:
        nodes = MemoryNodes()
        place, top = _scan_source(source, nodes, options, stack)
        file = None if place.only is None else only_name(top)
        target = _find_target(dest, options, stack, file=file, inside=_inside(source))
        plan = _plan(target, _scan_target(target, nodes, options), top, nodes, options)
        stats = SyncStats(tree=name_of(top.tree))
        if target is None or options.dry_run:
            stats.changes = list(plan.changes())
        elif not plan.is_done:
            update = _update(target, plan, LocalTree(top, place.root))
            done = _copy(update)
            stats.files = done.files_copied
            stats.content_bytes = done.bytes_copied
        stats.seconds = monotonic() - started
        return stats


async def sync_remote(
    source: Remote | bytes,
    dest: Remote | bytes,
    options: Options,
    *,
    progress: OnProgress | None = None,
) -> SyncStats:
    """Make ``dest`` hold what ``source`` has, one of them behind a ``filesync serve``.

    Trailing slashes mean what they do in ``sync_local``. ``progress`` is called only while
    bytes come to this side.

    Raises:
        UsageError: both are remote, or neither.
        PathMissing: the local source, or the directory above a local destination, is not there.
        Unavailable: the server is not there, or refuses.
        StoreError: this disk.
    """
    started = monotonic()
    match source, dest:
        case Remote(), bytes():
            async with DataPlane() as plane:
                stats = await _take(plane, source, dest, options, progress)
        case bytes(), Remote():
            stats = await _give(source, dest, options)
        case _:
            raise UsageError("one of source and destination must be on this machine")
    stats.seconds = monotonic() - started
    return stats


# --- from a server ----------------------------------------------------------------------------


async def _take(
    plane: DataPlane,
    source: Remote,
    dest: bytes,
    options: Options,
    progress: OnProgress | None,
) -> SyncStats:
    channel = await plane.connect(source.address)
    body, _ = await call(channel, wire.encode(wire.Look(source.path, options.excludes)))
    found = wire.decode_answer(body)
    if not isinstance(found, wire.Found):
        raise UnexpectedMessage("the answer to a look is none")
    nodes = MemoryNodes()
    with ExitStack() as stack:
        file: bytes | None = None
        if found.is_file:
            await fetch_nodes(channel, found.token, found.tree, nodes)
            file = only_name(Manifest(found.tree, nodes))
        inside = _inside(source.path)
        target = _find_target(dest, options, stack, file=file, inside=inside)
        basis = await asyncio.to_thread(_scan_target, target, nodes, options)
        # After the scan: nodes that this side has do not travel.
        await fetch_nodes(channel, found.token, found.tree, nodes)
        top = Manifest(found.tree, nodes)
        plan = await asyncio.to_thread(_plan, target, basis, top, nodes, options)
        stats = SyncStats(tree=name_of(top.tree))
        if target is None or options.dry_run:
            stats.changes = list(plan.changes())
        elif not plan.is_done:
            replica = Replica(source.address, found.token)
            pulled = await plane.pull(
                _update(target, plan), [replica], tree=found.tree, progress=progress
            )
            stats.files = pulled.files
            stats.content_bytes = pulled.content_bytes
            stats.copied_bytes = pulled.copied_bytes
    stats.wire_in, stats.wire_out = channel.wire_in, channel.wire_out
    return stats


# --- to a server ------------------------------------------------------------------------------


async def _give(source: bytes, dest: Remote, options: Options) -> SyncStats:
    with ExitStack() as stack:
        nodes = MemoryNodes()
        place, top = await asyncio.to_thread(_scan_source, source, nodes, options, stack)

        async def answer(_: Channel, body: bytes) -> tuple[bytes, bytes]:
            request = wire.decode_request(body)
            if not isinstance(request, wire.AskNodes):
                raise UnexpectedMessage("a client that gives answers requests for nodes only")
            payload = await asyncio.to_thread(answer_nodes, top, request.digests)
            return wire.encode(wire.Nodes()), payload

        async with DataPlane(answer=answer) as plane:
            channel = await plane.connect(dest.address)
            offer = plane.offer(top, place.root)
            await plane.announce(channel, offer)
            request = wire.Give(
                dest.path,
                offer.token,
                top.tree,
                is_file=place.only is not None,
                inside=b"" if place.only is not None else _inside(source),
                delete=options.delete,
                dry_run=options.dry_run,
                excludes=options.excludes,
            )
            body, _ = await call(channel, wire.encode(request))
            given = wire.decode_answer(body)
            if not isinstance(given, wire.Given):
                raise UnexpectedMessage("the answer to a gift is none")
            return SyncStats(
                given.files,
                given.content_bytes,
                given.copied_bytes,
                channel.wire_in,
                channel.wire_out,
                tree=name_of(top.tree),
                changes=list(given.changes),
            )


# --- steps ------------------------------------------------------------------------------------


def _inside(source: bytes) -> bytes:
    """Return the name under which a directory comes to stand in the destination."""
    name = source.rpartition(b"/")[2]
    return b"" if name in (b".", b"..") else name


def _scan_source(
    source: bytes, nodes: MemoryNodes, options: Options, stack: ExitStack
) -> tuple[Place, Manifest]:
    place = find(LocalPlaces(), source)
    stack.callback(place.close)
    top = scan_place(place, nodes, excludes=options.excludes, caches=options.caches)
    return place, top


def _find_target(
    dest: bytes, options: Options, stack: ExitStack, *, file: bytes | None, inside: bytes
) -> Place | None:
    """Return where it goes, or None for a dry run to what is not there."""
    try:
        place = find_target(
            LocalPlaces(),
            dest,
            file=file,
            inside=b"" if file is not None else inside,
            make=not options.dry_run,
        )
    except PathMissing:
        if not options.dry_run:
            raise
        return None
    stack.callback(place.close)
    return place


def _scan_target(target: Place | None, nodes: MemoryNodes, options: Options) -> Manifest:
    if target is None:
        return empty_manifest(nodes)
    return scan_place(target, nodes, caches=options.caches)


def _plan(
    target: Place | None, basis: Manifest, top: Manifest, nodes: MemoryNodes, options: Options
) -> Plan:
    only = None if target is None else target.only
    return make_plan(
        basis, top, nodes, only=only, delete=options.delete, excludes=options.excludes
    )


def _update(target: Place, plan: Plan, *local: LocalTree) -> TreeUpdate:
    return TreeUpdate(
        target.root,
        basis=plan.basis,
        target=plan.target,
        local=local,
        # Others may be using what is there: no name ever holds half a file.
        atomic=True,
        preserve_owner=os.geteuid() == 0,
    )


def _copy(update: TreeUpdate) -> UpdateStats:
    try:
        update.prepare()
        if next(update.wanted(), None) is not None:
            raise SourceChanged("the source changed while it was copied; run again")
        return update.finish()
    except BaseException:
        update.abort()
        raise
