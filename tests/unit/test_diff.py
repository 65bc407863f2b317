"""Diffs of manifests: what they say, what they cost, and that they can be applied."""

import tracemalloc
from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    Expansion,
    File,
    Manifest,
    MemoryNodes,
    Subdirectory,
    Symlink,
    empty_manifest,
    grow,
    put,
    subdirectory,
    with_entries,
)
from filesync.trees.diff import DirectoryDiff, bytes_to_fetch_at_most, diff
from tests.unit.counting_nodes import CountingNodes
from tests.unit.made import file

names = st.sampled_from([b"a", b"b", b"c", b"\xff"])


class Tree(msgspec.Struct):
    header: Directory
    files: dict[bytes, Entry]
    below: dict[bytes, "Tree"]


headers = st.builds(
    Directory,
    st.sampled_from([0o755, 0o700]),
    st.just(0),
    st.just(0),
    st.integers(0, 2),
    st.just(()),
    st.just(()),
)
leaves = st.one_of(
    st.builds(file, names, st.sampled_from([b"", b"x", b"yy", b"zzz"]), st.integers(0, 1)),
    st.builds(
        Symlink, names, st.just(0), st.just(0), st.just(0), st.sampled_from([b"a", b"b"])
    ),
)


def _tree(header: Directory, leaves: list[Entry], below: dict[bytes, Tree]) -> Tree:
    files = {leaf.name: leaf for leaf in leaves if leaf.name not in below}
    return Tree(header, files, below)


flat = st.builds(_tree, headers, st.lists(leaves, max_size=4), st.just({}))
trees = st.recursive(
    flat,
    lambda inner: st.builds(
        _tree,
        headers,
        st.lists(leaves, max_size=4),
        st.dictionaries(names, inner, max_size=3),
    ),
    max_leaves=8,
)


def manifest(nodes: MemoryNodes, tree: Tree) -> Manifest:
    def expand(at: Tree) -> Expansion[Tree]:
        return Expansion(at.header, list(at.files.values()), list(at.below.items()))

    return Manifest(grow(nodes, tree, expand), nodes)


def apply(nodes: MemoryNodes, old: Manifest | None, changes: Iterable[DirectoryDiff]) -> Digest:
    """Return the tree that ``changes`` make of ``old``; ``nodes`` holds what was added."""
    at = {change.path: change for change in changes}

    def expand(path: bytes) -> Expansion[bytes]:
        change = at[path]
        before = Manifest(change.was, nodes).root if change.was is not None else EMPTY_DIRECTORY
        entries = {entry.name: entry for entry in before.entries}
        for entry in change.removed:
            del entries[entry.name]
        for entry in change.added:
            assert entry.name not in entries
            entries[entry.name] = entry
        for was, entry in change.changed:
            assert entries[was.name] == was
            entries[entry.name] = entry
        prefix = path + b"/" if path else b""
        below = [(name, prefix + name) for name in entries if prefix + name in at]
        for name, _ in below:
            del entries[name]
        return Expansion(change.new, list(entries.values()), below)

    return grow(nodes, b"", expand) if at or old is None else old.tree


@given(trees, trees)
def test_applying_the_diff_of_two_trees_to_the_one_gives_the_other(
    old: Tree, new: Tree
) -> None:
    nodes = MemoryNodes()
    before, after = manifest(nodes, old), manifest(nodes, new)
    assert apply(nodes, before, diff(before, after)) == after.tree
    assert apply(nodes, None, diff(None, after)) == after.tree
    assert list(diff(after, after)) == []


@given(trees, trees)
def test_a_diff_lists_exactly_the_names_that_differ(old: Tree, new: Tree) -> None:
    nodes = MemoryNodes()
    before, after = manifest(nodes, old), manifest(nodes, new)
    was, shall = dict(before.walk()), dict(after.walk())
    removed, added, changed = set(), set(), set()
    for one in diff(before, after):
        prefix = one.path + b"/" if one.path else b""
        removed |= {prefix + entry.name for entry in one.removed}
        added |= {prefix + entry.name for entry in one.added}
        changed |= {prefix + entry.name for _, entry in one.changed}

    def is_below(path: bytes, tops: set[bytes]) -> bool:
        return any(path.startswith(top + b"/") for top in tops)

    assert {
        p for p in was.keys() - shall.keys() if not is_below(p, removed | changed)
    } == removed
    assert {p for p in shall.keys() - was.keys() if not is_below(p, added | changed)} == added
    for path in changed:
        assert was[path] != shall[path]
        assert not (
            isinstance(was[path], Subdirectory) and isinstance(shall[path], Subdirectory)
        )


@given(trees, trees)
def test_contents_that_the_basis_lacks_are_never_more_than_the_estimate(
    old: Tree, new: Tree
) -> None:
    nodes = MemoryNodes()
    before, after = manifest(nodes, old), manifest(nodes, new)

    def contents(of: Manifest) -> dict[Digest, int]:
        return {e.digest: e.size for _, e in of.walk() if isinstance(e, File)}

    assert sum(contents(after).values()) <= bytes_to_fetch_at_most(None, after)
    assert bytes_to_fetch_at_most(before, before) == 0
    lacking = contents(after).items() - contents(before).items()
    assert sum(size for _, size in lacking) <= bytes_to_fetch_at_most(before, after)


