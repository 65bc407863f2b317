"""Several directories as one, against a model of nested dictionaries."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.disk.scanning.scan import scan
from filesync.errors import SourceChanged
from filesync.manifest import Manifest, link_groups
from filesync.trees.united import unite
from tests.unit.counting_nodes import CountingNodes
from tests.unit.sync.test_plan import together
from tests.unit.sync.test_shadow import files, merged
from tests.unit.test_overlay import Shape, manifest, shapes

NAMES = (b"x", b"y", b"z")


@given(st.lists(shapes, min_size=1, max_size=3), st.booleans())
def test_several_directories_are_one_in_which_the_first_stands(
    given: list[Shape], are_deep: bool
) -> None:
    paths = [name + b"/in" * are_deep for name in NAMES[: len(given)]]
    inside = dict(zip(NAMES, given, strict=False))
    scanned = manifest(
        {name: {b"in": one} if are_deep else one for name, one in inside.items()}
    )
    whole = unite(scanned, paths, together(scanned))
    assert whole.tree == manifest(merged(*given)).tree


@pytest.fixture
def scanned(tmp_path: Path) -> Manifest:
    """A tree whose directories differ in mode, and have names of one file."""
    for path, mode in (
        ("x", 0o750),
        ("y", 0o705),
        ("x/a", 0o700),
        ("y/a", 0o755),
        ("y/b", 0o755),
    ):
        (tmp_path / path).mkdir()
        (tmp_path / path).chmod(mode)
    for path in ("x/same", "x/a/file", "y/a/other", "y/b/deep"):
        (tmp_path / path).write_text(path)
    for path in ("x/a/linked", "y/b/linked", "y/same"):
        (tmp_path / path).hardlink_to(tmp_path / "x/a/file")
    nodes = CountingNodes()
    return Manifest(scan(tmp_path, nodes).tree, nodes)


def test_of_directories_of_one_name_the_first_gives_the_mode(scanned: Manifest) -> None:
    for paths, mode, inner in (([b"x", b"y"], 0o750, 0o700), ([b"y", b"x"], 0o705, 0o755)):
        whole = unite(scanned, paths, scanned.nodes)
        found = whole.find_directory(b"a")
        assert found is not None
        assert (whole.root.mode, found.mode) == (mode, inner)
        assert files(whole) == [
            b"a/file",
            b"a/linked",
            b"a/other",
            b"b/deep",
            b"b/linked",
            b"same",
        ]


def test_names_of_one_file_are_so_in_the_whole(scanned: Manifest) -> None:
    for paths, names in (
        ([b"x", b"y"], [b"a/file", b"a/linked", b"b/linked"]),
        ([b"y", b"x"], [b"a/file", b"a/linked", b"b/linked", b"same"]),
        ([b"y"], [b"b/linked", b"same"]),
    ):
        assert [*link_groups(unite(scanned, paths, scanned.nodes)).values()] == [names]


def test_what_only_one_directory_has_is_not_looked_at(tmp_path: Path) -> None:
    for path in ("x/a", "y/b"):
        for number in range(20):
            (tmp_path / path / f"{number}/deep").mkdir(parents=True)
    nodes = CountingNodes()
    scanned = Manifest(scan(tmp_path, nodes).tree, nodes)
    nodes.reads = 0
    unite(scanned, [b"x", b"y"], nodes)
    assert nodes.reads < 10


@pytest.mark.parametrize("gone", [b"x", b"z"])
def test_that_one_is_no_directory_any_more_is_a_change(gone: bytes) -> None:
    scanned = manifest({b"x": b"a file by now", b"y": {b"a": b"1"}})
    with pytest.raises(SourceChanged):
        unite(scanned, [b"y", gone], together(scanned))
