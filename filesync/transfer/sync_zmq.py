"""Syncs: one tree to one place, on this machine or from or to a ``filesync serve``."""

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from filesync.digest import Digest, name_of
from filesync.disk.update import LocalTree, TreeUpdate, UpdateStats
from filesync.errors import PathMissing, SourceChanged, UnexpectedMessage, UsageError
from filesync.manifest import Manifest, MemoryNodes, empty_manifest
from filesync.transfer import serve_wire as wire
from filesync.transfer.calls_zmq import call
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.nodes_zmq import answer_nodes, fetch_nodes
from filesync.transfer.offer import Offer, Replica
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


async def sync(
    source: str, dest: str, options: Options, *, progress: OnProgress | None = None
) -> SyncStats:
    """Make ``dest`` hold what ``source`` has.

    A source that ends in '/' is what is in the directory; without it, the directory itself,
    which comes to stand in ``dest`` under its name.

    Raises:
        UsageError: both are remote, or one is malformed.
        PathMissing: the source, or the directory above the destination, is not there.
        SourceChanged: the source changed meanwhile; run again.
        Unavailable: the server is not there, or refuses.
        StoreError: this disk.
    """
    started = monotonic()
    match parse(source), parse(dest):
        case bytes(path), bytes(to):
            stats = await asyncio.to_thread(_sync_local, path, to, options)
        case Remote() as remote, bytes(to):
            stats = await _take(remote, to, options, progress)
        case bytes(path), Remote() as remote:
            stats = await _give(path, remote, options)
        case _:
            raise UsageError("one of source and destination must be on this machine")
    stats.seconds = monotonic() - started
    return stats


def _sync_local(source: bytes, dest: bytes, options: Options) -> SyncStats:
    with ExitStack() as stack:
        place, top = _scan_source(source, options, stack)
        nodes = top.nodes
        plan, target = _plan(top, dest, _inside(source, place), options, stack, is_file=place.only is not None)
        if target is None or options.dry_run or plan.is_done:
            return _planned(plan, top, options)
        update = _update(target, plan, LocalTree(top, place.root))
        try:
            update.prepare()
            if next(update.wanted(), None) is not None:
                raise SourceChanged("the source changed while it was copied; run again")
            done = update.finish()
        except BaseException:
            update.abort()
            raise
        return _local_stats(done, top)
