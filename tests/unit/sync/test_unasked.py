"""What a server was told to leave out, and gives, against trees without it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import MalformedManifest, UnexpectedMessage
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Manifest,
    MemoryNodes,
    Subdirectory,
    put,
    subdirectory,
    with_entries,
)
from filesync.sync.filter import Filter
from filesync.sync.manifests.filtered import without
from filesync.sync.remote import unasked
from filesync.sync.remote.unasked import Unasked
from tests.unit.sync.test_plan import together
from tests.unit.test_overlay import Shape, manifest, shapes

RULES = (b"- a", b"- /a", b"- /a/b", b"- b/", b"- /a/**", b"+ /a", b"+ */", b"- *", b"!")
some_rules = st.lists(st.sampled_from(RULES), max_size=4)


def directories(top: Manifest) -> list[bytes]:
    """Return those of a tree, each after those in it."""
    found = [path for path, entry in top.walk() if isinstance(entry, Subdirectory)]
    return [*reversed(found), b""]


@given(shapes, shapes, some_rules)
def test_it_is_refused_where_it_would_change_what_is_there(
    old: Shape, new: Shape, rules: list[bytes]
) -> None:
    top, there = manifest(new), manifest(old)
    nodes = together(top, there)
    top, there = Manifest(top.tree, nodes), Manifest(there.tree, nodes)
    filter = Filter(rules)
    kept = {path for path, _ in without(top, filter).walk()}
    would_change = {
        path for path, entry in top.walk() if path not in kept and there.find(path) != entry
    }
    if not would_change:
        Unasked(filter).refuse_new(there, top)
        return
    with pytest.raises(UnexpectedMessage):
        Unasked(filter).refuse_new(there, top)


@pytest.mark.parametrize("path", [b"d/" * 200_000 + b"d", b"d" * 200_000, b"d//d", b"../d"])
def test_a_path_that_no_directory_has_is_not_looked_at(path: bytes) -> None:
    """All that leads to it would be, which takes the square of its length."""
    with pytest.raises(MalformedManifest):
        Unasked(Filter([b"x"])).refuse_in(path, EMPTY_DIRECTORY)


def test_no_more_is_looked_through_than_an_update_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few nodes may stand for millions of directories, each of which has a path of its own."""
    nodes = MemoryNodes()
    there = tree = put(nodes, EMPTY_DIRECTORY)
    for _ in range(8):
        halves = [subdirectory(nodes, name, tree) for name in (b"a", b"b")]
        tree = put(nodes, with_entries(EMPTY_DIRECTORY, halves))
    given, filter = (Manifest(there, nodes), Manifest(tree, nodes)), Filter([b"x"])
    monkeypatch.setattr(unasked, "MAX_PATH_BYTES", 6660)
    Unasked(filter).refuse_new(*given)
    monkeypatch.setattr(unasked, "MAX_PATH_BYTES", 6659)
    with pytest.raises(MalformedManifest):
        Unasked(filter).refuse_new(*given)


@given(shapes, some_rules)
def test_it_is_refused_in_directories_that_come_one_by_one(
    new: Shape, rules: list[bytes]
) -> None:
    top, filter = manifest(new), Filter(rules)
    looking = Unasked(filter)
    kept = {path for path, _ in without(top, filter).walk()}
    for path in directories(top):
        directory = top.find_directory(path)
        assert directory is not None
        names = {path + b"/" * bool(path) + entry.name for entry in directory.entries}
        if (not path or path in kept) and names <= kept:
            looking.refuse_in(path, directory)
        else:
            with pytest.raises(UnexpectedMessage):
                looking.refuse_in(path, directory)
            return
