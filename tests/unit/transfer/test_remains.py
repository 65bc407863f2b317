"""What is told of a large file that has changed: told shortly, and not believed beyond its bounds."""

import pytest

from filesync.transfer.coding.matching import Copy
from filesync.transfer.coding.remains import Run, between, copies_of, joined


def test_runs_that_follow_each_other_in_both_contents_are_one() -> None:
    runs: list[Run] = []
    for run in (Run(0, 10, 5), Run(5, 15, 5), Run(10, 30, 5), Run(16, 35, 1), Run(17, 36, 1)):
        joined(runs, run)
    assert runs == [Run(0, 10, 10), Run(10, 30, 5), Run(16, 35, 2)]


def test_runs_are_copied_from_the_first_old_file() -> None:
    runs = [Run(0, 4, 2), Run(3, 0, 6)]
    assert copies_of(runs, 9, 6) == [Copy(0, 0, 4, 2), Copy(3, 0, 0, 6)]


def test_what_is_between_the_copies_is_the_rest() -> None:
    copies = [Copy(2, 0, 0, 3), Copy(5, 0, 9, 1), Copy(8, 0, 0, 1)]
    assert list(between(copies, 12)) == [(0, 2), (6, 2), (9, 3)]
    assert list(between([Copy(0, 0, 0, 4)], 4)) == []


@pytest.mark.parametrize(
    "runs",
    [
        [Run(0, 0, 3), Run(2, 5, 1)],
        [Run(5, 0, 1), Run(0, 0, 1)],
        [Run(0, 5, 2)],
        [Run(8, 0, 2)],
        [Run(1 << 63, 0, 1 << 63)],
        [],
    ],
    ids=["overlapping", "out of order", "past the old", "past the new", "huge", "none"],
)
def test_runs_that_cannot_be_are_none(runs: list[Run]) -> None:
    assert copies_of(runs, 9, 6) == []
