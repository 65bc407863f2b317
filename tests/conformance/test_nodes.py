"""What every store of directory nodes does, whatever it keeps them in."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedManifest, NodeMissing, StoreError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Expansion,
    File,
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Nodes,
    accept,
    canonical_links,
    encode,
    grow,
    missing_nodes,
    put,
    subdirectory,
    with_entries,
)
from filesync.manifest import store as store_module
from filesync.manifest.store import SqliteNodes

SOME_FILE = File(b"f", 0o644, 0, 0, 0, 5, digest_of(b"hello"))


def a_directory(name: bytes) -> Directory:
    return with_entries(EMPTY_DIRECTORY, [File(name, 0o644, 0, 0, 0, 1, digest_of(name))])


def a_tree(nodes: Nodes, *path: bytes) -> Digest:
    """Put directories inside each other, a file in the innermost; return the root."""

    def expand(depth: int) -> Expansion[int]:
        if depth == len(path):
            return Expansion(EMPTY_DIRECTORY, [SOME_FILE], [])
        return Expansion(EMPTY_DIRECTORY, [], [(path[depth], depth + 1)])

    return grow(nodes, 0, expand)


def in_sqlite(tmp_path: Path) -> SqliteNodes:
    return SqliteNodes(tmp_path / "nodes.db")


def layered(tmp_path: Path) -> LayeredNodes:
    return LayeredNodes(MemoryNodes(), SqliteNodes(tmp_path / "lower.db"))


def layered_over_memory(tmp_path: Path) -> LayeredNodes:
    lower = MemoryNodes()
    a_tree(lower, b"x")
    return LayeredNodes(SqliteNodes(tmp_path / "upper.db"), lower)


MAKERS: list[Callable[[Path], Nodes]] = [
    lambda _: MemoryNodes(),
    in_sqlite,
    layered,
    layered_over_memory,
]


@pytest.fixture(params=MAKERS, ids=["memory", "sqlite", "memory/sqlite", "sqlite/memory"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nodes]:
    made: Nodes = request.param(tmp_path)
    yield made
    for store in (made, getattr(made, "upper", None), getattr(made, "lower", None)):
        if isinstance(store, SqliteNodes):
            store.close()


def test_what_is_put_can_be_read(nodes: Nodes) -> None:
    directory = a_directory(b"a")
    digest = put(nodes, directory)
    assert digest in nodes
    assert nodes.read(digest) == encode(directory)
    assert Manifest(digest, nodes).root == directory


def test_what_was_never_put_is_missing(nodes: Nodes) -> None:
    absent = digest_of(b"absent")
    assert absent not in nodes
    assert "no digest" not in nodes
    assert b"short" not in nodes
    with pytest.raises(NodeMissing, match=absent.hex()[:12]):
        nodes.read(absent)
    with pytest.raises(NodeMissing):
        nodes.summary(absent)


def test_a_summary_says_what_lies_below(nodes: Nodes) -> None:
    summary = nodes.summary(a_tree(nodes, b"a", b"b"))
    assert summary[1:] == (3, 5, 0, 3)
    below = subdirectory(nodes, b"top", a_tree(nodes, b"a", b"b"))
    assert (below.entries, below.size, below.content) == (3, 5, summary.content)


def test_writing_twice_is_fine(nodes: Nodes) -> None:
    digest = put(nodes, a_directory(b"a"))
    before = nodes.summary(digest)
    nodes.write(digest, encode(a_directory(b"a")), before)
    assert put(nodes, a_directory(b"a")) == digest
    assert nodes.summary(digest) == before


def test_large_and_incompressible_nodes_come_back(nodes: Nodes) -> None:
    entries = [
        File(b"%06d" % i, 0o644, 0, 0, i, i, digest_of(b"%d" % i)) for i in range(20_000)
    ]
    digest = put(nodes, with_entries(EMPTY_DIRECTORY, entries))
    assert len(Manifest(digest, nodes).root.entries) == 20_000


def test_accepting_wants_the_children_first(nodes: Nodes) -> None:
    other = MemoryNodes()
    root = a_tree(other, b"new", b"names")
    children_first = list(missing_nodes(other, root, lambda _: False))
    with pytest.raises(NodeMissing):
        accept(nodes, children_first[-1])
    assert root not in nodes
    for data in children_first:
        accept(nodes, data)
    assert root in nodes
    assert Manifest(root, nodes).summary == other.summary(root)


def test_accepting_refuses_a_lie_about_a_subdirectory(nodes: Nodes) -> None:
    true = subdirectory(nodes, b"d", put(nodes, a_directory(b"a")))
    lie = true.__class__(b"d", true.tree, digest_of(b"x"), true.entries, true.size, true.links)
    data = encode(with_entries(EMPTY_DIRECTORY, [lie]))
    with pytest.raises(MalformedManifest, match="is not so"):
        accept(nodes, data)
    assert digest_of(data) not in nodes


# --- SqliteNodes ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteNodes]:
    opened = in_sqlite(tmp_path)
    yield opened
    opened.close()


def test_nodes_outlive_the_process(tmp_path: Path) -> None:
    first = in_sqlite(tmp_path)
    with first.transaction():
        root = a_tree(first, b"a", b"b")
    summary = first.summary(root)
    first.close()
    first.close()
    second = in_sqlite(tmp_path)
    assert second.summary(root) == summary
    assert [path for path, _ in Manifest(root, second).walk()] == [b"a", b"a/b", b"a/b/f"]
    second.close()


def count(path: Path) -> int:
    db = sqlite3.connect(path)
    found: int = db.execute("SELECT count(*) FROM nodes").fetchone()[0]
    db.close()
    return found


def test_a_transaction_batches_writes_and_everybody_sees_them(
    store: SqliteNodes, tmp_path: Path
) -> None:
    seen: list[bool] = []
    with store.transaction(), store.transaction():
        root = a_tree(store, b"a", b"b")
        assert count(tmp_path / "nodes.db") == 0
        thread = threading.Thread(target=lambda: seen.append(root in store))
        thread.start()
        thread.join()
    assert seen == [True]
    assert count(tmp_path / "nodes.db") == 3


def test_a_transaction_that_fails_keeps_what_was_written(store: SqliteNodes) -> None:
    roots: list[Digest] = []

    def fail() -> None:
        with store.transaction():
            roots.append(a_tree(store, b"a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert roots[0] in store


def test_a_long_transaction_does_not_keep_all_in_memory(
    store: SqliteNodes, tmp_path: Path
) -> None:
    with store.transaction():
        for i in range(2500):
            put(store, a_directory(b"%d" % i))
        assert count(tmp_path / "nodes.db") >= 2000


def test_threads_may_make_trees_at_once(store: SqliteNodes) -> None:
    roots: list[Digest] = []

    def make(thread: int) -> None:
        for i in range(50):
            with store.transaction() if i % 2 else nullcontext():
                roots.append(a_tree(store, b"shared", b"%d" % thread, b"%d" % i))

    threads = [threading.Thread(target=make, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(roots)) == 200
    assert all(list(Manifest(root, store).walk()) for root in roots)


def test_a_sweep_removes_just_what_no_live_root_reaches(
    store: SqliteNodes, tmp_path: Path
) -> None:
    kept, gone = a_tree(store, b"a", b"b"), a_tree(store, b"other")
    assert store.sweep([kept, digest_of(b"unknown")]) == 1
    assert kept in store
    assert gone not in store
    assert len(list(Manifest(kept, store).walk())) == 3
    assert count(tmp_path / "nodes.db") == 3
    assert store.sweep([]) == 3
    assert kept not in store
    assert a_tree(store, b"a", b"b") == kept
    assert kept in store


def test_a_sweep_during_a_transaction_removes_nothing(store: SqliteNodes) -> None:
    root = a_tree(store, b"a")
    with store.transaction():
        assert store.sweep([]) == 0
        assert root in store


def test_what_is_made_or_asked_for_during_a_sweep_stays(store: SqliteNodes) -> None:
    kept, asked, gone = (a_tree(store, name) for name in (b"kept", b"asked", b"gone"))
    made: list[Digest] = []

    def live() -> Iterator[Digest]:
        yield kept
        with store.transaction():
            made.append(a_tree(store, b"new", b"one"))
        made.append(put(store, EMPTY_DIRECTORY))
        assert asked in store
        assert store.sweep([]) == 0

    assert store.sweep(live()) == 1
    assert gone not in store
    for root in (kept, asked, *made):
        assert list(Manifest(root, store).walk()) is not None


def test_what_is_asked_for_once_a_sweep_has_begun_stays(store: SqliteNodes) -> None:
    asked, gone = a_tree(store, b"asked"), a_tree(store, b"gone")
    rest = store.begin_sweep([])
    assert rest is not None
    assert asked in store
    assert store.begin_sweep([]) is None
    assert rest() == 1
    assert (asked in store, gone in store) == (True, False)
    assert store.sweep([]) == 2


def test_what_is_asked_for_between_two_slices_of_a_sweep_stays_whole(
    store: SqliteNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = [a_tree(store, b"below", b"%d" % number) for number in range(6)]
    made: list[Digest] = []
    slices = 0

    def between(_: float) -> None:
        nonlocal slices
        slices += 1
        if slices == 3:
            assert store.read(trees[1])  # of the last ones that go
            assert trees[-1] not in store
            made.append(a_tree(store, b"below", b"5"))  # is made again
            made.append(a_tree(store, b"new", b"0"))  # stands on what would have gone

    monkeypatch.setattr(store_module, "SLICE_NODES", 2)
    monkeypatch.setattr(time, "sleep", between)
    assert store.sweep([trees[2]]) > 0
    assert slices > 3
    for root in (trees[1], trees[2], *made):
        assert len(list(Manifest(root, store).walk())) == 3
    assert [number for number, root in enumerate(trees) if root in store] == [1, 2, 5]


KILLED_SWEEP = """
import os, signal, sys
from pathlib import Path
from filesync.digest import Digest
from filesync.manifest import store
nodes = store.SqliteNodes(Path(sys.argv[1]))
slices = 0
def between(_):
    global slices
    slices += 1
    if slices == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
