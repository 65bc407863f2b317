"""What ``--delete`` spares for what is mounted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import UsageError
from filesync.sync.filter import MAX_RULE_BYTES, Filter
from filesync.sync.part import Part
from filesync.sync.sparing import given_empty, sparing, standing
from tests.unit.test_overlay import Shape, manifest

names = st.binary(min_size=1, max_size=4).map(lambda name: name.translate(None, b"/\0") or b"*")
paths = st.lists(
    st.sampled_from([b"a", b"[a]", b"a*", b"\\", b"?"]) | names, min_size=1, max_size=3
)


@given(paths.map(b"/".join), paths.map(b"/".join))
def test_just_what_is_in_a_mount_point_of_a_source_is_spared_and_all_of_one_at_the_destination(
    one: bytes, other: bytes
) -> None:
    empty = Filter(sparing((), given=[one], there=()))
    stays = Filter(sparing((), given=(), there=[one]))
    for is_directory in (False, True):
        assert empty.excludes(one + b"/x", is_directory)
        assert not empty.excludes(one, is_directory)
        assert stays.excludes(one, is_directory)
        assert empty.excludes(other, is_directory) == (other.rpartition(b"/")[0] == one)
        assert stays.excludes(other, is_directory) == (other == one)


def test_no_rule_of_the_users_says_otherwise() -> None:
    rules = (b"- x", b"!", b"+ *", b"- y")
    found = sparing(rules, given=[b"src/a"], there=[b"src/b"])
    assert found == (b"- /src/a/*", b"- /src/b", b"+ *", b"- y")
    assert sparing(rules, given=(), there=()) == rules


def test_all_paths_are_from_the_transfers_root_on() -> None:
    part, top = Part(b"src"), manifest({b"a": {b"b": {}}})
    assert given_empty([part], {0: top}, {0: [b"a/b"]}) == [b"src/a/b"]
    assert standing(part, [b"a/b"], manifest({})) == [b"src/a/b"]


@pytest.mark.parametrize(
    ("shape", "met", "found"),
    [
        ({}, [], [b"src/a"]),
        ({b"src": {b"a": b"a file"}}, [], [b"src/a"]),
        ({b"src": {b"a": {}}}, [b"src/a"], [b"src/a"]),
        ({b"src": {b"a": {}}}, [], []),
        ({b"src": {b"a": {}}}, [b"src/a/more"], [b"src/a/more"]),
    ],
)
def test_what_another_source_has_with_all_that_is_in_it_is_not_spared(
    shape: Shape, met: list[bytes], found: list[bytes]
) -> None:
    parts = [Part(b"src"), Part()]
    trees = {0: manifest({b"a": {}}), 1: manifest(shape)}
    assert given_empty(parts, trees, {0: [b"a"], 1: met}) == found


def test_a_source_that_is_a_mount_point_of_another_is_given_whole() -> None:
    trees = {0: manifest({b"a": {}}), 1: manifest({b"x": b"1"})}
    assert given_empty([Part(), Part(b"a")], trees, {0: [b"a"], 1: []}) == []
    assert given_empty([Part(), Part(b"b")], trees, {0: [b"a"], 1: []}) == [b"a"]


def test_a_directory_that_was_asked_for_by_name_may_be_mounted_and_does_not_stay_for_that() -> (
    None
):
    part = Part(names=frozenset((b"a", b"f")), trees=True)
    top = manifest({b"a": {}, b"f": b"1"})
    assert standing(part, [b"a", b"a/b", b"f"], top) == [b"a/b", b"f"]
    assert standing(Part(), [b"a"], top) == [b"a"]


@pytest.mark.parametrize("path", [b"*" * 65, b"x" * MAX_RULE_BYTES])
def test_what_no_rule_can_spare_is_not_deleted_around(path: bytes) -> None:
    for given_paths, there in (([path], []), ([], [path])):
        with pytest.raises(UsageError, match="is mounted, and has no name"):
            sparing((), given=given_paths, there=there)
