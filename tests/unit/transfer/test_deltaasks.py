"""Deltas that are to be asked for: when gaps are signed, how many at once, and how many ahead."""

import random

from hypothesis import given
from hypothesis import strategies as st

from filesync.transfer.coding import delta
from filesync.transfer.receive.deltaasks import (
    FEW_BYTES,
    PLANNED_BYTES,
    SIGNED_BYTES,
    DeltaAsks,
)
from filesync.transfer.receive.gaps import Old
from filesync.transfer.receive.units import DeltaAsk, Gap
from filesync.transfer.wire import MAX_ASK_ITEMS, MAX_DELTAS_BYTES, MAX_SIGNATURES
from tests.unit.made import wanted

OLD = random.Random(1).randbytes(20_000)
SIGNED = delta.cut(OLD, 7)


def gap(size: int) -> Gap:
    return Gap(wanted(b"new"), None, 0, size, (), (Old(0, 0, len(OLD)),))


def asks_with(*sizes: int) -> DeltaAsks:
    asks = DeltaAsks()
    for size in sizes:
        asks.add(gap(size))
    return asks


def test_a_few_gaps_wait_while_more_may_come() -> None:
    asks = asks_with(1000, 2000)
    assert asks.to_sign(more_come=True) == []
    (sign,) = asks.to_sign(more_come=False)
    assert [one.size for one in sign.gaps] == [1000, 2000]
    asks.add(gap(FEW_BYTES))
    assert len(asks.to_sign(more_come=True)) == 1


@given(st.lists(st.integers(1, MAX_DELTAS_BYTES), min_size=1, max_size=100))
def test_every_gap_is_asked_for_once_in_order_and_few_are_signed_ahead(
    sizes: list[int],
) -> None:
    asks = asks_with(*sizes)
    asked: list[Gap] = []
    while len(asked) < len(sizes):
        signing = asks.to_sign(more_come=False)
        assert sum(one.size for sign in signing for one in sign.gaps) < (
            SIGNED_BYTES + MAX_DELTAS_BYTES
        )
        for sign in signing:
            assert sum(one.size for one in sign.gaps) <= MAX_DELTAS_BYTES
            assert not asks.signed(sign.gaps, 7, [SIGNED] * len(sign.gaps))
        while (ask := asks.next) is not None:
            assert asks.take() == ask
            asked += ask.gaps
    assert [one.size for one in asked] == sizes
    assert len(asks) == 0


def test_an_ask_has_no_more_gaps_and_signatures_than_a_message_holds() -> None:
    count = MAX_SIGNATURES // SIGNED.count + MAX_ASK_ITEMS
    asks = asks_with(*[1] * count)
    (sign,) = asks.to_sign(more_come=False)
    asks.signed(sign.gaps, 7, [SIGNED] * count)
    taken: list[DeltaAsk] = []
    while asks.next is not None:
        taken.append(asks.take())
    assert sum(len(ask.gaps) for ask in taken) == count
    assert max(len(ask.gaps) for ask in taken) <= MAX_ASK_ITEMS
    assert max(len(ask.gaps) for ask in taken) * SIGNED.count <= MAX_SIGNATURES


def test_gaps_of_which_nothing_old_is_there_any_more_come_back() -> None:
    asks = asks_with(1000, 2000, 3000)
    (sign,) = asks.to_sign(more_come=False)
    empty = delta.cut(b"", 7)
    assert asks.signed(sign.gaps, 7, [None, SIGNED, empty]) == [sign.gaps[0], sign.gaps[2]]
    assert asks.take().gaps == sign.gaps[1:2]


def test_what_is_given_back_is_asked_for_next() -> None:
    asks = asks_with(*[MAX_DELTAS_BYTES] * 3)
    for sign in asks.to_sign(more_come=False):
        asks.signed(sign.gaps, 7, [SIGNED])
    first = asks.take()
    asks.give_back(first)
    assert asks.next == first


def test_it_is_full_until_some_of_what_waits_is_asked_for() -> None:
    asks = asks_with(*[MAX_DELTAS_BYTES] * (PLANNED_BYTES // MAX_DELTAS_BYTES))
    assert asks.is_full
    sign = asks.to_sign(more_come=False)[0]
    asks.signed(sign.gaps, 7, [SIGNED])
    assert asks.is_full
    asks.take()
    assert not asks.is_full


def test_small_files_of_a_content_that_is_gone_are_asked_for_no_more() -> None:
    gone, other = wanted(b"gone"), wanted(b"other", 1)
    asks = DeltaAsks()
    gaps = [
        Gap(file, None, 0, 1000, (), (Old(0, 0, 9),)) for file in (gone, other, gone, other)
    ]
    for one in gaps[:2]:
        asks.add(one)
    (sign,) = asks.to_sign(more_come=False)
    asks.signed(sign.gaps, 7, [SIGNED] * 2)
    for one in gaps[2:]:
        asks.add(one)
    assert asks.drop(gone.digest) == [gaps[2], gaps[0]]
    assert asks.next == DeltaAsk(7, (gaps[1],))
    assert asks.take().size == 1000
    (sign,) = asks.to_sign(more_come=False)
    assert sign.gaps == (gaps[3],)
    assert asks.drop(gone.digest) == []
