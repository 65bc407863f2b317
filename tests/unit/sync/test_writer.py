"""Who writes: the groups that he can give files."""

from filesync.sync.owner import mapped

ALL = "         0          0 4294967295\n"
KEEP_ID = "         0          1      1000\n      1000          0          1\n"


def test_all_groups_can_be_given_where_all_are_known() -> None:
    assert mapped([0, 65534, 70001], ALL) == [0, 65534, 70001]


def test_what_stands_for_groups_that_a_container_does_not_know_cannot_be_given() -> None:
    assert mapped([1000, 65534, 999, 1001], KEEP_ID) == [1000, 999]
    assert mapped([65534], "") == []
