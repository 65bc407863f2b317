"""The worker's cache directories: what a cache mount shows, and who may use it at once.

A cache is named by its id. It has one directory, and more where `private` users need one at
the same time; those are kept and used again. A directory belongs to one exclusive user
(`private`, `locked`) or to any number of `shared` ones.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from filesync.digest import digest_of
from worker.wire.ops import CacheMount, Sharing


class Use(msgspec.Struct, frozen=True):
    """Who uses a directory: how many, and whether the one is exclusive."""

    users: int
    exclusive: bool


def choose(uses: Mapping[int, Use], sharing: Sharing) -> int | None:
    """Return the number of the directory that a new user gets, or None: wait. Pure.

    Shared and locked users want the first directory and nothing else, private ones the first
    that is idle.
    """
    first = uses.get(0)
    match sharing:
        case Sharing.SHARED:
            return None if first is not None and first.exclusive else 0
        case Sharing.LOCKED:
            return None if first is not None else 0
        case Sharing.PRIVATE:
            return next(number for number in range(len(uses) + 1) if number not in uses)


class CacheDirectories:
    """The cache directories below one directory, for the tasks of one event loop."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._uses: dict[str, dict[int, Use]] = {}
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def acquire(self, mount: CacheMount) -> AsyncIterator[Path]:
        """Wait for a directory of the cache and lend it for the length of the block.

        Mode and owner are those of the mount that made the directory. Who needs several
        caches must acquire them in the order of their ids, or two users wait for each other.
        Cancellation while waiting leaves nothing taken.
        """
        name = digest_of(mount.id.encode()).hex()
        number = await self._take(name, mount.sharing)
        try:
            path = self._root / name / str(number)
            _make(path, mount)
            os.utime(path.parent)  # when it was last used
            yield path
        finally:
            with suppress(FileNotFoundError):
                os.utime(self._root / name)
            self._give_back(name, number)

    def in_use(self) -> frozenset[str]:
        """Return the names, which are those of directories, of the caches that somebody uses."""
        return frozenset(self._uses)

    def detach(self, name: str, to: Path) -> bool:
        """Rename a cache's directory to ``to``; return False where somebody uses it.

        Does not wait: it must be called in the event loop, so that nobody acquires it meanwhile.
        """
        if name in self._uses:
            return False
        with suppress(FileNotFoundError):
            (self._root / name).rename(to)
        return True

    async def _take(self, name: str, sharing: Sharing) -> int:
        while (number := choose(self._uses.get(name, {}), sharing)) is None:
            await self._changed.wait()
        uses = self._uses.setdefault(name, {})
        users = uses[number].users if number in uses else 0
        uses[number] = Use(users + 1, exclusive=sharing is not Sharing.SHARED)
        return number

    def _give_back(self, name: str, number: int) -> None:
        uses = self._uses[name]
        use = uses.pop(number)
        if use.users > 1:
            uses[number] = Use(use.users - 1, exclusive=use.exclusive)
        if not uses:
            del self._uses[name]
        # All who wait look again; who comes later waits for the next change.
        self._changed.set()
        self._changed = asyncio.Event()


def _make(path: Path, mount: CacheMount) -> None:
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Named at last: a crash half-way must not leave a cache with the wrong owner.
    draft = path.with_suffix(".new")
    draft.mkdir(exist_ok=True)
    os.chown(draft, mount.uid, mount.gid)
    draft.chmod(mount.mode)
    draft.rename(path)