def wide(nodes: MemoryNodes, data: bytes) -> Manifest:
    """A tree of 100 directories; the content of one file is ``data``."""
    entries: list[Entry] = []
    for number in range(100):
        name = b"%03d" % number
        content = data if number == 50 else name
        below = with_entries(EMPTY_DIRECTORY, [file(b"f", content)])
        entries.append(subdirectory(nodes, name, put(nodes, below)))
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)


def test_only_directories_that_differ_are_read() -> None:
    nodes = CountingNodes()
    old, new = wide(nodes, b"old"), wide(nodes, b"newer")
    nodes.reads = 0
    changes = list(diff(old, new))
    assert nodes.reads == 4
    assert [one.path for one in changes] == [b"", b"050"]
    assert changes[1].changed == ((file(b"f", b"old"), file(b"f", b"newer")),)
    assert bytes_to_fetch_at_most(old, new) == 5


def test_a_diff_of_a_million_entries_reads_what_changed_and_what_is_above_it() -> None:
    nodes = CountingNodes()

    def million(edited: set[int]) -> Manifest:
        """1,000 directories, in groups of 40, of 1,000 files each."""
        plain, other = (
            put(
                nodes,
                with_entries(EMPTY_DIRECTORY, [file(b"%03d" % i, data) for i in range(1000)]),
            )
            for data in (b"old", b"new")
        )
        groups: list[Entry] = []
        for first in range(0, 1000, 40):
            below = [
                subdirectory(nodes, b"%03d" % i, other if i in edited else plain)
                for i in range(first, first + 40)
            ]
            group = put(nodes, with_entries(EMPTY_DIRECTORY, below))
            groups.append(subdirectory(nodes, b"%03d" % first, group))
        return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, groups)), nodes)

    old = million(set())
    assert old.summary.entries == 1_001_025
    new = million(set(range(0, 1000, 100)))
    nodes.reads = 0
    changes = list(diff(old, new))
    assert [one.path for one in changes if one.changed] == [
        b"%03d/%03d" % (i // 40 * 40, i) for i in range(0, 1000, 100)
    ]
    assert len(changes) == 1 + 10 + 10
    assert nodes.reads == 2 * len(changes)
    nodes.reads = 0
    bytes_to_fetch_at_most(old, new)
    assert nodes.reads == 3 * len(changes)


def test_a_moved_directory_costs_nothing_by_the_estimate_and_is_not_entered() -> None:
    nodes = CountingNodes()
    inner = put(nodes, with_entries(EMPTY_DIRECTORY, [file(b"f", b"content")]))
    old = put(nodes, with_entries(EMPTY_DIRECTORY, [subdirectory(nodes, b"a", inner)]))
    new = put(nodes, with_entries(EMPTY_DIRECTORY, [subdirectory(nodes, b"b", inner)]))
    before, after = Manifest(old, nodes), Manifest(new, nodes)
    nodes.reads = 0
    assert bytes_to_fetch_at_most(before, after) == 0
    assert nodes.reads == 3


def test_a_renamed_file_costs_nothing_by_the_estimate_and_all_does_where_nothing_is() -> None:
    nodes = MemoryNodes()

    def holding(name: bytes) -> Manifest:
        return Manifest(
            put(nodes, with_entries(EMPTY_DIRECTORY, [file(name, b"content")])), nodes
        )

    assert bytes_to_fetch_at_most(holding(b"a"), holding(b"b")) == 0
    assert bytes_to_fetch_at_most(None, holding(b"a")) == len(b"content")


def test_a_content_that_the_target_has_twice_counts_once() -> None:
    nodes = MemoryNodes()
    twice = put(
        nodes, with_entries(EMPTY_DIRECTORY, [file(b"a", b"data"), file(b"b", b"data")])
    )
    after = Manifest(twice, nodes)
    assert bytes_to_fetch_at_most(None, after) == 4
    assert bytes_to_fetch_at_most(empty_manifest(nodes), after) == 4


def test_deep_trees_are_diffed_without_recursion() -> None:
    nodes = MemoryNodes()

    def deep(data: bytes) -> Manifest:
        digest = put(nodes, with_entries(EMPTY_DIRECTORY, [file(b"f", data)]))
        for _ in range(2000):
            entry = subdirectory(nodes, b"d", digest)
            digest = put(nodes, with_entries(EMPTY_DIRECTORY, [entry]))
        return Manifest(digest, nodes)

    old, new = deep(b"1"), deep(b"2")
    assert sum(1 for _ in diff(old, new)) == 2001
    assert apply(nodes, old, diff(old, new)) == new.tree


def test_a_walk_through_deep_trees_of_long_names_holds_one_path_of_them() -> None:
    nodes = MemoryNodes()
    depth, name = 1000, b"n" * 255

    def deep(data: bytes) -> Manifest:
        digest = put(nodes, with_entries(EMPTY_DIRECTORY, [file(b"f", data)]))
        for _ in range(depth):
            entry = subdirectory(nodes, name, digest)
            digest = put(nodes, with_entries(EMPTY_DIRECTORY, [entry]))
        return Manifest(digest, nodes)

    old, new = deep(b"1"), deep(b"2")
    path = b"/".join([name] * depth)
    tracemalloc.start()
    try:
        lengths = [len(change.path) for change in diff(old, new)]
        walked = [len(one) for one, _ in new.walk()]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lengths == [max(0, number * 256 - 1) for number in range(depth + 1)]
    assert walked == [*lengths[1:], len(path) + 2]
    assert peak_bytes < 16 * len(path)
