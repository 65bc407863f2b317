"""What a sync leaves and removes, against a model of nested dictionaries."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from filesync.errors import FilesyncError, UsageError
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes
from filesync.sync.filter import Filter
from filesync.sync.part import Part, Removal
from filesync.sync.places import LocalPlaces
from filesync.sync.plan import Plan, make_plan
from filesync.sync.rate import parse_rate
from filesync.sync.remote.client import Remote, parse
from filesync.sync.source import close_all, find_sources, is_named
from filesync.sync.unseen import Unseen
from tests.unit.test_overlay import Shape, manifest, shapes, united

rules = st.lists(
    st.sampled_from([b"- a", b"- b/", b"+ c", b"- *", b"- /a/b", b"+ */", b"- a/***", b"!"]),
    max_size=3,
)


def left(
    base: Shape,
    tops: Sequence[Shape],
    filter: Filter,
    spared: frozenset[bytes],
    prefix: bytes = b"",
    *,
    own: Shape | None,
) -> Shape:
    """Return what of ``base`` is not removed; ``own`` is the one of ``tops`` that is given."""
    kept: Shape = {}
    for name, what in base.items():
        path, is_directory = prefix + name, isinstance(what, dict)
        given = [top[name] for top in tops if name in top]
        if filter.excludes(path, is_directory) or (not prefix and name in spared):
            kept[name] = what
        elif isinstance(what, dict):
            below = [one for one in given if isinstance(one, dict)]
            if given and not below and name not in (own or {}):
                kept[name] = what  # for another source to say
                continue
            mine = own.get(name) if own is not None else None
            mine = mine if isinstance(mine, dict) else None
            rest = left(what, below, filter, spared, path + b"/", own=mine)
            if rest or below:
                kept[name] = rest
        elif given:
            kept[name] = what
    return kept


@given(
    shapes, shapes, st.lists(shapes, max_size=2), rules, st.sets(st.sampled_from([b"a", b"b"]))
)
@example({b"a": {b"b": b"1"}}, {}, [{b"a": {}}], [], set())
@example({b"a": b"1"}, {}, [{b"a": b"2"}], [], set())
@example({b"a": {b"b": b"1"}}, {}, [{b"a": b"2"}], [], set())
@example({b"a": {b"b": {b"c": b"1"}}}, {b"a": {}}, [{b"a": {b"b": b"2"}}], [], set())
def test_delete_removes_what_no_source_has_and_no_rule_leaves_alone(
    base: Shape, top: Shape, others: list[Shape], lines: list[bytes], spared: set[bytes]
) -> None:
    filter = Filter(lines)
    there, given, *more = map(manifest, (base, top, *others))
    nodes = together(there, given, *more)
    removal = Removal(filter, [Manifest(one.tree, nodes) for one in more], frozenset(spared))
    plan = make_plan(
        Manifest(there.tree, nodes), Manifest(given.tree, nodes), nodes, removal=removal
    )
    kept = left(base, [top, *others], filter, frozenset(spared), own=top)
    without, left_out = fitting(kept, top, is_cleared=bool(lines or others or spared))
    assert plan.target.tree == manifest(united(kept, without)).tree
    assert sorted(plan.left_out) == sorted(left_out)


@given(shapes, shapes)
@example({b"a": {b"b": b"1"}}, {b"a": b"2"})
def test_without_delete_nothing_is_removed(base: Shape, top: Shape) -> None:
    there, given = manifest(base), manifest(top)
    nodes = together(there, given)
    plan = make_plan(Manifest(there.tree, nodes), Manifest(given.tree, nodes), nodes)
    without, left_out = fitting(base, top, is_cleared=False)
    assert plan.target.tree == manifest(united(base, without)).tree
    assert sorted(plan.left_out) == sorted(left_out)


def fitting(
    base: Shape, top: Shape, *, is_cleared: bool, prefix: bytes = b""
) -> tuple[Shape, list[bytes]]:
    """Return what of ``top`` meets no directory that stays, and the paths of the rest."""
    kept: Shape = {}
    left_out: list[bytes] = []
    for name, what in top.items():
        below = base.get(name)
        if isinstance(what, dict) and isinstance(below, dict):
            at = prefix + name + b"/"
            kept[name], more = fitting(below, what, is_cleared=is_cleared, prefix=at)
            left_out += more
        elif isinstance(below, dict) and not isinstance(what, dict) and (below or is_cleared):
            left_out.append(prefix + name)
        else:
            kept[name] = what
    return kept, left_out


names = st.frozensets(st.sampled_from([b"a", b"b", b"c"]), min_size=1)


@given(shapes, shapes, names, st.none() | st.sampled_from([b"a", b"d"]))
@example({b"b": b"1"}, {b"a": b"2"}, frozenset(), b"d")
@example({b"b": b"1"}, {b"a": b"2", b"c": b"3"}, frozenset(), b"d")
@example({b"b": b"1"}, {b"a": b"2", b"c": b"3"}, frozenset((b"a",)), None)
def test_names_that_were_announced_are_all_that_changes(
    base: Shape, top: Shape, announced: frozenset[bytes], rename: bytes | None
) -> None:
    there, given = manifest(base), manifest(top)
    nodes = together(there, given)
    if rename is not None:
        announced = frozenset((rename,))
    renamed = {rename: next(iter(top.values()))} if rename is not None and top else top
    try:
        plan = make_plan(
            Manifest(there.tree, nodes),
            Manifest(given.tree, nodes),
            nodes,
            names=announced,
            rename=rename,
        )
    except UsageError:
        is_one = rename is None or len(top) <= 1
        has_directory = any(isinstance(what, dict) for what in top.values())
        assert has_directory or not is_one or not announced.issuperset(renamed)
    else:
        assert announced.issuperset(renamed)
        assert rename is None or len(top) <= 1
        without, left_out = fitting(base, renamed, is_cleared=False)
        assert plan.target.tree == manifest(base | without).tree
        assert sorted(plan.left_out) == sorted(left_out)


def together(*trees: Manifest) -> LayeredNodes:
    """Return a store that has all the trees."""
    nodes = LayeredNodes(MemoryNodes(), MemoryNodes())
    for tree in trees:
        nodes = LayeredNodes(nodes, tree.nodes)
    return nodes


def plan_of(
    base: Shape,
    top: Shape,
    *,
    names: frozenset[bytes] | None = None,
    trees: bool = False,
    removal: Removal | None = None,
    unseen: Unseen | None = None,
) -> Plan:
    there, given = manifest(base), manifest(top)
    nodes = together(there, given)
    basis, above = Manifest(there.tree, nodes), Manifest(given.tree, nodes)
    return make_plan(
        basis, above, nodes, names=names, trees=trees, removal=removal, unseen=unseen
    )


@given(shapes, shapes, names, st.booleans())
def test_directories_that_are_names_are_united_with_those_that_are_there(
    base: Shape, top: Shape, announced: frozenset[bytes], delete: bool
) -> None:
    top = {name: what for name, what in top.items() if name in announced}
    removal = Removal(Filter(())) if delete else None
    plan = plan_of(base, top, names=announced, trees=True, removal=removal)
    kept = base
    if delete:
        spared = frozenset(base.keys() - top.keys())
        kept = left(base, [top], Filter(()), spared, own=top)
    without, left_out = fitting(kept, top, is_cleared=delete)
    assert plan.target.tree == manifest(united(kept, without)).tree
    assert sorted(plan.left_out) == sorted(left_out)
    assert plan.is_of_names


def test_with_names_delete_removes_only_what_is_in_the_way_of_one_of_them() -> None:
    base: Shape = {b"a": {b"x": b"1"}, b"b": {b"x": b"1"}, b"c": b"2"}
    removal = Removal(Filter(()))
    plan = plan_of(base, {b"a": b"new"}, names=frozenset((b"a",)), removal=removal)
    assert plan.target.tree == manifest(base | {b"a": b"new"}).tree
    assert plan.left_out == ()


def test_delete_leaves_directories_that_lead_to_what_could_not_be_read() -> None:
    removal = Removal(Filter(()), leading=frozenset((b"a", b"a/b")))
    base: Shape = {b"a": {b"b": {b"x": b"1"}, b"c": {}}, b"d": {}}
    assert not removal.is_of_all
    assert plan_of(base, {}, removal=removal).target.tree == manifest({b"a": {b"b": {}}}).tree


class Hidden:
    """What stands in ``directories`` and is seen by no scan, and which of the names are there."""

    def __init__(self, *directories: bytes, full: bytes = b"") -> None:
        self.directories = directories
        self.full = full

    def is_in(self, path: bytes) -> bool:
        return path == self.full

    def is_directory(self, path: bytes) -> bool:
        return path in self.directories


def test_a_directory_that_only_seems_empty_stays_and_one_that_is_makes_way() -> None:
    base: Shape = {b"a": {}, b"b": {}}
    plan = plan_of(base, {b"a": b"1", b"b": b"2"}, unseen=Hidden(full=b"a"))
    assert plan.target.tree == manifest({b"a": {}, b"b": b"2"}).tree
    assert plan.left_out == (b"a",)


def test_a_file_does_not_come_where_a_directory_stands_that_the_scan_left_out() -> None:
    plan = plan_of({b"b": b"old"}, {b"a": b"1", b"b": b"2"}, unseen=Hidden(b"a", b"b"))
    assert plan.target.tree == manifest({b"b": b"2"}).tree
    assert plan.left_out == (b"a",)


# --- what the words on the command line mean --------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for path in ("a/b/f", "a/f", "f", "c/d/f"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


some_paths = st.lists(
    st.sampled_from([b"a", b"a/", b"a/b", b"a/f", b"f", b".", b"a/..", b"./a//b/", b"c/d/f"]),
    min_size=1,
    max_size=4,
)


@given(some_paths)
@example([b"a/f", b"f", b"c/d/f"])
def test_what_a_server_finds_is_what_a_client_lets_it_give(
    tree: Path, paths: list[bytes]
) -> None:
    full = [os.fsencode(tree) + b"/" + path for path in paths]
    found = find_sources(LocalPlaces(), full, Filter(())).found
    assert len(found) <= len(paths)
    for source in found:
        assert is_named(source.part, paths)
        assert not is_named(source.part._replace(inside=b"other"), paths)
        assert not is_named(Part(b"", frozenset((b"other",))), paths)
    close_all(found)


@given(st.text(max_size=20))
@example("9" * 400)
@example("tcp://x:1/\udc80")
def test_any_words_are_a_rate_and_a_place_or_refused(text: str) -> None:
    for read in (parse_rate, parse):
        try:
            found = read(text)
        except FilesyncError:
            continue
        assert isinstance(found, int | bytes | Remote)
