"""The pool of ephemeral sources."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync import sources
from filesync.digest import Digest, digest_of
from filesync.errors import LocalError, StoreError
from filesync.manifest import EMPTY_DIRECTORY, File, MemoryNodes, put, with_entries
from filesync.sources import Filling, SourceLease, SourcePool

Open = Callable[[], SourcePool]


@pytest.fixture
def nodes() -> MemoryNodes:
    return MemoryNodes()


@pytest.fixture
def reopen(tmp_path: Path, nodes: MemoryNodes) -> Iterator[Open]:
    """Return what opens the pool as a new process would; the one before is as if killed."""
    opened: list[SourcePool] = []

    def open_pool() -> SourcePool:
        opened.append(SourcePool(tmp_path / "sources", nodes, max_count=3, max_bytes=1000))
        return opened[-1]

    yield open_pool
    for one in opened:
        one.close()


@pytest.fixture
def pool(reopen: Open) -> SourcePool:
    return reopen()


def tree_of(nodes: MemoryNodes, name: str, *, size: int = 10) -> Digest:
    file = File(name.encode(), 0o644, 0, 0, 0, size, digest_of(name.encode()))
    return put(nodes, with_entries(EMPTY_DIRECTORY, [file]))


def sealed(pool: SourcePool, nodes: MemoryNodes, key: str, *, size: int = 10) -> SourceLease:
    filling = pool.take(key)
    (filling.path / "file").write_text(key)
    return pool.seal(filling, tree_of(nodes, key, size=size))


def directories(tmp_path: Path) -> set[str]:
    return set(os.listdir(tmp_path / "sources/trees"))


def test_a_new_source_is_an_empty_private_directory(pool: SourcePool) -> None:
    filling = pool.take("key")
    assert filling.tree is None
    assert os.listdir(filling.path) == []
    assert filling.path.stat().st_mode & 0o777 == 0o700


def test_a_released_source_is_the_basis_for_the_same_key(
    pool: SourcePool, nodes: MemoryNodes
) -> None:
    lease = sealed(pool, nodes, "key")
    assert pool.idle() == []
    lease.release()
    assert [(one.tree, one.key) for one in pool.idle()] == [(lease.tree, "key")]
    again = pool.take("key")
    assert (again.path, again.tree) == (lease.path, lease.tree)
    assert pool.idle() == []


def test_a_named_basis_is_taken_whatever_its_key(pool: SourcePool, nodes: MemoryNodes) -> None:
    for key in ("one", "two"):
        sealed(pool, nodes, key).release()
    one = next(idle for idle in pool.idle() if idle.key == "one")
    filling = pool.take("two", basis=one.id)
    assert (filling.id, filling.tree) == (one.id, one.tree)


def test_a_basis_that_is_taken_or_unknown_gives_another(
    pool: SourcePool, nodes: MemoryNodes
) -> None:
    sealed(pool, nodes, "key").release()
    basis = pool.idle()[0].id
    first, second = pool.take("key", basis=basis), pool.take("key", basis=basis)
    assert first.path != second.path
    assert second.tree is None
    assert pool.take("key", basis="../..").path.parent == first.path.parent


def test_the_source_used_last_comes_first(pool: SourcePool, nodes: MemoryNodes) -> None:
    leases = [sealed(pool, nodes, "key") for _ in range(2)]
    for lease in reversed(leases):
        lease.release()
    assert pool.take("key").path == leases[0].path


def test_releasing_twice_gives_back_nothing_that_another_holds(
    pool: SourcePool, nodes: MemoryNodes
) -> None:
    lease = sealed(pool, nodes, "key")
    lease.release()
    filling = pool.take("key")
    other = pool.seal(filling, tree_of(nodes, "other"))
    lease.release()
    assert pool.idle() == []
    other.release()
    assert [one.tree for one in pool.idle()] == [other.tree]


def test_a_filling_is_sealed_once(pool: SourcePool, nodes: MemoryNodes) -> None:
    filling = pool.take("key")
    pool.seal(filling, tree_of(nodes, "key"))
    with pytest.raises(LocalError):
        pool.seal(filling, tree_of(nodes, "key"))
    gone = pool.take("key")
    pool.abandon(gone)
    with pytest.raises(LocalError):
        pool.seal(gone, tree_of(nodes, "key"))


def test_an_abandoned_source_is_removed(pool: SourcePool, tmp_path: Path) -> None:
    filling = pool.take("key")
    (filling.path / "half").write_text("x")
    pool.abandon(filling)
    pool.abandon(filling)
    assert pool.idle() == []
    pool.close()
    assert directories(tmp_path) == set()


def test_abandoning_a_sealed_source_leaves_its_lease_alone(
    pool: SourcePool, nodes: MemoryNodes
) -> None:
    filling = pool.take("key")
    lease = pool.seal(filling, tree_of(nodes, "key"))
    pool.abandon(filling)
    lease.release()
    assert [one.id for one in pool.idle()] == [filling.id]


def test_too_many_idle_sources_go_oldest_first(
    pool: SourcePool, nodes: MemoryNodes, tmp_path: Path
) -> None:
    leases = [sealed(pool, nodes, f"key{i}") for i in range(5)]
    for lease in leases:
        lease.release()
    assert [one.key for one in pool.idle()] == ["key4", "key3", "key2"]
    pool.close()
    assert directories(tmp_path) == {lease.path.name for lease in leases[2:]}


def test_too_many_bytes_go_oldest_first_and_a_giant_takes_no_other_with_it(
    pool: SourcePool, nodes: MemoryNodes
) -> None:
    for key, size in (("a", 400), ("b", 400), ("c", 400)):
        sealed(pool, nodes, key, size=size).release()
    assert [one.key for one in pool.idle()] == ["c", "b"]
    sealed(pool, nodes, "giant", size=1001).release()
    assert [one.key for one in pool.idle()] == ["c", "b"]


def test_leased_sources_are_not_counted_and_not_removed(
    pool: SourcePool, nodes: MemoryNodes, tmp_path: Path
) -> None:
    leases = [sealed(pool, nodes, f"key{i}") for i in range(6)]
    assert not any(pool.remove(lease.path.name) for lease in leases)
    assert all((lease.path / "file").exists() for lease in leases)
    assert set(pool.trees()) == {lease.tree for lease in leases}
    leases[0].release()
    assert pool.remove(leases[0].path.name)
    pool.close()
    assert directories(tmp_path) == {lease.path.name for lease in leases[1:]}


def test_a_source_whose_manifest_is_gone_is_not_kept(pool: SourcePool) -> None:
    lease = pool.seal(pool.take("key"), digest_of(b"no manifest"))
    lease.release()
    assert pool.idle() == []


def test_a_lease_outlives_the_pool_without_harm(pool: SourcePool, nodes: MemoryNodes) -> None:
    lease = sealed(pool, nodes, "key")
    pool.close()
    pool.close()
    lease.release()


# --- start-up -------------------------------------------------------------------------------


def test_what_was_idle_or_leased_is_idle_in_the_next_process(
    pool: SourcePool, nodes: MemoryNodes, reopen: Open
) -> None:
    sealed(pool, nodes, "idle").release()
    sealed(pool, nodes, "leased")
    assert {one.key for one in reopen().idle()} == {"idle", "leased"}


def test_what_was_being_filled_is_removed_by_the_next_process(
    pool: SourcePool, nodes: MemoryNodes, reopen: Open, tmp_path: Path
) -> None:
    sealed(pool, nodes, "key").release()
    filling = pool.take("key")
    assert filling.tree is not None
    (filling.path / "half").write_text("x")
    assert reopen().idle() == []
    assert directories(tmp_path) == set()


def test_directories_without_a_row_and_rows_without_a_directory_go(
    pool: SourcePool, nodes: MemoryNodes, reopen: Open, tmp_path: Path
) -> None:
    lease = sealed(pool, nodes, "key")
    lease.release()
    (lease.path / "file").unlink()
    lease.path.rmdir()
    (tmp_path / "sources/trees/stranger/below").mkdir(parents=True)
    assert reopen().idle() == []
    assert directories(tmp_path) == set()


def test_after_a_reboot_no_source_is_trusted(
    pool: SourcePool,
    nodes: MemoryNodes,
    reopen: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sealed(pool, nodes, "key").release()
    monkeypatch.setattr(sources, "boot_id", lambda: "another boot")
    assert reopen().idle() == []
    assert directories(tmp_path) == set()


@pytest.mark.parametrize("damage", ["garbage", "schema", "version"])
def test_a_damaged_file_is_started_anew(
    pool: SourcePool, nodes: MemoryNodes, reopen: Open, tmp_path: Path, damage: str
) -> None:
    sealed(pool, nodes, "key").release()
    pool.close()
    path = tmp_path / "sources/sources.db"
    if damage == "garbage":
        path.write_bytes(os.urandom(8192))
    elif damage == "schema":
        path.write_bytes(path.read_bytes().replace(b"tablesources", b"table\xffources"))
    else:
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 9")
        db.close()
    again = reopen()
    assert again.idle() == []
    assert directories(tmp_path) == set()
    sealed(again, nodes, "key").release()
    assert len(again.idle()) == 1


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path, nodes: MemoryNodes) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        SourcePool(tmp_path / "file", nodes, max_count=1, max_bytes=1)


def test_a_partial_source_has_nothing_by_which_to_announce_or_export_it() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(Filling) == {"id", "path", "tree"}
    assert public(SourceLease) == {"release"}
