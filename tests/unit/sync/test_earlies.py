"""Which large files come while the peer still reads them, and who waits for them."""

import asyncio
from typing import cast

import pytest

from filesync.disk.updating.early import EarlyFile
from filesync.disk.updating.update import TreeUpdate
from filesync.early import EARLY_BYTES
from filesync.errors import FilesyncError, StoreError, Unavailable
from filesync.sync.remote.earlies import MOST_AT_ONCE, MOST_WAITING, Earlies
from filesync.sync.remote.fields import Begun
from filesync.transfer.stats import PullStats


class Pulls:
    """Pulls that end when they are told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.ends = asyncio.Event()
        self.error: FilesyncError | None = None
        self.earlies = Earlies(cast(TreeUpdate, None), self.pull)

    async def pull(self, _: EarlyFile) -> PullStats:
        self.begun += 1
        await self.ends.wait()
        if self.error is not None:
            raise self.error
        return PullStats(files=1)

    async def begin(self, *begun: Begun) -> int:
        """Begin these; return how many pulls were begun by then."""
        self.earlies.begin(begun)
        await asyncio.sleep(0)
        return self.begun


def large(name: bytes, number: int = 0) -> Begun:
    return name, EARLY_BYTES, number


def test_a_few_come_at_once_and_the_next_when_there_is_room() -> None:
    async def main() -> None:
        pulls = Pulls()
        files = [large(b"%d/f" % number, number) for number in range(MOST_AT_ONCE + 2)]
        assert await pulls.begin(*files) == MOST_AT_ONCE
        assert await pulls.begin(*files) == MOST_AT_ONCE  # they are known already
        pulls.ends.set()
        await pulls.earlies.come({b"0"})
        assert await pulls.begin() == MOST_AT_ONCE + 2
        await pulls.earlies.stop()
        assert len(pulls.earlies.pulled) == MOST_AT_ONCE + 2

    asyncio.run(main())


def test_a_small_one_waits_for_its_digest() -> None:
    async def main() -> None:
        assert await Pulls().begin((b"f", EARLY_BYTES - 1, 0)) == 0

    asyncio.run(main())


def test_those_that_wait_do_not_come_once_their_directory_is_done_or_all_is() -> None:
    async def main() -> None:
        pulls = Pulls()
        await pulls.begin(*[large(b"d/%d" % number, number) for number in range(9)])
        await pulls.begin(large(b"e/f", 9))
        pulls.ends.set()
        await pulls.earlies.come({b"d"})
        assert await pulls.begin() == MOST_AT_ONCE + 1
        await pulls.begin(*[large(b"g/%d" % number, number) for number in range(9)])
        begun = pulls.begun
        await pulls.earlies.stop()
        assert await pulls.begin() == begun

    asyncio.run(main())


def test_of_those_that_cannot_be_told_apart_one_comes() -> None:
    async def main() -> None:
        pulls = Pulls()
        assert await pulls.begin(*[large(b"%d" % number) for number in range(9)]) == 1
        await pulls.earlies.stop()

    asyncio.run(main())


def test_no_more_wait_than_may() -> None:
    async def main() -> None:
        pulls = Pulls()
        for number in range(2 * MOST_WAITING):
            await pulls.begin(large(b"%d/f" % number, number))
        pulls.ends.set()
        for number in range(2 * MOST_WAITING):
            await pulls.earlies.come({b"%d" % number})
        assert pulls.begun == MOST_AT_ONCE + MOST_WAITING

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_directory_waits_for_those_in_it_whatever_becomes_of_them(fails: bool) -> None:
    async def main() -> None:
        pulls = Pulls()
        pulls.error = Unavailable("gone") if fails else None
        await pulls.begin(large(b"d/f"))
        await pulls.earlies.come({b"e", b"d/f"})  # others do not
        waiting = asyncio.create_task(pulls.earlies.come({b"d"}))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        pulls.ends.set()
        await waiting
        assert len(pulls.earlies.pulled) == (not fails)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "others"),
    [(Unavailable("it has changed"), 2), (StoreError("the disk is full"), 0)],
)
def test_where_one_cannot_be_written_no_others_are_sent(
    error: FilesyncError, others: int
) -> None:
    async def main() -> None:
        pulls = Pulls()
        pulls.error = error
        await pulls.begin(
            *[large(b"%d/f" % number, number) for number in range(MOST_AT_ONCE + 2)]
        )
        pulls.ends.set()
        await pulls.earlies.come({b"0", b"1"})
        assert await pulls.begin() == MOST_AT_ONCE + others
        await pulls.earlies.stop()

    asyncio.run(main())


def test_those_that_have_not_come_in_the_end_do_not() -> None:
    async def main() -> None:
        pulls = Pulls()
        await pulls.begin(large(b"d/f"))
        await pulls.earlies.stop()
        await pulls.earlies.stop()
        assert pulls.earlies.pulled == []

    asyncio.run(main())
