"""What a dry run of several sources takes to be there by the time of the next."""

from filesync.sync.part import Part
from filesync.sync.plan import Plan
from filesync.sync.planned import Planned
from tests.unit.test_overlay import manifest

WHOLE = Part()
NAMES = Part(names=frozenset((b"a", b"d")))
NOW = manifest({b"a": b"old", b"d": {b"in": b"old"}})


def test_what_goes_elsewhere_changes_nothing() -> None:
    planned = Planned()
    planned.note(Part(b"x"), Plan(NOW, manifest({})))
    assert planned.basis(WHOLE, NOW) is NOW
    assert planned.is_made_before(WHOLE)
    assert not planned.is_made_before(Part(b"y"))


def test_after_a_whole_directory_it_is_what_was_planned() -> None:
    planned = Planned()
    planned.note(WHOLE, Plan(NOW, manifest({b"a": b"new", b"b": b"2", b"d": {}})))
    assert planned.basis(WHOLE, NOW).root.find(b"b") is not None
    # Of names directories are not seen, and what is gone is gone.
    found = planned.basis(NAMES, manifest({b"a": b"old"}))
    assert found.tree == manifest({b"a": b"new"}).tree
    planned.note(WHOLE, Plan(NOW, manifest({})))
    assert planned.basis(NAMES, manifest({b"a": b"old"})).tree == manifest({}).tree


def test_after_names_it_has_these_and_its_directories() -> None:
    planned = Planned()
    planned.note(NAMES, Plan(manifest({}), manifest({b"a": b"new"})))
    wanted = manifest({b"a": b"new", b"d": {b"in": b"old"}})
    assert planned.basis(WHOLE, NOW).tree == wanted.tree
