import asyncio
import os
from pathlib import Path

import pytest

from worker.exec import CacheDirectories
from worker.exec.caches import Use, choose
from worker.wire.ops import CacheMount, Sharing

ONE_SHARED = Use(1, exclusive=False)
EXCLUSIVE = Use(1, exclusive=True)


@pytest.mark.parametrize(
    ("uses", "sharing", "number"),
    [
        ({}, Sharing.SHARED, 0),
        ({0: ONE_SHARED}, Sharing.SHARED, 0),
        ({0: EXCLUSIVE}, Sharing.SHARED, None),
        ({1: EXCLUSIVE}, Sharing.SHARED, 0),
        ({}, Sharing.LOCKED, 0),
        ({0: ONE_SHARED}, Sharing.LOCKED, None),
        ({0: EXCLUSIVE}, Sharing.LOCKED, None),
        ({}, Sharing.PRIVATE, 0),
        ({0: ONE_SHARED}, Sharing.PRIVATE, 1),
        ({0: EXCLUSIVE, 2: EXCLUSIVE}, Sharing.PRIVATE, 1),
    ],
)
def test_choice_of_a_directory(
    uses: dict[int, Use], sharing: Sharing, number: int | None
) -> None:
    assert choose(uses, sharing) == number


def mount(sharing: Sharing, *, id: str = "c", mode: int = 0o755) -> CacheMount:
    return CacheMount("/c", id, sharing=sharing, mode=mode)


def test_directory_is_made_with_mode_once_and_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        caches = CacheDirectories(tmp_path)
        async with caches.acquire(mount(Sharing.SHARED, mode=0o1770)) as path:
            assert path.stat().st_mode & 0o7777 == 0o1770
            (path / "kept").touch()
        async with caches.acquire(mount(Sharing.SHARED, mode=0o700)) as path:
            assert path.stat().st_mode & 0o7777 == 0o1770
            assert (path / "kept").exists()

    asyncio.run(scenario())


def test_id_names_a_directory_and_no_path(tmp_path: Path) -> None:
    async def scenario() -> None:
        caches = CacheDirectories(tmp_path / "caches")
        async with (
            caches.acquire(mount(Sharing.LOCKED, id="../../x")) as one,
            caches.acquire(mount(Sharing.LOCKED, id="/etc")) as two,
        ):
            assert one != two
            assert one.parent.parent == two.parent.parent == tmp_path / "caches"

    asyncio.run(scenario())


def test_locked_users_wait_for_each_other(tmp_path: Path) -> None:
    order: list[str] = []

    async def user(caches: CacheDirectories, name: str) -> None:
        async with caches.acquire(mount(Sharing.LOCKED)):
            order.append(f"+{name}")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            order.append(f"-{name}")

    async def scenario() -> None:
        caches = CacheDirectories(tmp_path)
        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(user(caches, name))

    asyncio.run(scenario())
    assert order == ["+a", "-a", "+b", "-b", "+c", "-c"]


def test_private_users_have_a_directory_each_and_use_it_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        caches = CacheDirectories(tmp_path)
        private = mount(Sharing.PRIVATE)
        async with caches.acquire(private) as one, caches.acquire(private) as two:
            assert (one.name, two.name) == ("0", "1")
        async with caches.acquire(private) as again:
            assert again.name == "0"

    asyncio.run(scenario())


def test_cancelled_wait_takes_nothing(tmp_path: Path) -> None:
    async def take(caches: CacheDirectories) -> None:
        async with caches.acquire(mount(Sharing.LOCKED)):
            pass

    async def scenario() -> None:
        caches = CacheDirectories(tmp_path)
        async with caches.acquire(mount(Sharing.SHARED)):
            waiting = asyncio.create_task(take(caches))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await take(caches)

    asyncio.run(scenario())


def test_directory_that_is_in_use_is_not_detached(tmp_path: Path) -> None:
    async def scenario() -> None:
        caches = CacheDirectories(tmp_path / "caches")
        async with caches.acquire(mount(Sharing.SHARED)) as path:
            (name,) = caches.in_use()
            assert path.parent.name == name
            assert not caches.detach(name, tmp_path / "aside")
            (path / "kept").touch()
        assert caches.in_use() == frozenset()
        assert caches.detach(name, tmp_path / "aside")
        assert (tmp_path / "aside/0/kept").exists()
        assert caches.detach(name, tmp_path / "again"), "one that is gone is out of the way"
        async with caches.acquire(mount(Sharing.SHARED)) as path:
            assert not (path / "kept").exists()

    asyncio.run(scenario())


def test_use_of_a_cache_is_the_time_of_its_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        caches = CacheDirectories(tmp_path)
        async with caches.acquire(mount(Sharing.SHARED)) as path:
            os.utime(path.parent, (50, 50))
        assert path.parent.stat().st_mtime > 50

    asyncio.run(scenario())
