"""What a dry run of several sources takes to be there by the time of the next."""

from filesync.manifest import Manifest
from filesync.sync.part import Part
from filesync.sync.plan import Plan
from filesync.sync.planned import Planned
from tests.unit.sync.test_plan import together
from tests.unit.test_overlay import Shape, manifest

WHOLE = Part()
NAMES = Part(names=frozenset((b"a", b"d")))
NOW: Shape = {b"a": b"old", b"d": {b"in": b"old"}}
NEW: Shape = {b"a": b"new", b"b": b"2", b"d": {b"more": b"new"}}


def stored(*shapes: Shape) -> list[Manifest]:
    """Return trees that are all in one store."""
    trees = [manifest(shape) for shape in shapes]
    nodes = together(*trees)
    return [Manifest(tree.tree, nodes) for tree in trees]


def test_as_long_as_nothing_is_planned_it_is_what_is_there_whatever_that_is_called() -> None:
    (now,) = stored({b"called otherwise": b"old"})
    assert Planned(now.nodes).basis(NAMES, now) is now


def test_what_goes_to_another_directory_changes_nothing_in_one() -> None:
    now, nothing = stored(NOW, {})
    planned = Planned(now.nodes)
    planned.note(Part(b"x"), Plan(now, nothing))
    assert planned.basis(Part(b"y"), now).tree == now.tree
    assert planned.is_made_before(WHOLE)
    assert planned.is_made_before(Part(b"x"))
    assert not planned.is_made_before(Part(b"y"))


def test_after_a_whole_directory_it_is_what_was_planned() -> None:
    now, new, nothing, seen = stored(NOW, NEW, {}, {b"a": b"old"})
    planned = Planned(now.nodes)
    planned.note(WHOLE, Plan(now, new))
    assert planned.basis(WHOLE, now).tree == new.tree
    # Of names only these are seen, and what is gone is gone.
    wanted = manifest({b"a": b"new", b"d": {b"more": b"new"}})
    assert planned.basis(NAMES, seen).tree == wanted.tree
    planned.note(WHOLE, Plan(now, nothing))
    assert planned.basis(NAMES, seen).tree == nothing.tree


def test_after_a_whole_directory_those_in_it_are_there() -> None:
    now, new, nothing = stored(NOW, NEW, {})
    planned = Planned(now.nodes)
    planned.note(WHOLE, Plan(now, new))
    assert planned.basis(Part(b"d"), nothing).tree == manifest({b"more": b"new"}).tree
    assert planned.is_made_before(Part(b"d"))
    # A file of that name is no directory, nor is what is not there.
    for name in (b"a", b"c"):
        assert planned.basis(Part(name), nothing).tree == nothing.tree
        assert not planned.is_made_before(Part(name))


def test_a_directory_that_was_planned_is_in_the_one_that_it_stands_in() -> None:
    now, inside = stored(NOW, {b"own": b"1"})
    planned = Planned(now.nodes)
    planned.note(Part(b"d"), Plan(now, inside))
    wanted = manifest({b"a": b"old", b"d": {b"own": b"1"}})
    assert planned.basis(WHOLE, now).tree == wanted.tree


def test_directories_that_are_names_are_there_as_they_were_planned() -> None:
    now, given, before = stored(NOW, {b"a": b"new", b"d": {b"more": b"new"}}, {b"in": b"1"})
    trees = NAMES._replace(trees=True)
    planned = Planned(now.nodes)
    planned.note(Part(b"d"), Plan(now, before))
    assert planned.basis(trees, now).root.find(b"d") == manifest(
        {b"d": {b"in": b"1"}}
    ).root.find(b"d")
    planned.note(trees, Plan(now, given))
    assert planned.basis(WHOLE, now).tree == given.tree
    assert planned.basis(Part(b"d"), now).tree == manifest({b"more": b"new"}).tree


def test_after_names_it_has_these_and_its_directories() -> None:
    now, given = stored(NOW, {b"a": b"new", b"d": {}})
    planned = Planned(now.nodes)
    planned.note(NAMES, Plan(now, given))
    wanted = manifest({b"a": b"new", b"d": {b"in": b"old"}})
    assert planned.basis(WHOLE, now).tree == wanted.tree
