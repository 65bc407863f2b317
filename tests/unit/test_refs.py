"""Which ref is which snapshot: what a worker knows again when it starts."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from filesync.digest import Digest, digest_of
from filesync.errors import StoreError
from worker.store.refs import USE_STEP_S, HeldRef, RefMissing, RefStore
from worker.wire.images import Layer
from worker.wire.orders import RefInfo

LAYER = Layer("application/tar", f"sha256:{'a' * 64}", 5, f"sha256:{'d' * 64}")
OTHER = msgspec.structs.replace(LAYER, digest=f"sha256:{'b' * 64}")
KEY, LATER = digest_of(b"key"), digest_of(b"later key")


def info(name: str, parent: RefInfo | None = None, layer: Layer | None = None) -> RefInfo:
    above = None if parent is None else parent.ref
    tree = digest_of(b"tree of " + name.encode())
    return RefInfo(
        digest_of(name.encode()), tree, parent=above, keys=(KEY,), layer=layer, created_s=100.0
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], RefStore]]:
    """Open the store, anew each time."""
    stores: list[RefStore] = []

    def again() -> RefStore:
        for store in stores:
            store.close()
        stores.append(RefStore(tmp_path / "refs.db"))
        return stores[-1]

    yield again
    for store in stores:
        store.close()


Opened = Callable[[], RefStore]


def test_refs_outlive_the_process_and_removed_ones_do_not(opened: Opened) -> None:
    base, top = info("base", layer=LAYER), info("top", info("base"))
    store = opened()
    for one, snapshot in ((base, "1"), (top, "2")):
        store.add(one, snapshot)
        store.touch(one.ref, 5000.0)
    store.remove(top.ref)
    store.remove(top.ref)
    again = opened()
    assert [(held.info, held.snapshot) for held in again.chain(base.ref)] == [(base, "1")]
    assert again.used_s(base) == 5000.0
    assert again.find(top.ref) is None
    assert again.used_s(top) == 100.0
    with pytest.raises(RefMissing):
        again.get(top.ref)


def test_a_chain_has_the_lowest_first_and_is_whole_or_missing(opened: Opened) -> None:
    store = opened()
    base = info("base")
    middle = info("middle", base)
    top = info("top", middle)
    for snapshot, one in enumerate((base, middle, top)):
        store.add(one, str(snapshot))
    assert [held.snapshot for held in store.chain(top.ref)] == ["0", "1", "2"]
    assert store.snapshots() == {"0", "1", "2"}
    store.remove(base.ref)
    with pytest.raises(RefMissing):
        store.chain(top.ref)


def test_parents_are_told_before_children_though_the_clock_was_set_back(opened: Opened) -> None:
    store = opened()
    base, other = info("base"), info("other")
    middle = msgspec.structs.replace(info("middle", base), created_s=50.0)
    top = msgspec.structs.replace(info("top", middle), created_s=40.0)
    other = msgspec.structs.replace(other, created_s=70.0)
    for snapshot, one in enumerate((base, middle, top, other)):
        store.add(one, str(snapshot))
    assert store.infos() == (base, middle, top, other)
    store.remove(base.ref)
    assert store.infos() == (middle, top, other)


def test_a_ref_that_is_here_keeps_its_snapshot_and_its_layer_and_gains_keys(
    opened: Opened,
) -> None:
    store = opened()
    store.add(info("a"), "first")
    store.set_layer(info("a").ref, LAYER)
    again = msgspec.structs.replace(info("a", layer=OTHER), keys=(LATER, KEY))
    store.add(again, "second")
    store.set_layer(again.ref, OTHER)
    held = opened().get(again.ref)
    assert (held.snapshot, held.info.layer, held.info.keys) == ("first", LAYER, (KEY, LATER))


def test_what_a_layer_made_is_found_by_its_parent_and_all_of_the_layer(opened: Opened) -> None:
    store = opened()
    base = info("base", layer=LAYER)
    top = info("top", base, layer=OTHER)
    store.add(base, "1")
    store.add(top, "2")
    assert store.find_child(base.ref, OTHER) == top
    assert store.find_child(None, LAYER) == base
    assert store.find_child(None, OTHER) is store.find_child(base.ref, LAYER) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda store, ref: store.add_keys(ref, (LATER,)),
        lambda store, ref: store.set_layer(ref, LAYER),
    ],
)
def test_a_ref_that_is_removed_as_it_changes_stays_removed(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, change: Callable[[RefStore, Digest], None]
) -> None:
    """Its snapshot goes next: a ref without one could never be made again."""
    store, one = opened(), info("a")
    store.add(one, "1")
    removing = threading.Thread(target=store.remove, args=(one.ref,))
    get = store.get

    def slow(ref: Digest) -> HeldRef:
        held = get(ref)
        removing.start()
        removing.join(0.2)
        return held

    monkeypatch.setattr(store, "get", slow)
    change(store, one.ref)
    removing.join()
    assert store.find(one.ref) is None
    assert opened().infos() == ()


def test_refs_come_and_go_while_one_is_looked_for(opened: Opened) -> None:
    store, stop = opened(), threading.Event()
    for number in range(200):
        store.add(info(str(number)), str(number))

    def come_and_go() -> None:
        while not stop.is_set():
            store.add(info("other"), "other")
            store.remove(info("other").ref)

    changing = threading.Thread(target=come_and_go)
    changing.start()
    try:
        for _ in range(2000):
            assert store.find_child(None, LAYER) is None
    finally:
        stop.set()
        changing.join()


def test_a_use_is_written_down_once_in_a_while_only(opened: Opened) -> None:
    store = opened()
    one = info("a")
    store.add(one, "1")
    store.touch(one.ref, 100.0 + USE_STEP_S - 1)
    assert store.used_s(one) == 100.0 + USE_STEP_S - 1
    store.touch(Digest(bytes(32)), 1e9)
    assert opened().used_s(one) == 100.0


def test_a_damaged_row_is_told_with_what_to_do_and_the_file_is_closed(
    tmp_path: Path, opened: Opened
) -> None:
    import sqlite3

    opened().add(info("a"), "1")
    opened().close()
    with sqlite3.connect(tmp_path / "refs.db") as db:
        db.execute("UPDATE refs SET info = x'c1'")
    db.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match="cannot be used") as caught:
        opened()
    assert len(os.listdir("/proc/self/fd")) == before
    del caught  # by it the store lives until here
