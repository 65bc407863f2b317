"""What of one source stands behind others, against a model of nested dictionaries."""

from hypothesis import given
from hypothesis import strategies as st

from filesync.manifest import (
    EMPTY_DIRECTORY,
    File,
    Manifest,
    put,
    subdirectory,
    with_entries,
)
from filesync.sync.part import Part, Parts
from filesync.sync.shadow import removal_of, shadowing, stands_alone, unshadowed
from filesync.trees.overlay import overlay
from tests.unit.sync.test_plan import together
from tests.unit.test_overlay import Shape, manifest, shapes


@given(shapes, shapes, shapes)
def test_each_name_is_given_once_by_the_first_that_has_it_or_has_it_as_a_directory(
    one: Shape, two: Shape, three: Shape
) -> None:
    trees = [manifest(one), manifest(two), manifest(three)]
    nodes = together(*trees)
    tops = {number: Manifest(tree.tree, nodes) for number, tree in enumerate(trees)}
    first, second, third = (unshadowed(Parts([Part()] * 3), at, tops, nodes) for at in range(3))
    assert overlay(overlay(third, second), first).tree == manifest(merged(one, two, three)).tree
    given = [path for tree in (first, second, third) for path in files(tree)]
    assert len(given) == len(set(given))


def test_the_first_ones_modes_stand() -> None:
    trees = [manifest({b"a": b"1"}, mode=0o750), manifest({b"b": b"2"}, mode=0o705)]
    nodes = together(*trees)
    tops = {number: Manifest(tree.tree, nodes) for number, tree in enumerate(trees)}
    parts = Parts([Part(), Part()])
    assert unshadowed(parts, 1, tops, nodes).root.mode == 0o750
    of_names = Parts([Part(names=frozenset((b"a",))), Part()])
    assert unshadowed(of_names, 1, tops, nodes).root.mode == 0o705


def test_only_parts_that_may_have_a_name_in_common_shadow_each_other() -> None:
    names = Part(names=frozenset((b"a",)))
    parts = Parts([names, names, Part(), Part(b"x"), Part(b"y"), Part(b"x"), Part(b"a")])
    found = [shadowing(parts, at) for at in range(len(parts))]
    assert found == [[2, 6], [2, 6], [0, 1, 3, 4, 5, 6], [2, 5], [2], [2, 3], [0, 1, 2]]


@given(
    st.lists(
        st.sampled_from(
            [
                Part(),
                *(Part(name) for name in (b"a", b"b", b"c")),
                Part(names=frozenset((b"a", b"n"))),
            ]
        ),
        min_size=1,
        max_size=8,
    )
)
def test_parts_that_are_not_near_each_other_have_no_name_in_common(found: list[Part]) -> None:
    parts = Parts(found)
    for at, part in enumerate(parts):
        near = list(parts.near(at))
        assert near == sorted(near)
        assert at in near
        for number in set(range(len(parts))) - set(near):
            assert part.inside
            assert parts[number].inside not in (b"", part.inside)


def test_a_part_stands_alone_where_no_other_part_is_to_know_of_it() -> None:
    of_names, one, other = Part(names=frozenset((b"f",))), Part(b"a"), Part(b"b")
    with_trees = Part(names=frozenset((b"a", b"f")), trees=True)
    for delete in (False, True):
        assert stands_alone(Parts([Part()]), 0, delete=delete)
        assert stands_alone(Parts([with_trees]), 0, delete=delete)
        assert not stands_alone(Parts([with_trees, one]), 0, delete=delete)
        assert stands_alone(Parts([with_trees, other]), 0, delete=delete) != delete
        assert stands_alone(Parts([of_names]), 0, delete=delete)
        assert not stands_alone(Parts([Part(), one]), 0, delete=delete)
    assert stands_alone(Parts([one, other]), 0, delete=False)
    assert not stands_alone(Parts([one, other]), 0, delete=True)


