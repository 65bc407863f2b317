"""Syncs from and to a ``filesync serve``."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from filesync.errors import Unavailable, UsageError
from filesync.sync.filter import Filter
from filesync.sync.options import OnProgress, Options
from filesync.sync.places import LocalPlaces, local_path
from filesync.sync.remote.asking import Peer
from filesync.sync.saying.stats import SyncStats
from filesync.sync.source import close_all, find_sources
from filesync.transfer.plane_zmq import DataPlane

if TYPE_CHECKING:
    from filesync.keys.files import KeyPair

_REMOTE: Final = re.compile(rb"(tcp://[^/]+)(?:/(.*))?", re.DOTALL)


class Remote(NamedTuple):
    """A path below what a ``filesync serve`` serves."""

    address: str
    path: bytes


def parse(text: str) -> Remote | bytes:
    """Return what a source or destination names: ``tcp://host:port/path``, or a local path."""
    if match := _REMOTE.fullmatch(os.fsencode(text)):
        return Remote(os.fsdecode(match[1]), match[2] or b"")
    if "://" in text:
        raise UsageError(f"{text}: write it as tcp://host:port/path, or as a local path")
    return local_path(text)


async def sync_from(
    sources: Sequence[Remote],
    dest: bytes,
    options: Options,
    *,
    progress: OnProgress | None = None,
) -> SyncStats:
    """Make ``dest`` on this machine hold what ``sources`` on one server have.

    Trailing slashes mean what they do in ``sync_local``.

    Raises:
        UsageError: the sources are not all on one server.
        PathMissing: the directory above the destination is not there.
        Unavailable: the server is not there, or refuses.
        StoreError: this disk.
    """
    from filesync.sync.remote.taking import take

    started = monotonic()
    address = sources[0].address
    if any(source.address != address for source in sources):
        raise UsageError("all sources of one sync must be on one server; sync once for each")
    async with DataPlane(own=_own_key(address, options)) as plane:
        paths = [source.path for source in sources]
        with _dialled(plane, address) as peer:
            stats = await take(peer, paths, dest, options, progress)
    return _timed(stats, peer, started)


async def sync_to(
    sources: Sequence[bytes],
    dest: Remote,
    options: Options,
    *,
    progress: OnProgress | None = None,
) -> SyncStats:
    """Make ``dest`` on a server hold what ``sources`` on this machine have.

    Trailing slashes mean what they do in ``sync_local``.

    Raises:
        Unavailable: the server is not there, or refuses.
        StoreError: this disk.
    """
    from filesync.sync.remote.giving import Giving

    started = monotonic()
    found = find_sources(LocalPlaces(), sources, Filter(options.rules))
    giving = Giving(found, options, progress)
    try:
        giving.begin()
        own = _own_key(dest.address, options)
        async with DataPlane(answer=giving.answer, own=own) as plane:
            with _dialled(plane, dest.address) as peer:
                await giving.give(peer, dest.path)
    finally:
        await giving.stop()
        close_all(found.found)
    return _timed(giving.stats, peer, started)


def _own_key(address: str, options: Options) -> "KeyPair | None":
    if "@" not in address:
        return None
    from filesync.keys.files import key_for

    return key_for(address, options.key)


@contextmanager
def _dialled(plane: DataPlane, address: str) -> Iterator[Peer]:
    """Give who listens at ``address``, before it has answered: the first request goes along."""
    peer = Peer(plane, plane.dial(address), address)
    try:
        yield peer
    except Unavailable as exc:
        if type(exc) is not Unavailable or peer.channel.greeting is None:
            raise
        raise Unavailable(f"{exc}; is a `filesync serve` running there?") from exc


def _timed(stats: SyncStats, peer: Peer, started: float) -> SyncStats:
    stats.seconds = monotonic() - started
    stats.wire_in, stats.wire_out = peer.channel.wire_in, peer.channel.wire_out
    return stats
