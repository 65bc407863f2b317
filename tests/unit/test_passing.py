"""Blobs that are passed on while they come: what is waited for, and for how long."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.errors import Unavailable
from filesync.manifest import EMPTY_DIRECTORY, File, Manifest, MemoryNodes, put, with_entries
from filesync.transfer.errors import NotOffered
from worker.blobs import BlobStore
from worker.moving.passedblobs import PassedBlobs
from worker.moving.passing import PassedFile, Passing

DATA = random.Random(1).randbytes(50_000)
CONTENT = digest_of(DATA)
SOON = 5.0
LONG_AGO = 0.01


class Rig:
    """A store, and one blob that is on offer."""

    def __init__(self, root: Path, *, begin_s: float = SOON) -> None:
        self.root = root
        self.blobs = BlobStore(root / "blobs")
        self.passing = Passing(begin_s=begin_s)
        name = sha256(DATA).hexdigest().encode()
        entry = File(name, 0o644, 0, 0, 0, len(DATA), CONTENT)
        nodes = MemoryNodes()
        tree = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, [entry])), nodes)
        self.source = PassedBlobs(self.passing, self.blobs, tree)

    @contextmanager
    def coming(self) -> Iterator[tuple[PassedFile, Callable[[int, int], None]]]:
        """Give the file that comes, and what writes of it from one offset to another."""
        with (self.root / "coming").open("w+b") as file, self.passing.coming(CONTENT) as passed:
            passed.begin(file.fileno())

            def write(start: int, end: int) -> None:
                os.pwrite(file.fileno(), DATA[start:end], start)
                passed.note(start, end - start)

            yield passed, write

    def asked(self, offset: int, length: int) -> "asyncio.Task[bytes]":
        """Ask for a range, as a session does."""

        async def ask() -> bytes:
            ranges = [(CONTENT, offset, length)]
            await self.source.come(ranges)
            return await asyncio.to_thread(self.source.read, ranges)

        return asyncio.create_task(ask())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def has_to_wait(task: "asyncio.Task[bytes]") -> bool:
    await asyncio.sleep(0.02)
    return not task.done()


async def test_what_has_come_is_given_at_once(rig: Rig) -> None:
    with rig.coming() as (_, write):
        write(0, 1000)
        assert await rig.asked(100, 900) == DATA[100:1000]


async def test_what_has_not_come_is_waited_for(rig: Rig) -> None:
    with rig.coming() as (_, write):
        write(0, 1000)
        asked = rig.asked(900, 200)
        assert await has_to_wait(asked)
        await asyncio.to_thread(write, 1000, 2000)
        assert await asked == DATA[900:1100]


async def test_what_came_ahead_is_given_once_all_before_it_is_there(rig: Rig) -> None:
    with rig.coming() as (_, write):
        write(1000, 2000)
        asked = rig.asked(1500, 100)
        assert await has_to_wait(asked)
        write(0, 1000)
        assert await asked == DATA[1500:1600]


async def test_a_blob_that_begins_anew_is_waited_for_again(rig: Rig) -> None:
    with rig.coming() as (passed, write), (rig.root / "again").open("w+b") as again:
        write(0, len(DATA))
        passed.begin(again.fileno())
        asked = rig.asked(0, 100)
        assert await has_to_wait(asked)
        os.pwrite(again.fileno(), DATA, 0)
        passed.note(0, len(DATA))
        assert await asked == DATA[:100]


async def test_a_blob_that_is_about_to_come_is_waited_for(rig: Rig) -> None:
    asked = rig.asked(0, len(DATA))
    assert await has_to_wait(asked)
    with rig.coming() as (_, write):
        write(0, len(DATA))
        assert await asked == DATA


async def test_a_blob_that_is_in_the_store_is_given_from_there(rig: Rig) -> None:
    rig.blobs.ingest([DATA])
    assert await rig.asked(7, 1000) == DATA[7:1007]


async def test_who_waits_for_a_blob_that_ends_in_the_store_gets_it_from_there(rig: Rig) -> None:
    asked = rig.asked(0, len(DATA))
    with rig.coming():
        assert await has_to_wait(asked)
        rig.blobs.ingest([DATA])
    assert await asked == DATA


async def test_a_blob_that_does_not_begin_to_come_is_not_waited_for_long(
    tmp_path: Path,
) -> None:
    with pytest.raises(Unavailable, match="not on its way"):
        await Rig(tmp_path, begin_s=LONG_AGO).asked(0, 1)


async def test_a_blob_that_comes_slowly_is_waited_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path, begin_s=LONG_AGO)
    with rig.coming() as (_, write):
        asked = rig.asked(0, 1)
        await asyncio.sleep(10 * LONG_AGO)
        write(0, 1)
        assert await asked == DATA[:1]


async def test_a_blob_that_comes_no_more_is_not_waited_for_long(tmp_path: Path) -> None:
    rig = Rig(tmp_path, begin_s=LONG_AGO)
    with rig.coming():
        asked = rig.asked(0, 1)
        await asyncio.sleep(5 * LONG_AGO)
    with pytest.raises(Unavailable, match="not on its way"):
        await asked


async def test_what_is_gone_between_the_waiting_and_the_reading_is_told(rig: Rig) -> None:
    ranges = [(CONTENT, 0, 100)]
    with rig.coming() as (_, write):
        write(0, 100)
        await rig.source.come(ranges)
    with pytest.raises(Unavailable, match="no more"):
        rig.source.read(ranges)


async def test_nothing_else_is_on_offer(rig: Rig) -> None:
    for ranges in ([(digest_of(b"other"), 0, 1)], [(CONTENT, len(DATA), 1)]):
        with pytest.raises(NotOffered):
            await rig.source.come(ranges)


async def test_what_is_not_whole_is_not_cut(rig: Rig) -> None:
    with rig.coming():
        with pytest.raises(Unavailable):
            rig.source.recipes([])
        with pytest.raises(Unavailable):
            rig.source.deltas(1, [], b"")


async def test_a_blob_may_come_twice_at_once(rig: Rig) -> None:
    with rig.coming() as (_, first):
        first(0, len(DATA))
        with rig.coming() as (_, second):
            second(0, 10)
            assert await rig.asked(0, 10) == DATA[:10]
    assert rig.passing.find(CONTENT) is None
