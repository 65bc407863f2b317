"""Workers that take the same at one time stand in a row; each takes from the one before it."""

import asyncio

import pytest

from solver.manager.moving import passers
from solver.manager.moving.passers import Passer, Passers
from tests.unit.solver.fakes import digest
from worker.wire.orders import Replica

BLOBS = digest("blobs")


def joined(row: Passers, *workers: str) -> list[Passer]:
    found = [row.join(BLOBS, one) for one in workers]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


def names(places: list[Passer]) -> list[str | None]:
    """Return from whom each takes."""
    return [None if one.before is None else one.before.worker for one in places]


class Opened:
    """Opens a place, and counts how often that is closed."""

    def __init__(self, place: Passer) -> None:
        self.closed = 0
        place.open(Replica(place.worker, "tcp://there", bytes(16)), self._close)

    async def _close(self) -> None:
        self.closed += 1


async def test_each_takes_from_the_one_before_it() -> None:
    assert names(joined(Passers(), "a", "b", "c")) == [None, "a", "b"]


async def test_rows_of_different_blobs_have_nothing_to_do_with_each_other() -> None:
    row = Passers()
    joined(row, "a")
    other = row.join(digest("others"), "b")
    assert other is not None
    assert other.before is None


async def test_a_worker_is_in_a_row_once_so_that_nobody_waits_for_itself() -> None:
    row = Passers()
    joined(row, "a", "b")
    assert row.join(BLOBS, "a") is None
    assert row.join(BLOBS, "b") is None


async def test_who_comes_later_takes_from_the_first_that_nobody_takes_from() -> None:
    row = Passers()
    _, b, _ = joined(row, "a", "b", "c")
    await row.leave(BLOBS, b)
    assert names(joined(row, "d", "e", "f")) == ["a", "c", "d"]


async def test_once_all_have_left_the_row_begins_anew() -> None:
    row = Passers()
    for place in joined(row, "a", "b"):
        await row.leave(BLOBS, place)
    assert names(joined(row, "a")) == [None]


async def test_what_nobody_takes_is_closed_when_its_worker_leaves() -> None:
    row = Passers()
    (a,) = joined(row, "a")
    opened = Opened(a)
    await row.leave(BLOBS, a)
    assert opened.closed == 1


async def test_what_somebody_takes_is_open_until_that_one_leaves() -> None:
    row = Passers()
    a, b = joined(row, "a", "b")
    opened = Opened(a)
    await row.leave(BLOBS, a)
    assert opened.closed == 0
    await row.leave(BLOBS, b)
    assert opened.closed == 1


async def test_who_has_left_is_not_taken_from_by_others() -> None:
    row = Passers()
    a, b = joined(row, "a", "b")
    await row.leave(BLOBS, a)
    await row.leave(BLOBS, b)
    assert names(joined(row, "c")) == [None]


async def test_the_next_waits_until_it_is_known_where_to_take_from() -> None:
    (a,) = joined(Passers(), "a")
    waiting = asyncio.create_task(a.opened())
    await asyncio.sleep(0)
    Opened(a)
    found = await waiting
    assert found is not None
    assert found.worker == "a"


async def test_the_next_does_not_wait_for_one_that_closed_before_it_opened() -> None:
    (a,) = joined(Passers(), "a")
    await a.close()
    assert await a.opened() is None


async def test_the_next_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passers, "OPENING_S", 0.01)
    (a,) = joined(Passers(), "a")
    assert await a.opened() is None
    Opened(a)
    assert await a.opened() is not None
