"""Syncs from and to a ``filesync serve``."""

import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from filesync.errors import Unavailable, UsageError
from filesync.sync.filter import MAX_RULE_BYTES, MAX_RULES
from filesync.sync.options import OnProgress, Options
from filesync.sync.places import LocalPlaces, is_remote, local_path
from filesync.sync.remote.asking import Peer
from filesync.sync.remote.fields import MAX_NAMES_BYTES, MAX_PATH_BYTES, MAX_PATHS
from filesync.sync.saying.stats import SyncStats
from filesync.sync.source import close_all, find_sources
from filesync.transfer.connection.address import check_address
from filesync.transfer.plane_zmq import DataPlane

if TYPE_CHECKING:
    from filesync.keys.files import KeyPair

_REMOTE: Final = re.compile(rb"(tcp://[^/]+)(?:/(.*))?", re.DOTALL)
_BY_SHELL: Final = re.compile(
    rb"(\[[^/\]]+\]|[^/:\[]*@\[[^/\]]+\]|[^/:]+):(?!:)(.*)", re.DOTALL
)


class Remote(NamedTuple):
    """A path below what a ``filesync serve`` serves, or one on a host.

    Attributes:
        address: of the server; ``[user@]host`` where a remote shell is to start one.
        path: as it is called there.
    """

    address: str
    path: bytes

    @property
    def is_by_shell(self) -> bool:
        """A remote shell is to start the server."""
        return "://" not in self.address


def parse(text: str) -> Remote | bytes:
    """Return what a source or destination names.

    ``tcp://host:port/path``, ``[user@]host:path``, or a local path.

    Raises:
        UsageError: it is none of them.
    """
    name = os.fsencode(text)
    if match := _REMOTE.fullmatch(name):
        return Remote(check_address(os.fsdecode(match[1])), match[2] or b"")
    if is_remote(text) and "://" in text:
        raise UsageError(f"{text}: write it as tcp://host:port/path, or as host:path")
    if match := _BY_SHELL.fullmatch(name):
        host = os.fsdecode(match[1]).replace("[", "").replace("]", "")
        return Remote(host, _from_home(match[2]))
    return local_path(text)


def _from_home(path: bytes) -> bytes:
    """Return a path that a remote shell's user wrote, from where that shell begins."""
    if path == b"~":
        return b""
    if path.startswith(b"~/"):
        return path[2:].lstrip(b"/")
    return path


async def sync_from(
    sources: Sequence[Remote],
    dest: bytes,
    options: Options,
    *,
    progress: OnProgress | None = None,
) -> SyncStats:
    """Make ``dest`` on this machine hold what ``sources`` on one server have.

    Trailing slashes mean what they do in ``sync_local``. With ``options.listed`` there is one source, the
    directory that the list is of.

    Raises:
        UsageError: the sources are not all on one server, or it is asked for more than a server takes.
        PathMissing: the directory above the destination is not there.
        Unavailable: the server is not there, or refuses.
        StoreError: this disk.
    """
    from filesync.sync.remote.ahead import Ahead
    from filesync.sync.remote.taking import take

    started = monotonic()
    address = sources[0].address
    if any(source.address != address for source in sources):
        raise UsageError("all sources of one sync must be on one server; sync once for each")
    paths = [source.path for source in sources]
    _check_bounds(paths, options.rules)
    ahead = Ahead()
    async with (
        DataPlane(answer=ahead.answer, own=_own_key(sources[0], options)) as plane,
        _dialled(plane, sources[0], options) as peer,
    ):
        ahead.plane = plane
        stats = await take(peer, paths, dest, options, progress, ahead)
    return _timed(stats, peer, started)


async def sync_to(
    sources: Sequence[bytes],
    dest: Remote,
    options: Options,
    *,
    progress: OnProgress | None = None,
) -> SyncStats:
    """Make ``dest`` on a server hold what ``sources`` on this machine have.

    Trailing slashes mean what they do in ``sync_local``. With ``options.listed`` they are those that it is ``of``.

    Raises:
        UsageError: it is asked for more than a server takes.
        Unavailable: the server is not there, or refuses.
        StoreError: this disk.
    """
    from filesync.sync.remote.giving import Giving

    started = monotonic()
    _check_bounds([dest.path], options.rules)
    filter = options.filter()
    found = find_sources(LocalPlaces(), sources, filter, most_names_bytes=MAX_NAMES_BYTES)
    giving = Giving(found, options, progress)
    try:
        giving.begin()
        own = _own_key(dest, options)
        async with (
            DataPlane(answer=giving.offered.answer, own=own) as plane,
            _dialled(plane, dest, options) as peer,
        ):
            await giving.give(peer, dest.path)
    finally:
        try:
            await giving.stop()
        finally:
            close_all(found.found)
    return _timed(giving.stats, peer, started)


def _check_bounds(paths: Sequence[bytes], rules: Sequence[bytes]) -> None:
    """Check what a server would refuse, before anything is asked of it.

    Raises:
        UsageError: there are more than it takes at once, or one is too long.
    """
    for what, given, most, longest in (
        ("path", paths, MAX_PATHS, MAX_PATH_BYTES),
        ("pattern", rules, MAX_RULES, MAX_RULE_BYTES),
    ):
        if len(given) > most:
            raise UsageError(
                f"{len(given):,} {what}s: with another machine a sync takes {most:,} at most; "
                "give fewer at once"
            )
        if any(len(one) > longest for one in given):
            raise UsageError(f"a {what} for another machine has at most {longest:,} bytes")


def _own_key(remote: Remote, options: Options) -> "KeyPair | None":
    address = remote.address
    if remote.is_by_shell or "@" not in address:
        return None
    from filesync.keys.files import key_for

    return key_for(address, options.key)


@asynccontextmanager
async def _dialled(plane: DataPlane, remote: Remote, options: Options) -> AsyncIterator[Peer]:
    """Give the other side, before it has answered: the first request goes along."""
    if remote.is_by_shell:
        from filesync.sync.shell.login import reached

        async with reached(remote.address, options.shell) as (address, moved):
            channel = plane.dial(address)
            channel.moved = moved
            yield Peer(plane, channel, address)
        return
    peer = Peer(plane, plane.dial(remote.address), remote.address)
    try:
        yield peer
    except Unavailable as exc:
        if type(exc) is not Unavailable:
            raise
        if peer.channel.greeting is not None:
            raise Unavailable(f"{exc}; is a `filesync serve` running there?") from exc
        if peer.channel.lost is None:
            raise
        raise Unavailable(f"{exc}; run again: what has come whole stays") from exc


def _timed(stats: SyncStats, peer: Peer, started: float) -> SyncStats:
    stats.seconds = monotonic() - started
    stats.wire_in, stats.wire_out = peer.channel.wire_in, peer.channel.wire_out
    return stats