store.SLICE_NODES = 3
store.time.sleep = between
nodes.sweep([Digest(bytes.fromhex(sys.argv[3]))])
"""


@pytest.mark.parametrize("slices", [1, 4, 9])
def test_a_sweep_that_is_killed_leaves_no_directory_without_what_is_below_it(
    tmp_path: Path, slices: int
) -> None:
    store = in_sqlite(tmp_path)
    trees = [a_tree(store, b"shared", b"%d" % number, b"below") for number in range(20)]
    before, _ = store.usage()
    store.close()
    where = (str(tmp_path / "nodes.db"), str(slices), trees[3].hex())
    killed = subprocess.run([sys.executable, "-c", KILLED_SWEEP, *where])
    assert killed.returncode == -signal.SIGKILL
    store = in_sqlite(tmp_path)
    after, size = store.usage()
    assert 0 < after < before
    assert size > 0
    left = [root for root in trees if root in store]
    assert trees[3] in left
    for root in left:
        assert len(list(Manifest(root, store).walk())) == 4
    # The next sweep completes it, and what has gone can be made again.
    store.sweep([trees[3]])
    assert [root for root in trees if root in store] == [trees[3]]
    assert a_tree(store, b"shared", b"19", b"below") == trees[19]
    store.close()


def test_a_file_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    in_sqlite(tmp_path).close()
    db = sqlite3.connect(tmp_path / "nodes.db")
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(StoreError, match=r"version 7.*remove it"):
        in_sqlite(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nodes.db").write_bytes(os.urandom(8192))
    with pytest.raises(StoreError, match=r"nodes\.db"):
        in_sqlite(tmp_path)


def test_a_file_whose_schema_is_damaged_is_refused(tmp_path: Path) -> None:
    in_sqlite(tmp_path).close()
    path = tmp_path / "nodes.db"
    path.write_bytes(path.read_bytes().replace(b"tablenodes", b"table\xffodes"))
    with pytest.raises(StoreError, match="remove the file"):
        in_sqlite(tmp_path).read(digest_of(b"a node"))


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        SqliteNodes(tmp_path / "nowhere/nodes.db")


@pytest.mark.parametrize("packed", [0, 1])
def test_rotten_bytes_are_never_returned(tmp_path: Path, packed: int) -> None:
    store = in_sqlite(tmp_path)
    digest = put(store, a_directory(b"a"))
    store.close()
    db = sqlite3.connect(tmp_path / "nodes.db")
    with db:
        db.execute("UPDATE nodes SET packed = ?, data = ?", (packed, encode(EMPTY_DIRECTORY)))
    db.close()
    store = in_sqlite(tmp_path)
    with pytest.raises(StoreError, match="cannot be used"):
        store.read(digest)
    store.close()


def test_link_groups_are_named_again_in_any_store(nodes: Nodes) -> None:
    group = digest_of(b"x")[:8]
    files = [File(name, 0o644, 0, 0, 0, 1, digest_of(b"1"), group) for name in (b"a", b"b")]
    digest = put(nodes, with_entries(EMPTY_DIRECTORY, files))
    renamed = canonical_links(nodes, digest)
    assert renamed != digest
    assert canonical_links(nodes, renamed) == renamed
    assert nodes.summary(renamed).content == nodes.summary(digest).content
