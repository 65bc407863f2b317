"""When a layer comes as its blob, and when as what it is made of."""

from collections.abc import Iterator

import pytest

from filesync.digest import Digest, digest_of
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    Manifest,
    MemoryNodes,
    put,
    subdirectory,
    with_entries,
)
from tests.unit.made import file
from worker.layers.way import Way, choose_trees, is_worth_a_look, way_of

MB = 1_000_000


@pytest.mark.parametrize(
    ("blob", "found", "way"),
    [
        (50 * MB, 0, Way.BLOB),
        (50 * MB, 20 * MB, Way.BLOB),
        (50 * MB, 40 * MB, Way.PARTS),
        (50 * MB, 100 * MB, Way.PARTS),
        (120 * MB, 0, Way.BLOB),
        (None, 0, Way.PARTS),
    ],
)
def test_parts_come_where_they_save_a_good_share_of_the_blob(
    blob: int | None, found: int, way: Way
) -> None:
    asked = way_of(
        blob_bytes=blob,
        skeleton_bytes=MB,
        wanted_bytes=100 * MB,
        lacking_bytes=100 * MB - found,
    )
    assert asked is way


def test_a_layer_of_headers_alone_comes_as_its_blob() -> None:
    assert way_of(blob_bytes=MB, skeleton_bytes=MB, wanted_bytes=0, lacking_bytes=0) is Way.BLOB


def test_a_skeleton_is_looked_at_only_where_it_can_save_much() -> None:
    assert is_worth_a_look(50 * MB, MB)
    assert not is_worth_a_look(100_000, 1_000)
    assert not is_worth_a_look(50 * MB, 20 * MB)
    assert is_worth_a_look(None, 20 * MB)


NODES = MemoryNodes()


def tree(*entries: Entry) -> Manifest:
    return Manifest(put(NODES, with_entries(EMPTY_DIRECTORY, entries)), NODES)


def below(name: bytes, manifest: Manifest) -> Entry:
    return subdirectory(NODES, name, manifest.tree)


def wanted(*contents: bytes) -> dict[Digest, int]:
    return {digest_of(one): len(one) for one in contents}


def test_only_trees_that_add_something_are_chosen() -> None:
    first = tree(file(b"x", b"one"), below(b"d", tree(file(b"y", b"three"))))
    same = tree(file(b"elsewhere", b"one"))
    other = tree(below(b"e", tree(file(b"z", b"seven"))))
    nothing = tree(file(b"x", b"what nobody wants"))
    need = wanted(b"one", b"three", b"seven", b"eleven")
    choice = choose_trees(need, [nothing, first, same, other])
    assert choice.trees == (1, 3)
    assert choice.lacking == wanted(b"eleven")


def test_the_search_ends_when_all_is_found() -> None:
    def candidates() -> Iterator[Manifest]:
        yield tree(file(b"x", b"one"))
        raise AssertionError("looked further")

    choice = choose_trees(wanted(b"one"), candidates())
    assert choice.trees == (0,)
    assert choice.lacking == {}


def test_a_directory_is_looked_into_once_however_many_trees_have_it() -> None:
    shared = below(b"d", tree(file(b"y", b"three")))
    many = [tree(file(b"x", b"%d" % number), shared) for number in range(5)]
    assert choose_trees(wanted(b"three", b"4"), many).trees == (0, 4)
