"""Growing trees out of directories that are known from before."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    Expansion,
    File,
    Known,
    Manifest,
    MemoryNodes,
    Subdirectory,
    Summary,
    encode,
    grow,
    growth,
    put,
)
from filesync.manifest.node import decode_trusted

Plan = dict[bytes, "Plan | bytes"]
"""A directory: names with contents, and with directories."""


def a_file(name: bytes, content: bytes) -> File:
    return File(name, 0o644, 0, 0, 0, len(content), digest_of(content))


def files_of(plan: Plan) -> list[Entry]:
    return [a_file(name, what) for name, what in plan.items() if isinstance(what, bytes)]


def dirs_of(plan: Plan) -> list[tuple[bytes, Plan]]:
    return [(name, what) for name, what in plan.items() if isinstance(what, dict)]


class Memory:
    """What ``grow`` made of directories, by their files."""

    def __init__(self) -> None:
        self.known: dict[bytes, Known] = {}
        self.made = 0

    def grow(self, nodes: MemoryNodes, plan: Plan, *, drop_empty: bool = False) -> Digest:
        def expand(at: tuple[bytes, Plan]) -> Expansion[tuple[bytes, Plan]]:
            path, here = at
            entries = files_of(here)
            key = path + encode(Directory(0, 0, 0, 0, (), tuple(entries)))

            def made(known: Known) -> None:
                self.made += 1
                self.known[key] = known

            known = self.known.get(key)
            return Expansion(
                EMPTY_DIRECTORY,
                [] if known else entries,
                [(name, (path + name + b"/", below)) for name, below in dirs_of(here)],
                drop_if_empty=drop_empty,
                known=known,
                made=made,
            )

        return grow(nodes, (b"", plan), expand)


NAMES = st.sampled_from([b"a", b"b", b"c"])
PLANS: st.SearchStrategy[Plan] = st.recursive(
    st.dictionaries(NAMES, st.sampled_from([b"", b"x"]), max_size=2),
    lambda below: st.dictionaries(
        NAMES, st.one_of(below, st.sampled_from([b"", b"x"])), max_size=3
    ),
    max_leaves=8,
)


@given(st.lists(PLANS, min_size=1, max_size=4), st.booleans())
def test_what_is_known_never_shows_in_the_tree(plans: list[Plan], drop_empty: bool) -> None:
    memory = Memory()
    for plan in plans:
        nodes = MemoryNodes()
        tree = memory.grow(nodes, plan, drop_empty=drop_empty)
        assert tree == Memory().grow(MemoryNodes(), plan, drop_empty=drop_empty)
        assert nodes.summary(tree).entries == sum(1 for _ in Manifest(tree, nodes).walk())


@given(PLANS)
def test_a_tree_that_is_known_is_not_made_again(plan: Plan) -> None:
    memory = Memory()
    tree = memory.grow(MemoryNodes(), plan)
    memory.made = 0
    assert memory.grow(MemoryNodes(), plan) == tree
    assert memory.made == 0


def test_a_directory_that_is_known_and_empty_is_dropped_where_that_is_asked() -> None:
    summary = MemoryNodes()
    empty = put(summary, EMPTY_DIRECTORY)
    known = Known(empty, encode(EMPTY_DIRECTORY), summary.summary(empty), ())

    def expand(path: bytes) -> Expansion[bytes]:
        if path:
            return Expansion(EMPTY_DIRECTORY, [], [], drop_if_empty=True, known=known)
        return Expansion(EMPTY_DIRECTORY, [], [(b"d", b"d")])

    assert grow(MemoryNodes(), b"", expand) == empty


def test_a_change_deep_down_is_made_there_and_above(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, nodes = Memory(), MemoryNodes()
    plan: Plan = {b"a": {b"b": {b"f": b"1"}, b"c": {b"f": b"1"}}, b"d": {b"f": b"1"}}
    memory.grow(nodes, plan)
    memory.made = 0
    decoded: list[bytes] = []
    real = decode_trusted

    def decode(data: bytes) -> Directory:
        decoded.append(data)
        return real(data)

    monkeypatch.setattr(growth, "decode_trusted", decode)
    plan[b"a"] = {b"b": {b"f": b"2"}, b"c": {b"f": b"1"}}
    memory.grow(nodes, plan)
    assert memory.made == 3
    assert len(decoded) == 2  # a and the root: b is new altogether


def test_made_is_told_the_directory_and_what_is_below_it() -> None:
    nodes = MemoryNodes()
    told: list[Known] = []

    def expand(path: bytes) -> Expansion[bytes]:
        below = [(b"z", b"z"), (b"a", b"a")] if not path else []
        return Expansion(EMPTY_DIRECTORY, [a_file(b"f", path)], below, made=told.append)

    tree = grow(nodes, b"", expand)
    assert [known.tree for known in told] == [*(tree for _, tree in told[2].below), tree]
    assert [name for name, _ in told[2].below] == [b"a", b"z"]
    for known in told:
        assert (known.data, known.summary) == (
            nodes.read(known.tree),
            nodes.summary(known.tree),
        )


def test_a_store_of_nodes_gives_back_the_summary_that_it_was_given() -> None:
    nodes = MemoryNodes()
    summary = Summary(digest_of(b"content"), (1 << 63) - 1, (1 << 63) - 1, 3, 4000)
    nodes.write(digest_of(b"node"), b"node", summary)
    assert nodes.summary(digest_of(b"node")) == summary
    assert nodes.read(digest_of(b"node")) == b"node"


def entries_below(manifest: Manifest) -> Iterator[Entry]:
    return (entry for _, entry in manifest.walk())


def test_a_subdirectorys_entry_says_what_is_in_it() -> None:
    nodes = MemoryNodes()
    tree = Memory().grow(nodes, {b"a": {b"b": {b"f": b"xyz"}, b"g": b"1"}})
    found = {e.name: e for e in entries_below(Manifest(tree, nodes))}
    top = found[b"a"]
    assert isinstance(top, Subdirectory)
    assert (top.entries, top.size) == (3, 4)
