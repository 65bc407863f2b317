"""A scan in a process of its own: what comes of it, and that nothing of it stays."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from filesync.errors import StoreError
from filesync.manifest import Manifest, MemoryNodes, Nodes
from filesync.sync import aside
from filesync.sync.aside import AsideScan
from filesync.sync.scanning import Found
from tests.unit.test_overlay import Shape, manifest

SHAPE: Shape = {b"a": {b"b": {b"c": b"1"}, b"d": b"2"}, b"e": {b"f": b"3"}}


def finds(shape: Shape) -> Callable[[Nodes], Found]:
    """Return what scans a tree of this shape."""

    def scan(nodes: Nodes) -> Found:
        made = manifest(shape)
        for digest in made.nodes:  # type: ignore[attr-defined]
            nodes.write(digest, made.nodes.read(digest), made.nodes.summary(digest))
        return Found(Manifest(made.tree, nodes), {"socket": 2}, {b"a/\xff": 13})

    return scan


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


def children() -> set[str]:
    """Return the processes that this one has begun and not waited for."""
    return set(Path("/proc/thread-self/children").read_text().split())


def test_what_was_found_is_here_with_its_nodes() -> None:
    nodes = MemoryNodes()
    with closing(AsideScan(finds(SHAPE))) as scan:
        found = scan.found(nodes)
    assert found is not None
    assert list(found.manifest.walk()) == list(manifest(SHAPE).walk())
    assert (found.skipped, found.unreadable) == ({"socket": 2}, {b"a/\xff": 13})


def test_only_the_nodes_that_are_not_here_come(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[bytes] = []
    monkeypatch.setattr(aside, "accept", lambda _, node: accepted.append(node))
    for here, nodes_to_come in ((SHAPE, 0), ({b"x": SHAPE[b"a"]}, 2), ({}, 4)):
        accepted.clear()
        nodes = MemoryNodes()
        finds(here)(nodes)
        with closing(AsideScan(finds(SHAPE))) as scan:
            scan.found(nodes)
        assert len(accepted) == nodes_to_come


def test_a_scan_that_fails_is_one_to_be_made_here() -> None:
    def fail(_: Nodes) -> Found:
        raise StoreError("unreadable")

    with closing(AsideScan(fail)) as scan:
        assert scan.found(MemoryNodes()) is None


def test_a_scan_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    def note(_: Nodes) -> Found:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        raise AssertionError

    scan = AsideScan(note)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    scan.close()
    scan.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_scan_ends_with_the_process_that_began_it(tmp_path: Path) -> None:
    def note(_: Nodes) -> Found:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)
        raise AssertionError

    parent = os.fork()
    if not parent:
        with closing(AsideScan(note)):
            time.sleep(60)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    for _ in range(1000):
        # Nobody may be there to take note of its end.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("it goes on")
