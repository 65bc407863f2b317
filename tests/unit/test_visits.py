"""Which directories an update enters: not those whose paths would fill the memory."""

from pathlib import Path

import pytest

from filesync.disk.updating import visits
from filesync.disk.updating.update import TreeUpdate
from filesync.disk.updating.visits import Visits
from filesync.errors import MalformedManifest
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Manifest,
    MemoryNodes,
    empty_manifest,
    put,
    subdirectory,
    with_entries,
)
from tests.unit.made import file

NAME = b"n" * 250


def chain(nodes: MemoryNodes, length: int, deepest: Directory = EMPTY_DIRECTORY) -> Manifest:
    """Return a tree of directories with long names inside each other."""
    tree = put(nodes, deepest)
    for _ in range(length):
        tree = put(nodes, with_entries(EMPTY_DIRECTORY, (subdirectory(nodes, NAME, tree),)))
    return Manifest(tree, nodes)


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "MAX_PATH_BYTES", 100_000)


def test_directories_inside_each_other_whose_paths_are_long_are_not_made(
    tmp_path: Path,
) -> None:
    nodes = MemoryNodes()
    update = TreeUpdate(tmp_path, basis=empty_manifest(nodes), target=chain(nodes, 100))
    update.prepare()
    with pytest.raises(MalformedManifest, match="paths of directories"):
        list(update.wanted())
    update.abort()


def test_nor_are_they_entered_where_they_are_there() -> None:
    nodes = MemoryNodes()
    basis = chain(nodes, 100)
    target = chain(nodes, 100, with_entries(EMPTY_DIRECTORY, (file(b"f", b"x"),)))
    with pytest.raises(MalformedManifest, match="paths of directories"):
        list(Visits(basis, target).common())
    assert len(list(Visits(chain(nodes, 20), target).common())) == 21


def test_of_directories_of_usual_paths_there_may_be_any_number() -> None:
    nodes = MemoryNodes()
    empty = put(nodes, EMPTY_DIRECTORY)
    many = tuple([subdirectory(nodes, b"%0200d" % n, empty) for n in range(5000)])
    target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, many)), nodes)
    assert len(list(Visits(empty_manifest(nodes), target))) == 5001
