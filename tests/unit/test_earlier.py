"""Which earlier results a copy is made on."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest
from worker import earlier
from worker.earlier import MAX_DEPTH, find_earlier
from worker.files import InputTree, perform
from worker.store import Store
from worker.store.results import keep
from worker.wire.ops import Copy, FileOp

OP = Copy(0, "/", "/app")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    for number in range(100):
        (root / f"f{number}").write_text(f"{number}")
    return root


@pytest.fixture
def copied(source: Path) -> Callable[[Store, Digest | None], InputTree]:
    """Keep what ``OP`` makes of a ref, and return what it copied, with one file edited."""

    def make(store: Store, base: Digest | None) -> InputTree:
        given = InputTree(source, Manifest(scan(source, store.nodes).tree, store.nodes))
        active = store.prepare_on(None if base is None else store.refs.get(base))
        op = FileOp((OP,), scratch=True)
        done = perform(op, root=active.path, inputs={0: given}, now_ns=0)
        keep(store, active, done.hints, base, ())
        (source / "f42").write_text("edited")
        return InputTree(source, Manifest(scan(source, store.nodes).tree, store.nodes))

    return make


def opened(at: Path, kind: str) -> Store:
    (at / "state").mkdir()
    return Store.open(at / "state", snapshotter=kind)


def stack(store: Store, height: int) -> Digest:
    """Return a ref that stands on so many snapshots, itself among them."""
    at: Digest | None = None
    for number in range(height):
        active = store.prepare_on(None if at is None else store.refs.get(at))
        (active.path / f"{number}").touch()
        at = keep(store, active, {}, at, ()).ref
    assert at is not None
    return at


def test_where_each_snapshot_is_a_whole_copy_none_is_kept_for_another(
    tmp_path: Path, copied: Callable[[Store, Digest | None], InputTree]
) -> None:
    with closing(opened(tmp_path, "copy")) as store:
        base = stack(store, 1)
        given = copied(store, base)
        assert find_earlier(store, base, OP, given.manifest) is None


@pytest.mark.needs("root")
def test_the_last_copy_is_found_unless_too_much_is_below_it(
    tmp_path: Path,
    copied: Callable[[Store, Digest | None], InputTree],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(opened(tmp_path, "overlay")) as store:
        base = stack(store, 3)
        given = copied(store, base)
        found = find_earlier(store, base, OP, given.manifest)
        assert found is not None
        assert [target for _, _, target in found.plan.copied] == [b"app/f42"]
        assert MAX_DEPTH < 400
        monkeypatch.setattr(earlier, "MAX_DEPTH", 4)
        assert find_earlier(store, base, OP, given.manifest) is None
