import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from filesync.digest import digest_of
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    Expansion,
    File,
    Manifest,
    MemoryNodes,
    canonical_links,
    empty_manifest,
    group_name,
    grow,
    growth,
    link_groups,
    put,
    subdirectory,
    with_entries,
)
from filesync.trees.overlay import overlay, with_root_of
from tests.unit.made import file

Shape = dict[bytes, "Shape | bytes"]
"""A directory: names, and what they have: a directory, or a file's content."""


def manifest(shape: Shape, mode: int = 0o755) -> Manifest:
    nodes = MemoryNodes()
    header = replace(EMPTY_DIRECTORY, mode=mode, uid=0, gid=0, mtime_ns=0)

    def expand(at: Shape) -> Expansion[Shape]:
        entries: list[Entry] = []
        children: list[tuple[bytes, Shape]] = []
        for name, what in at.items():
            if isinstance(what, bytes):
                entries.append(File(name, 0o644, 0, 0, 0, len(what), digest_of(what)))
            else:
                children.append((name, what))
        return Expansion(header, entries, children)

    return Manifest(grow(nodes, shape, expand), nodes)


def united(base: Shape, top: Shape) -> Shape:
    """What ``overlay`` should give, the slow way."""
    result = dict(base)
    for name, what in top.items():
        below = base.get(name)
        if isinstance(below, dict) and isinstance(what, dict):
            result[name] = united(below, what)
        else:
            result[name] = what
    return result


shapes: st.SearchStrategy[Shape] = st.recursive(
    st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=2), max_size=3),
    lambda below: st.dictionaries(
        st.sampled_from([b"a", b"b", b"c"]), below | st.binary(max_size=2), max_size=3
    ),
    max_leaves=12,
)


@given(shapes, shapes)
def test_an_overlay_has_all_of_the_top_and_the_rest_of_the_base(
    base: Shape, top: Shape
) -> None:
    assert overlay(manifest(base), manifest(top)).tree == manifest(united(base, top)).tree


@given(shapes)
def test_a_tree_over_itself_or_over_nothing_is_itself(shape: Shape) -> None:
    one = manifest(shape)
    assert overlay(one, one).tree == one.tree
    assert overlay(empty_manifest(MemoryNodes()), one).tree == one.tree


def test_directories_that_are_as_the_top_has_them_are_not_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base: Shape = {b"a": {b"x": b"1"}, b"b": {b"x": b"1"}, b"c": b"1"}
    top: Shape = {b"a": {b"x": b"2", b"y": b""}, b"b": {b"x": b"1"}, b"c": b"2", b"d": b"3"}
    trees = manifest(base), manifest(top)
    made: list[Directory] = []
    monkeypatch.setattr(growth, "encode", made.append)
    assert overlay(*trees).tree == trees[1].tree
    assert made == []


def test_a_directorys_own_mode_is_the_tops() -> None:
    united = overlay(manifest({b"x": b""}, mode=0o700), manifest({b"y": b""}, mode=0o750))
    assert united.root.mode == 0o750


def linked(*paths: bytes, content: bytes) -> Manifest:
    nodes = MemoryNodes()
    entries: list[Entry] = [
        File(path, 0o644, 0, 0, 0, 1, digest_of(content), group_name(paths[0]))
        for path in paths
    ]
    header: Directory = EMPTY_DIRECTORY

    def expand(_: None) -> Expansion[None]:
        return Expansion(header, list(entries), [])

    return Manifest(canonical_links(nodes, grow(nodes, None, expand)), nodes)


def test_two_groups_of_one_name_do_not_become_one() -> None:
    both = overlay(linked(b"a", b"b", b"d", content=b"1"), linked(b"a", b"c", content=b"2"))
    groups = sorted(link_groups(both).values())
    assert groups == [[b"a", b"c"], [b"b", b"d"]]


def test_a_file_that_is_left_alone_in_its_group_has_none() -> None:
    both = overlay(linked(b"a", b"b", content=b"1"), manifest({b"a": b"2"}))
    assert link_groups(both) == {}


def below(name: bytes, tree: Manifest, *beside: File) -> Manifest:
    """Return a tree that has ``tree`` as ``name``, and files."""
    inner = subdirectory(tree.nodes, name, tree.tree)
    root = put(tree.nodes, with_entries(EMPTY_DIRECTORY, [inner, *beside]))
    return Manifest(canonical_links(tree.nodes, root), tree.nodes)


def test_two_groups_of_one_name_do_not_become_one_further_down_either() -> None:
    base = below(b"x", linked(b"a", b"b", b"d", content=b"1"))
    both = overlay(base, below(b"x", linked(b"a", b"c", content=b"2")))
    groups = sorted(link_groups(both).values())
    assert groups == [[b"x/a", b"x/c"], [b"x/b", b"x/d"]]


def test_files_that_are_linked_to_none_stay_so_beside_groups_of_both() -> None:
    alone = [file(b"1", b"one"), file(b"2", b"two")]
    base = below(b"x", linked(b"a", b"b", content=b"1"), *alone)
    both = overlay(base, below(b"y", linked(b"a", b"b", content=b"2")))
    assert [both.root.find(one.name) for one in alone] == alone
    assert sorted(link_groups(both).values()) == [[b"x/a", b"x/b"], [b"y/a", b"y/b"]]


def test_a_tree_with_the_root_of_another_keeps_its_time_and_all_below() -> None:
    tree = manifest({b"a": b"1", b"d": {b"b": b"2"}}, mode=0o755)
    other = manifest({b"c": b"3"}, mode=0o1777)
    other_root = replace(other.root, uid=5, mtime_ns=7)
    other = Manifest(put(other.nodes, other_root), other.nodes)
    made = with_root_of(tree, other)
    assert made.root == replace(tree.root, mode=other_root.mode, uid=5)
    assert made.root.entries == tree.root.entries
    assert made.find(b"d/b") == tree.find(b"d/b")
