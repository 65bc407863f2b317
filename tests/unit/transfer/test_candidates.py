"""Which replica a pull asks next, and when it tries one that stands by."""

import pytest

from filesync.transfer.receive.candidates import (
    LATER_TIMES,
    MUCH_FASTER,
    SPREAD_TIMES,
    TRIAL_AFTER_S,
    TRIAL_BYTES,
    TRIAL_S,
    Candidates,
)
from filesync.transfer.replica import Replica

ONE, TWO, THREE, FOUR = (Replica(f"tcp://{n}", bytes(16)) for n in "1234")
RATE = 1e6


def candidates(*, spread: float = 0.0) -> Candidates:
    return Candidates([ONE, TWO], [THREE, FOUR], now=100.0, spread=spread)


def test_those_to_be_asked_first_come_in_order_whether_others_give_or_not() -> None:
    found = candidates()
    assert len(found) == 4
    assert [found.take(is_alone=True), found.take(is_alone=False)] == [ONE, TWO]


def test_one_that_stands_by_is_asked_only_when_nobody_gives() -> None:
    found = candidates()
    found.take(is_alone=True)
    found.take(is_alone=False)
    assert found.take(is_alone=False) is None
    assert [found.take(is_alone=True) for _ in "123"] == [THREE, FOUR, None]
    assert not len(found)


def test_one_that_stands_by_is_tried_after_a_while() -> None:
    found = candidates()
    assert found.take_on_trial(100.0 + TRIAL_AFTER_S - 0.1, RATE) is None
    assert found.try_at_s == 100.0 + TRIAL_AFTER_S
    assert found.take_on_trial(100.0 + TRIAL_AFTER_S, RATE) == THREE


def test_those_who_begin_at_one_time_do_not_try_at_one_time() -> None:
    assert candidates(spread=1.0).try_at_s == 100.0 + TRIAL_AFTER_S * (1 + SPREAD_TIMES)


def test_nobody_is_tried_where_nobody_stands_by() -> None:
    found = Candidates([ONE], [], now=100.0, spread=0.0)
    assert found.try_at_s is None
    assert found.take_on_trial(1e6, RATE) is None


@pytest.mark.parametrize(
    ("seconds", "content_bytes", "stays"),
    [
        (0.5, TRIAL_BYTES - 1, None),
        (TRIAL_S, 0, False),
        (TRIAL_S, int(TRIAL_S * RATE * MUCH_FASTER) - 1, False),
        (TRIAL_S, int(TRIAL_S * RATE * MUCH_FASTER) + 1, True),
        (TRIAL_BYTES / RATE, TRIAL_BYTES, False),
        (TRIAL_BYTES / RATE / MUCH_FASTER / 1.1, TRIAL_BYTES, True),
    ],
    ids=[
        "too early to say",
        "nothing has come in all its time",
        "not much faster",
        "much faster",
        "as fast",
        "much faster, and known early",
    ],
)
def test_one_on_trial_stays_if_it_is_much_faster(
    seconds: float, content_bytes: int, stays: bool | None
) -> None:
    found = candidates()
    found.take_on_trial(200.0, RATE)
    assert found.stays(200.0 + seconds, content_bytes) is stays


def test_each_trial_that_shows_nothing_has_the_next_wait_longer() -> None:
    found = candidates()
    found.take_on_trial(200.0, RATE)
    found.put_back(THREE)
    assert found.try_at_s == 200.0 + TRIAL_AFTER_S * LATER_TIMES
    assert found.take_on_trial(found.try_at_s, RATE) == FOUR, "the other one first"
    assert found.try_at_s == 200.0 + TRIAL_AFTER_S * (LATER_TIMES + LATER_TIMES**2)
