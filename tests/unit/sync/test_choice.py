"""What of a source comes, by what is there, against a model of nested dictionaries."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Symlink,
    canonical_links,
    link_groups,
    put,
    subdirectory,
    with_entries,
)
from filesync.sync.choice import choose
from filesync.sync.filter import Filter
from filesync.sync.options import Choice
from filesync.sync.part import Removal
from filesync.sync.plan import make_plan
from filesync.trees.overlay import overlay
from tests.unit.made import file
from tests.unit.sync.test_plan import together
from tests.unit.test_overlay import Shape, linked, manifest, shapes, united

EXISTING, NEW, NO_OLDER = (
    Choice(only_existing=True),
    Choice(only_new=True),
    Choice(False, False, True),
)
choices = st.builds(Choice, st.booleans(), st.booleans(), st.booleans())


def comes(choice: Choice, base: Shape | bytes | None, top: Shape) -> Shape:
    """Return what of ``top`` comes; all files are of one age."""
    below = base if isinstance(base, dict) else {}
    kept: Shape = {}
    for name, what in top.items():
        there = below.get(name)
        are_directories = isinstance(what, dict) and isinstance(there, dict)
        if there is None and choice.only_existing:
            continue
        if there is not None and choice.only_new and not are_directories:
            continue
        kept[name] = comes(choice, there, what) if isinstance(what, dict) else what
    return kept


@given(choices, shapes, shapes)
@example(EXISTING, {b"a": b"1"}, {b"a": {b"b": b"2"}})
@example(NEW, {b"a": {b"b": b"1"}}, {b"a": b"2", b"c": b"3"})
def test_what_comes_is_what_the_choice_takes_of_each_name(
    choice: Choice, base: Shape, top: Shape
) -> None:
    there, above = manifest(base), manifest(top)
    nodes = together(there, above)
    chosen = choose(
        choice, Manifest(there.tree, nodes), Manifest(above.tree, nodes), None, nodes
    )
    made = overlay(Manifest(there.tree, nodes), chosen.given, nodes=nodes)
    assert made.tree == manifest(united(base, comes(choice, base, top))).tree
    assert chosen.removal is None


def left(choice: Choice, base: Shape, top: Shape) -> Shape:
    """Return what of ``base`` ``--delete`` does not remove."""
    kept: Shape = {}
    for name, what in base.items():
        given = top.get(name)
        if isinstance(what, dict) and isinstance(given, dict):
            kept[name] = left(choice, what, given)
        elif isinstance(what, dict) and given is not None and not choice.only_new:
            continue  # it makes way
        elif given is not None:
            kept[name] = what
    return kept


@given(choices, shapes, shapes)
@example(NEW, {b"a": {b"b": b"1"}}, {b"a": b"2"})
@example(NO_OLDER, {b"a": b"1", b"b": b"1"}, {b"a": b"2"})
def test_delete_removes_nothing_that_stands_where_something_does_not_come(
    choice: Choice, base: Shape, top: Shape
) -> None:
    there, above = manifest(base), manifest(top)
    nodes = together(there, above)
    basis = Manifest(there.tree, nodes)
    given, removal = choose(
        choice, basis, Manifest(above.tree, nodes), Removal(Filter(())), nodes
    )
    plan = make_plan(basis, given, nodes, removal=removal)
    wanted = united(left(choice, base, top), comes(choice, base, top))
    assert plan.target.tree == manifest(wanted).tree
    assert plan.left_out == ()


def of(*entries: Entry) -> tuple[Manifest, MemoryNodes]:
    nodes = MemoryNodes()
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes), nodes


@pytest.mark.parametrize(("later_ns", "stays"), [(-1, False), (0, False), (1, True)])
def test_a_file_stays_that_is_newer_be_it_by_a_nanosecond(later_ns: int, stays: bool) -> None:
    new = replace(file(b"a", b"new"), mtime_ns=10**18)
    basis, _ = of(replace(file(b"a", b"old"), mtime_ns=10**18 + later_ns))
    given, nodes = of(new)
    chosen = choose(NO_OLDER, basis, given, None, nodes)
    assert chosen.given.root.entries == (() if stays else (new,))


def test_a_link_comes_in_place_of_a_newer_link_or_file() -> None:
    link = Symlink(b"a", 0, 0, 0, b"x")
    for old in (replace(link, mtime_ns=5, target=b"y"), replace(file(b"a", b"y"), mtime_ns=5)):
        basis, _ = of(old)
        given, nodes = of(link)
        assert choose(NO_OLDER, basis, given, None, nodes).given.root.entries == (link,)


def test_the_one_name_that_gets_another_is_looked_for_under_that() -> None:
    basis, _ = of(file(b"b", b"old"))
    given, nodes = of(file(b"a", b"new"))
    for choice, number in ((EXISTING, 1), (NEW, 0)):
        chosen = choose(choice, basis, given, None, nodes, rename=b"b")
        assert len(chosen.given.root.entries) == number


def test_names_that_come_of_a_linked_file_are_linked_to_each_other_alone() -> None:
    given = linked(b"a", b"b", b"c", content=b"1")
    there, _ = of(file(b"a", b"2"))
    nodes = together(there, given)
    chosen = choose(NEW, Manifest(there.tree, nodes), Manifest(given.tree, nodes), None, nodes)
    assert list(link_groups(chosen.given).values()) == [[b"b", b"c"]]
    there, _ = of(file(b"a", b"2"), file(b"b", b"2"))
    nodes = together(there, given)
    chosen = choose(NEW, Manifest(there.tree, nodes), Manifest(given.tree, nodes), None, nodes)
    (entry,) = chosen.given.root.entries
    assert isinstance(entry, File)
    assert not entry.link


@pytest.mark.parametrize("removal", [None, Removal(Filter(()))])
def test_what_is_there_stays_linked_to_what_is_in_other_directories(
    removal: Removal | None,
) -> None:
    nodes = MemoryNodes()
    inner, outer = linked(b"a", b"b", content=b"1").root.entries
    below = put(nodes, with_entries(EMPTY_DIRECTORY, (inner,)))
    entries = (subdirectory(nodes, b"a", below), outer)
    tree = canonical_links(nodes, put(nodes, with_entries(EMPTY_DIRECTORY, entries)))
    basis = Manifest(tree, nodes)
    given = Manifest(put(nodes, replace(basis.root, mtime_ns=7)), nodes)
    chosen = choose(NEW, basis, given, removal, nodes)
    plan = make_plan(basis, chosen.given, nodes, removal=chosen.removal)
    assert plan.target.tree == given.tree


def test_without_a_choice_nothing_is_looked_at() -> None:
    basis, given = manifest({b"a": b"1"}), manifest({b"a": b"2"})
    assert choose(Choice(), basis, given, None, MemoryNodes()).given is given
