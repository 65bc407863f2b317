"""The ways that a sync can go: on one machine, to a server, and from one."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from filesync.sync.local import sync_local
from filesync.sync.options import OnProgress, Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.server import TreeServer
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.plane_zmq import DataPlane
from tests.integration.test_sync_plane import LOOPBACK

Way = Callable[..., Coroutine[None, None, SyncStats]]
"""Syncs ``names`` in ``root/source`` to ``root/to``; the server's caches are the client's, if none are given."""
ALL: Final[Sequence[str]] = ("",)
PLAIN: Final = Options()


async def local(
    root: Path,
    options: Options = PLAIN,
    names: Sequence[str] = ALL,
    *,
    source: str = "src",
    to: str = "dest",
) -> SyncStats:
    paths = _below(f"{root}/{source}", names)
    return await asyncio.to_thread(sync_local, paths, os.fsencode(root / to), options)


async def given(
    root: Path,
    options: Options = PLAIN,
    names: Sequence[str] = ALL,
    *,
    source: str = "src",
    to: str = "dest",
    caches: Path | None = None,
    progress: OnProgress | None = None,
) -> SyncStats:
    async with _served(root, read_only=False, caches=caches or options.caches) as address:
        remote = Remote(address, to.encode())
        return await sync_to(
            _below(f"{root}/{source}", names), remote, options, progress=progress
        )


async def taken(
    root: Path,
    options: Options = PLAIN,
    names: Sequence[str] = ALL,
    *,
    source: str = "src",
    to: str = "dest",
    caches: Path | None = None,
    progress: OnProgress | None = None,
) -> SyncStats:
    async with _served(root, read_only=True, caches=caches or options.caches) as address:
        remotes = [Remote(address, path) for path in _below(source, names)]
        return await sync_from(remotes, os.fsencode(root / to), options, progress=progress)


@asynccontextmanager
async def _served(root: Path, *, read_only: bool, caches: Path | None) -> AsyncIterator[str]:
    """Serve ``root`` at the address."""
    server = TreeServer(ServedPlaces(root), read_only=read_only, caches=caches)
    async with DataPlane(LOOPBACK, answer=server.answer) as plane:
        server.use(plane)
        yield plane.address


def _below(path: str, names: Sequence[str]) -> list[bytes]:
    """Return the paths of ``names`` below ``path``; of "" that of all that is in it."""
    return [os.fsencode(f"{path}/{name}") for name in names]
