import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.transfer.coding.matching import Copy
from filesync.transfer.coding.recipe import Part
from filesync.transfer.receive.gaps import SLACK_BYTES, Old, cut_up, narrowed, replaced
from filesync.transfer.wire import MAX_DELTA_BYTES

K = 1 << 10
MEGA = [1 << 20]


@pytest.mark.parametrize(
    ("copies", "sizes", "expected"),
    [
        ([], [], ()),
        ([], [0], ()),
        (
            [Copy(0, 0, 0, 100 * K), Copy(110 * K, 0, 112 * K, K)],
            MEGA,
            (Old(0, 100 * K, 112 * K),),
        ),
        ([Copy(0, 0, 500 * K, 100 * K)], MEGA, (Old(0, 600 * K, 610 * K + SLACK_BYTES),)),
        ([Copy(110 * K, 0, 300 * K, K)], MEGA, (Old(0, 290 * K - SLACK_BYTES, 300 * K),)),
        ([Copy(110 * K, 0, 5 * K, K)], MEGA, (Old(0, 0, 5 * K),)),
        ([Copy(0, 1, 0, 100 * K)], [K, 101 * K], (Old(1, 100 * K, 101 * K),)),
        ([Copy(0, 0, 0, 90 * K)], [105 * K], (Old(0, 84 * K, 105 * K),)),
        (
            [Copy(0, 0, 900 * K, 100 * K), Copy(110 * K, 0, 5 * K, K)],
            [1005 * K],
            (Old(0, 1000 * K, 1005 * K), Old(0, 0, 5 * K)),
        ),
        ([], [50 * K], (Old(0, 34 * K, 50 * K),)),
    ],
    ids=[
        "no old file",
        "an empty old file",
        "between its neighbours",
        "after the one before",
        "before the one after",
        "not before the old file's start",
        "not past the old file's end",
        "at the same place when no neighbour touches it",
        "where the end of the old file and its start have come together",
        "the end of an old file that is shorter",
    ],
)
def test_a_gap_has_replaced_what_stood_there(
    copies: list[Copy], sizes: list[int], expected: tuple[Old, ...]
) -> None:
    assert replaced(100 * K, 10 * K, copies, sizes) == expected


places = st.integers(0, 1 << 20)


@given(
    places,
    st.integers(1, 1 << 18),
    st.lists(st.tuples(places, st.integers(0, 1), places, st.integers(1, 9999)), max_size=5),
    st.lists(st.integers(0, 3 << 20), min_size=2, max_size=2),
)
def test_what_is_found_lies_within_an_old_file(
    offset: int, size: int, copies: list[tuple[int, int, int, int]], sizes: list[int]
) -> None:
    fitting = sorted(
        Copy(at, basis, start, length)
        for at, basis, start, length in copies
        if start + length <= sizes[basis] and (at + length <= offset or at >= offset + size)
    )
    for basis, start, end in replaced(offset, size, fitting, sizes):
        assert 0 <= start < end <= sizes[basis]


@given(st.integers(1, 1 << 20), st.integers(0, 1 << 20), st.integers(1, 1 << 20), places)
def test_a_part_of_a_gap_is_looked_for_within_what_the_gap_replaced(
    size: int, at: int, length: int, span: int
) -> None:
    at = min(at, size - 1)
    length = min(length, size - at)
    old = Old(1, 77, 78 + span)
    basis, start, end = narrowed(old, at, length, size)
    assert basis == 1
    assert old.start <= start < end <= old.end
    assert narrowed(old, 0, size, size) == old


def test_a_part_of_a_long_gap_is_looked_for_where_it_should_be_and_around() -> None:
    old = Old(0, 1000 * K, 1800 * K)
    near = Old(0, 1200 * K - SLACK_BYTES, 1400 * K + SLACK_BYTES)
    assert narrowed(old, 100 * K, 100 * K, 400 * K) == near


@given(st.lists(st.integers(4096, 64 << 10), min_size=1, max_size=60))
def test_a_long_run_of_chunks_is_cut_up_in_order(lengths: list[int]) -> None:
    chunks = [Part(length, bytes(16)) for length in lengths]
    found = cut_up(chunks)
    assert [part for _, _, some in found for part in some] == chunks
    at = 0
    for offset, size, some in found:
        assert offset == at
        assert size == sum(part.length for part in some) <= MAX_DELTA_BYTES
        at += size
