"""Which directories an update enters, what it keeps of them, and what would fill the memory."""

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
from tests.unit.counting_nodes import CountingNodes
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


def test_what_is_kept_for_the_next_walk_is_what_differs_however_much_else_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = CountingNodes()
    many = [file(b"%03d" % n, b"x") for n in range(100)]
    basis = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, many)), nodes)
    more = [*many[1:], file(b"new", b"y"), file(b"old", b"z")]
    target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, more)), nodes)
    monkeypatch.setattr(visits, "MAX_REMEMBERED", 4)
    walked = Visits(basis, target)
    (visit,) = walked.common()
    assert [entry.name for entry in visit.removed] == [b"000"]
    assert [entry.name for _, entry in visit.changes] == [b"new", b"old"]
    before = nodes.reads
    assert list(walked.common()) == [visit]
    assert nodes.reads == before


def test_of_directories_of_usual_paths_there_may_be_any_number() -> None:
    nodes = MemoryNodes()
    empty = put(nodes, EMPTY_DIRECTORY)
    many = tuple([subdirectory(nodes, b"%0200d" % n, empty) for n in range(5000)])
    target = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, many)), nodes)
    assert len(list(Visits(empty_manifest(nodes), target))) == 5001
