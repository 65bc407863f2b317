"""Scans in a process of their own: what comes of them, and that nothing of them stays."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.watcher import Watcher
from filesync.errors import StoreError
from filesync.manifest import Manifest, MemoryNodes, Nodes, Subdirectory
from filesync.sync.aside import scan as asidescan
from filesync.sync.aside.scan import AsideScan
from filesync.sync.aside.watched import MOST_TOLD, TOLD_CONTENT_BYTES, WatchedScan
from filesync.sync.scanning import Found
from tests.unit.test_overlay import Shape, manifest

Watched = Callable[[Nodes, Watcher], Found]
SHAPE: Shape = {b"a": {b"b": {b"c": b"1"}, b"d": b"2"}, b"e": {b"f": b"3"}}


def finds(shape: Shape) -> Callable[[Nodes], Found]:
    """Return what scans a tree of this shape."""

    def scan(nodes: Nodes) -> Found:
        made = manifest(shape)
        for digest in made.nodes:  # type: ignore[attr-defined]
            nodes.write(digest, made.nodes.read(digest), made.nodes.summary(digest))
        return Found(Manifest(made.tree, nodes), {"socket": 2}, {b"a/\xff": 13}, [b"m"])

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
    assert found.mounts == [b"m"]


def test_only_the_nodes_that_are_not_here_come(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[bytes] = []
    monkeypatch.setattr(asidescan, "accept", lambda _, node: accepted.append(node))
    for here, nodes_to_come in ((SHAPE, 0), ({b"x": SHAPE[b"a"]}, 2), ({}, 4)):
        accepted.clear()
        nodes = MemoryNodes()
        finds(here)(nodes)
        with closing(AsideScan(finds(SHAPE))) as scan:
            scan.found(nodes)
        assert len(accepted) == nodes_to_come


class Told(Watcher):
    """Watches a scan."""

    def __init__(self, nodes: MemoryNodes) -> None:
        self.nodes = nodes
        self.directories: list[bytes] = []
        self.contents: list[bytes] = []

    def directory_done(self, path: bytes, tree: Digest) -> None:
        assert tree in self.nodes
        self.directories.append(path)

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        raise AssertionError

    def content_read(self, digest: Digest, content: bytes) -> None:
        assert digest == digest_of(content)
        self.contents.append(content)

    def beside(self, path: bytes, old: Digest, fd: int, size: int) -> None:
        raise AssertionError


def tells(shape: Shape, *, told: int = 1, content: bytes = b"content") -> Watched:
    """Return what scans a tree of this shape, and tells of it; of ``content`` more than once."""

    def scan(nodes: Nodes, watcher: Watcher) -> Found:
        found = finds(shape)(nodes)
        for _ in range(told):
            watcher.content_read(digest_of(content), content)
        for path in (b"a/b", b"a", b"e", b""):
            entry = found.manifest.find(path)
            tree = entry.tree if isinstance(entry, Subdirectory) else found.manifest.tree
            watcher.directory_done(path, tree)
        return found

    return scan


def test_who_watches_is_told_here_of_what_was_done_in_that_order() -> None:
    nodes = MemoryNodes()
    told = Told(nodes)
    with closing(WatchedScan(tells(SHAPE))) as scan:
        found = scan.found(nodes, told)
    assert found is not None
    assert list(found.manifest.walk()) == list(manifest(SHAPE).walk())
    assert (found.skipped, found.unreadable) == ({"socket": 2}, {b"a/\xff": 13})
    assert told.directories == [b"a/b", b"a", b"e", b""]
    assert told.contents == [b"content"]


def test_a_scan_waits_for_who_does_not_take_what_it_tells(tmp_path: Path) -> None:
    content = bytes(TOLD_CONTENT_BYTES)
    count = tmp_path / "count"
    most = MOST_TOLD + 4  # some are on their way

    def noted(nodes: Nodes, watcher: Watcher) -> Found:
        real = watcher.content_read

        def content_read(digest: Digest, content: bytes) -> None:
            with count.open("ab") as file:
                file.write(b".")
            real(digest, content)

        watcher.content_read = content_read  # type: ignore[method-assign]
        return tells(SHAPE, told=3 * most, content=content)(nodes, watcher)

    nodes = MemoryNodes()
    told = Told(nodes)
    with closing(WatchedScan(noted)) as scan:
        while not count.exists() or count.stat().st_size < MOST_TOLD:
            time.sleep(0.01)
        time.sleep(0.3)
        assert count.stat().st_size <= most
        assert scan.found(nodes, told) is not None
    assert len(told.contents) == 3 * most


def aside(work: Callable[[], None]) -> AsideScan:
    """Return a scan that does something else."""

    def scan(_: Nodes) -> Found:
        work()
        raise AssertionError

    return AsideScan(scan)


def watched(work: Callable[[], None]) -> WatchedScan:
    """Return a scan that tells of something, and does something else."""

    def scan(nodes: Nodes, watcher: Watcher) -> Found:
        tells(SHAPE)(nodes, watcher)
        work()
        raise AssertionError

    return WatchedScan(scan)


def found_by(scan: AsideScan | WatchedScan) -> Found | None:
    nodes = MemoryNodes()
    return scan.found(nodes) if isinstance(scan, AsideScan) else scan.found(nodes, Told(nodes))


either: Final = pytest.mark.parametrize("begin", [aside, watched])
Begin = Callable[[Callable[[], None]], AsideScan | WatchedScan]


@either
def test_a_scan_that_fails_is_one_to_be_made_here(begin: Begin) -> None:
    def fail() -> None:
        raise StoreError("unreadable")

    with closing(begin(fail)) as scan:
        assert found_by(scan) is None


@either
def test_so_is_one_whose_process_is_killed(begin: Begin) -> None:
    with closing(begin(lambda: os.kill(os.getpid(), signal.SIGKILL))) as scan:
        assert found_by(scan) is None


@either
def test_a_scan_that_nobody_waits_for_ends(begin: Begin, tmp_path: Path) -> None:
    scan = begin(lambda: note(tmp_path / "pid"))
    pid = noted(tmp_path / "pid")
    scan.close()
    scan.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@either
def test_a_scan_ends_with_the_process_that_began_it(begin: Begin, tmp_path: Path) -> None:
    parent = os.fork()
    if not parent:
        with closing(begin(lambda: note(tmp_path / "pid"))):
            time.sleep(60)
        os._exit(1)  # or it would go on, and kill all that pytest started
    pid = noted(tmp_path / "pid")
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    status = Path(f"/proc/{pid}/stat")
    for _ in range(1000):
        # Nobody may be there to take note of its end.
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("it goes on")


def note(path: Path) -> None:
    """Note this process's number, and stay."""
    path.write_text(str(os.getpid()))
    time.sleep(60)


def noted(path: Path) -> int:
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    return int(path.read_text())
