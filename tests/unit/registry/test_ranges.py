"""Which ranges of a blob are asked for, and which answers are taken."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.registry import BadRegistry
from worker.registry.ranges import (
    GAPS_PER_BYTE,
    MAX_RANGE_BYTES,
    NoRanges,
    check_part,
    part_header,
    ranges,
)

SPANS = st.lists(
    st.tuples(st.integers(0, 1 << 26), st.integers(1, 1 << 23)).map(
        lambda pair: (pair[0], pair[0] + pair[1])
    ),
    max_size=20,
)


def size(spans: list[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in spans)


@given(SPANS)
def test_every_span_is_in_one_range_and_few_other_bytes_are(
    spans: list[tuple[int, int]],
) -> None:
    found = ranges(spans)
    assert all(any(b <= begin and end <= e for b, e in found) for begin, end in spans)
    assert found == sorted(found)
    assert all(first[1] <= second[0] for first, second in pairwise(found))
    covered = 0
    at = 0
    for begin, end in sorted(spans):
        covered += max(0, end - max(at, begin))
        at = max(at, end)
    assert size(found) <= covered * (1 + GAPS_PER_BYTE)


def test_what_touches_is_one_range_up_to_a_size() -> None:
    assert ranges([(10, 20), (20, 30), (0, 10)]) == [(0, 30)]
    step = MAX_RANGE_BYTES // 2
    assert ranges([(n * step, (n + 1) * step) for n in range(5)]) == [
        (0, 2 * step),
        (2 * step, 4 * step),
        (4 * step, 5 * step),
    ]


def test_small_gaps_come_along_and_large_ones_do_not() -> None:
    assert ranges([(0, 1000), (1010, 2000)]) == [(0, 2000)]
    assert ranges([(0, 1000), (1500, 2000)]) == [(0, 1000), (1500, 2000)]


def test_a_part_is_asked_for_by_its_first_and_last_byte() -> None:
    assert part_header(10, 20) == {"Range": "bytes=10-19"}


@pytest.mark.parametrize(
    "content_range",
    ["bytes 10-19/100", "bytes 10-19/*", " bytes 10-19/100 "],
)
def test_the_part_that_was_asked_for_is_taken(content_range: str) -> None:
    check_part(206, content_range=content_range, begin=10, end=20, size=100)


@pytest.mark.parametrize(
    "content_range",
    [
        "",
        "bytes 10-20/100",
        "bytes 9-19/100",
        "bytes 10-19/101",
        "bytes */100",
        "items 10-19/100",
    ],
)
def test_another_part_is_refused(content_range: str) -> None:
    with pytest.raises(BadRegistry):
        check_part(206, content_range=content_range, begin=10, end=20, size=100)


def test_a_whole_blob_in_answer_to_a_range_is_told_apart() -> None:
    with pytest.raises(NoRanges):
        check_part(200, content_range="", begin=10, end=20, size=100)