@given(shapes, shapes, shapes, st.permutations(range(3)), st.booleans())
def test_a_directory_that_comes_to_stand_in_the_destination_is_one_of_the_names_there(
    whole: Shape, inside: Shape, names: Shape, order: list[int], are_trees: bool
) -> None:
    files_only: Shape = {name: what for name, what in names.items() if isinstance(what, bytes)}
    kinds: list[tuple[Part, Shape, Shape]] = [
        (Part(), whole, whole),
        (Part(b"b"), inside, {b"b": inside}),
        (Part(names=frozenset(files_only)), files_only, files_only),
    ]
    if are_trees:
        kinds[2] = (Part(names=frozenset(names), trees=True), names, names)
    kinds = [kinds[number] for number in order]
    trees = [manifest(shape) for _, shape, _ in kinds]
    nodes = together(*trees)
    tops = {number: Manifest(tree.tree, nodes) for number, tree in enumerate(trees)}
    parts = Parts(part for part, _, _ in kinds)
    found: list[Manifest] = []
    for at, part in enumerate(parts):
        top = unshadowed(parts, at, tops, nodes)
        if part.inside:
            entry = subdirectory(nodes, part.inside, top.tree)
            top = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, (entry,))), nodes)
        found.append(top)
    all_of_them = overlay(overlay(found[2], found[1]), found[0])
    assert (
        all_of_them.root.entries == manifest(merged(*(one for *_, one in kinds))).root.entries
    )
    given = [path for tree in found for path in files(tree)]
    assert len(given) == len(set(given))


def test_delete_leaves_in_a_directory_what_another_source_has_in_it() -> None:
    whole = manifest({b"x": {b"kept": b""}, b"y": b""})
    inside = manifest({b"own": b""})
    nodes = together(whole, inside)
    parts = Parts([Part(), Part(b"x"), Part(b"z"), Part(names=frozenset((b"n",)))])
    tops = {0: Manifest(whole.tree, nodes), 1: Manifest(inside.tree, nodes)}
    tops |= {2: tops[1], 3: tops[1]}
    (other,) = removal_of(parts, 1, tops[1], tops, (), nodes).others
    assert other.tree == manifest({b"kept": b""}).tree
    removal = removal_of(parts, 0, tops[0], tops, (), nodes)
    assert removal.spared == {b"z", b"n"}
    (other,) = removal.others  # in the directory that is of both, what neither has goes
    assert other.tree == manifest({b"x": {b"own": b""}}).tree
    assert removal_of(parts, 2, tops[2], tops, (), nodes).is_of_all


def test_delete_leaves_in_directories_that_are_names_what_another_source_has_in_them() -> None:
    whole = manifest({b"x": {b"kept": b""}, b"y": b""})
    names = manifest({b"x": {b"own": b""}, b"z": {b"in": b""}})
    inside = manifest({b"too": b""})
    nodes = together(whole, names, inside)
    parts = Parts([Part(), Part(names=frozenset((b"x", b"z")), trees=True), Part(b"x")])
    tops = {at: Manifest(one.tree, nodes) for at, one in enumerate((whole, names, inside))}
    of_names = removal_of(parts, 1, tops[1], tops, (), nodes)
    assert [one.tree for one in of_names.others] == [
        whole.tree,
        manifest({b"x": {b"too": b""}}).tree,
    ]
    of_whole = removal_of(parts, 0, tops[0], tops, (), nodes)
    assert names.tree in [one.tree for one in of_whole.others]
    assert not of_whole.spared
    of_inside = removal_of(parts, 2, tops[2], tops, (), nodes)
    assert [one.tree for one in of_inside.others] == [
        manifest({b"kept": b""}).tree,
        manifest({b"own": b""}).tree,
    ]


def test_the_mode_of_a_directory_that_is_a_name_stands_before_those_of_later_ones() -> None:
    trees = [manifest({b"x": {b"a": b""}, b"y": {}}, mode=0o750), manifest({}, mode=0o705)]
    nodes = together(*trees)
    tops = {number: Manifest(tree.tree, nodes) for number, tree in enumerate(trees)}
    parts = Parts([Part(names=frozenset((b"x", b"y")), trees=True), Part(b"x")])
    assert unshadowed(parts, 1, tops, nodes).root.mode == 0o750


def test_delete_clears_the_place_of_a_name_that_stands_before_another_sources() -> None:
    whole = manifest({b"file": b"1", b"directory": {b"in": b"1"}})
    names = manifest({b"file": b"2", b"directory": b"2", b"other": b"2"})
    nodes = together(whole, names)
    parts = Parts([Part(), Part(names=frozenset((b"file", b"directory", b"other")))])
    tops = {0: Manifest(whole.tree, nodes), 1: Manifest(names.tree, nodes)}
    top = unshadowed(parts, 0, tops, nodes)
    assert removal_of(parts, 0, top, tops, (), nodes).spared == {b"other"}


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
