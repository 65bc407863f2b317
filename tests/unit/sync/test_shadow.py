"""What of one source stands behind others, against a model of nested dictionaries."""

from hypothesis import given

from filesync.manifest import File, Manifest
from filesync.overlay import overlay
from filesync.sync.part import Part
from filesync.sync.shadow import shadowing, unshadowed
from tests.unit.sync.test_plan import together
from tests.unit.test_overlay import Shape, manifest, shapes


@given(shapes, shapes, shapes)
def test_each_name_is_given_once_by_the_first_that_has_it_or_has_it_as_a_directory(
    one: Shape, two: Shape, three: Shape
) -> None:
    trees = [manifest(one), manifest(two), manifest(three)]
    nodes = together(*trees)
    tops = {number: Manifest(tree.tree, nodes) for number, tree in enumerate(trees)}
    first, second, third = (unshadowed([Part()] * 3, at, tops, nodes) for at in range(3))
    assert overlay(overlay(third, second), first).tree == manifest(merged(one, two, three)).tree
    given = [path for tree in (first, second, third) for path in files(tree)]
    assert len(given) == len(set(given))


def test_the_first_ones_modes_stand() -> None:
    trees = [manifest({b"a": b"1"}, mode=0o750), manifest({b"b": b"2"}, mode=0o705)]
    nodes = together(*trees)
    tops = {number: Manifest(tree.tree, nodes) for number, tree in enumerate(trees)}
    parts = [Part(), Part()]
    assert unshadowed(parts, 1, tops, nodes).root.mode == 0o750
    of_names = [Part(names=frozenset((b"a",))), Part()]
    assert unshadowed(of_names, 1, tops, nodes).root.mode == 0o705


def test_only_parts_of_one_directory_shadow_each_other() -> None:
    names = Part(names=frozenset((b"a",)))
    parts = [names, names, Part(), Part(b"x"), Part(b"y"), Part(b"x"), names]
    found = [shadowing(parts, at) for at in range(len(parts))]
    assert found == [[2], [2], [0, 1, 6], [5], [], [3], [2]]


def merged(*given: Shape) -> Shape:
    """Return what all have: of one name directories together, else what the first has."""
    found: Shape = {}
    for name in {name for one in given for name in one}:
        below = [one[name] for one in given if name in one]
        directories = [one for one in below if isinstance(one, dict)]
        found[name] = merged(*directories) if directories else below[0]
    return found


def files(tree: Manifest) -> list[bytes]:
    return [path for path, entry in tree.walk() if isinstance(entry, File)]
