"""A worker's store, counted and pruned: real files, real databases."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.manifest import EMPTY_DIRECTORY, Manifest, put
from worker import exports
from worker.garbage.collector import (
    BEING_READ,
    BY_BUILD,
    LAST_COPY,
    ON_ITS_WAY,
    USED_NOW,
    Collector,
)
from worker.garbage.keeper import DiskKeeper
from worker.layers import LayerForm, Limits
from worker.moving import chains, skeletons
from worker.moving.chains import apply_blob, layer_as, layer_of
from worker.moving.given import GivenBlobs
from worker.moving.imports import import_layers
from worker.store import Store, TreeView
from worker.store.refs import RefMissing
from worker.store.results import keep
from worker.wire.disk import Holds, Kind, Prune, PrunePolicy, Usage
from worker.wire.images import Compression
from worker.wire.orders import Export, ExportForm, Layer, RefInfo

ALL = PrunePolicy()
NOTHING = Holds()
OTHER = "sha256:" + "5" * 64


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, snapshotter="copy")
    yield opened
    opened.close()


@pytest.fixture
def make(store: Store) -> Callable[..., RefInfo]:
    """Make a result with one file, on top of another."""

    def made(name: str, parent: Digest | None = None) -> RefInfo:
        below = None if parent is None else store.refs.get(parent).snapshot
        active = store.snapshots.prepare(below)
        (active.path / name).write_text(name * 1000)
        for path in (active.path / name, active.path):
            os.utime(path, (1, 1))  # made again it is the same
        return keep(store, active, {}, parent, ())

    return made


def pruned(store: Store, holds: Holds = NOTHING, policy: PrunePolicy = ALL) -> Usage:
    collector = Collector(store)
    return collector.remove(collector.plan([policy], holds, ()), (), verbose=False)


def counts(usage: Usage) -> dict[Kind, int]:
    return {row.kind: row.count for row in usage.rows if row.count}


def test_a_chain_goes_from_the_top_and_its_layers_after_it(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    base = make("base")
    top = make("top", base.ref)
    for info in (base, top):
        layer_of(store, store.refs.get(info.ref))
    usage = pruned(store)
    assert counts(usage) == {Kind.RESULT: 2, Kind.BLOB: 4}, "each layer and its skeleton"
    assert usage.refs == (top.ref, base.ref)
    assert not usage.kept
    assert store.snapshots.list() == []
    assert list(store.blobs.blobs.iterdir()) == []


def test_what_is_held_or_read_stays_with_what_it_stands_on(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    base = make("base")
    held, read, free = (make(name, base.ref) for name in ("held", "read", "free"))
    layer = layer_of(store, store.refs.get(base.ref))
    with store.view(read.ref):
        usage = pruned(store, Holds(refs=(held.ref,)))
    assert usage.refs == (free.ref,)
    assert {BY_BUILD, BEING_READ} <= {row.why for row in usage.kept}
    assert layer.digest in store.blobs
    assert pruned(store).refs[-1] == base.ref


def test_a_result_that_comes_into_use_after_the_plan_stays_and_so_does_its_parent(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    base = make("base")
    top = make("top", base.ref)
    collector = Collector(store)
    plan = collector.plan([ALL], Holds(), ())
    with store.view(top.ref):
        usage = collector.remove(plan, (), verbose=True)
        assert usage.refs == ()
    assert [item.why for item in usage.items] == [USED_NOW, USED_NOW]
    with store.view(top.ref) as tree:
        assert (tree.root / "base").exists()


def test_a_result_that_was_used_after_the_plan_stays_with_its_layer(
    store: Store, make: Callable[..., RefInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It may have gone to a worker that has nothing else of it, and counts on this one.
    made = make("made")
    layer = layer_of(store, store.refs.get(made.ref))
    collector = Collector(store)
    plan = collector.plan([ALL], Holds(), ())
    later_s = time.time() + 1
    monkeypatch.setattr(time, "time", lambda: later_s)
    with store.view(made.ref):
        pass
    assert collector.remove(plan, (), verbose=False).refs == ()
    assert layer.digest in store.blobs
    assert pruned(store).refs == (made.ref,)


async def test_a_result_that_was_made_again_while_others_went_is_not_said_to_be_gone(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    made, gone = make("made"), make("gone")

    def is_swept() -> bool:
        assert make("made").ref == made.ref
        return False

    keeper = DiskKeeper(store, None)
    usage = await keeper.perform(Prune((ALL,), NOTHING), sweep_nodes=is_swept)
    assert isinstance(usage, Usage)
    assert usage.refs == (gone.ref,)


def test_a_blob_of_which_a_result_was_made_after_the_plan_stays(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    def apply(layer: Layer) -> RefInfo:
        with store.blobs.holding([layer.digest]):
            return apply_blob(store, layer, None, ())

    layer = layer_of(store, store.refs.get(make("made").ref))
    pruned(store, Holds(last_copies=(layer.digest,)))
    collector = Collector(store)
    plan = collector.plan([ALL], Holds(), ())
    info = apply(layer)
    usage = collector.remove(plan, (), verbose=True)
    assert [item.why for item in usage.items] == [USED_NOW]
    assert layer_of(store, store.refs.get(info.ref)) == layer
    assert layer.digest in store.blobs


def test_a_blob_of_which_a_result_is_just_made_stays(
    store: Store, make: Callable[..., RefInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(store, store.refs.get(make("made").ref))
    pruned(store, Holds(last_copies=(layer.digest,)))
    unpack = chains.apply_blob

    def late_unpack(
        store: Store, layer: Layer, parent: None, keys: Sequence[Digest], *, limits: Limits
    ) -> RefInfo:
        pruned(store)
        return unpack(store, layer, parent, keys, limits=limits)

    monkeypatch.setattr(chains, "apply_blob", late_unpack)
    nothing = Manifest(put(store.nodes, EMPTY_DIRECTORY), store.nodes)
    given = GivenBlobs(TreeView(nothing, store.work))
    info = import_layers(store, [layer], given, ())
    assert layer.digest in store.blobs
    assert info.layer == layer


def test_a_result_that_goes_while_somebody_takes_it_is_said_to_be_missing_here(
    store: Store, make: Callable[..., RefInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which the manager knows what to do about: it places the step again.
    made = make("made")
    held = store.refs.get(made.ref)
    monkeypatch.setattr(store.refs, "touch", lambda *_: pruned(store))
    with pytest.raises(RefMissing), store.view(made.ref):
        pass
    assert store.snapshots.list() == []
    with pytest.raises(RefMissing):
        layer_of(store, held)
    with pytest.raises(RefMissing):
        store.prepare_on(held)


def test_what_a_later_policy_removes_is_removed_once_and_not_said_to_stay(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    layer_of(store, store.refs.get(make("a").ref))
    only_blobs = PrunePolicy(kinds=(Kind.BLOB,))
    plan = Collector(store).plan([only_blobs, ALL, ALL], NOTHING, ())
    assert [item.key.kind for item in plan.remove] == [Kind.RESULT, Kind.BLOB, Kind.BLOB]
    assert plan.kept == ()
    assert Collector(store).plan([only_blobs], NOTHING, ()).kept


def test_the_last_copy_of_a_published_blob_stays_though_its_result_goes(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    info = make("one")
    layer = layer_of(store, store.refs.get(info.ref))
    usage = pruned(store, Holds(last_copies=(layer.digest,)))
    assert usage.refs == (info.ref,)
    assert [row.why for row in usage.kept] == [LAST_COPY]
    assert layer.digest in store.blobs
    assert counts(pruned(store)) == {Kind.BLOB: 1}


def test_another_form_of_a_layer_goes_alone_only_where_another_worker_has_it(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    info = make("one")
    held = store.refs.get(info.ref)
    own, pushed = layer_of(store, held), layer_as(store, held, LayerForm(Compression.GZIP))
    assert own.digest != pushed.digest
    assert Collector(store).holdings().variants == ((own.digest, pushed.digest),)
    blobs = PrunePolicy(kinds=(Kind.BLOB,))
    assert counts(pruned(store, Holds(), blobs)) == {}
    assert counts(pruned(store, Holds(copied=(own.digest, pushed.digest)), blobs)) == {
        Kind.BLOB: 1
    }
    assert own.digest in store.blobs
    assert pushed.digest not in store.blobs


def test_what_an_export_is_made_of_stays_until_it_is_in_it(
    store: Store, make: Callable[..., RefInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = make("one")
    first = layer_as(store, store.refs.get(info.ref), LayerForm(Compression.GZIP))
    holds = Holds(refs=(info.ref,), copied=(first.digest,))  # as another worker has it, too
    image_of, holding = exports.image_of, store.blobs.holding
    went: list[int] = []

    def prune() -> None:
        went.append(sum(counts(pruned(store, holds)).values()))

    def late_image(
        layers: Sequence[Layer], config: bytes, told: dict[str, str]
    ) -> exports.Image:
        prune()
        return image_of(layers, config, told)

    def late_holding(digests: list[str]) -> AbstractContextManager[None]:
        if not went:
            prune()
        return holding(digests)

    monkeypatch.setattr(exports, "image_of", late_image)
    monkeypatch.setattr(store.blobs, "holding", late_holding)
    exported = exports.export(store, Export(info.ref, ExportForm.OCI))
    with exported.stack:
        name = first.digest.removeprefix("sha256:")
        assert (exported.root / "blobs/sha256" / name).stat().st_size == first.size
    assert went == [1, 0], "it went before it was held, and was made again"


def test_a_skeleton_is_no_published_blob_and_goes_with_its_result_alone(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    info = make("one")
    layer = layer_of(store, store.refs.get(info.ref))
    skeleton = skeletons.find(store, layer)
    assert skeleton is not None
    assert Collector(store).holdings().variants == ()
    blobs = PrunePolicy(kinds=(Kind.BLOB,))
    assert counts(pruned(store, Holds(copied=(skeleton.digest,)), blobs)) == {}
    pruned(store)
    assert skeleton.digest not in store.blobs


def test_what_is_known_of_a_layers_other_forms_goes_with_the_layer_and_the_last_of_them(
    store: Store, make: Callable[..., RefInfo]
) -> None:
    held = store.refs.get(make("one").ref)
    pushed = layer_as(store, held, LayerForm(Compression.GZIP))
    assert len(store.refs.variants()) == 2, "the skeleton too"
    pruned(store, policy=PrunePolicy(kinds=(Kind.BLOB,)))
    assert len(store.refs.variants()) == 2, "the layer's result is here"
    pruned(store, Holds(last_copies=(pushed.digest,)))
    assert [blob for *_, blob in store.refs.variants()] == [pushed.digest]
    pruned(store)
    assert store.refs.variants() == []


def test_what_has_arrived_of_a_layer_is_counted_and_goes_unless_somebody_goes_on_with_it(
    store: Store,
) -> None:
    with store.arriving(Digest(bytes(32))) as path:
        path.mkdir()
        (path / "some").write_bytes(b"x" * 100)
        assert counts(pruned(store)) == {}
    assert counts(pruned(store)) == {Kind.PARTIAL: 1}
    assert not path.exists()


def test_beginnings_of_blobs_are_counted_and_go_unless_somebody_goes_on_with_them(
    store: Store,
) -> None:
    with store.blobs.resume(OTHER, 1000) as writer:
        writer.write(b"x" * 300)
    row = next(r for r in Collector(store).usage(Holds(), (), verbose=False).rows if r.size)
    assert (row.kind, row.count, row.size, row.reclaimable) == (Kind.PARTIAL, 1, 300, 300)
    with store.blobs.holding([OTHER]):
        assert [kept.why for kept in pruned(store).kept] == [ON_ITS_WAY]
    assert counts(pruned(store)) == {Kind.PARTIAL: 1}


def test_when_a_result_was_used_outlives_the_worker(
    tmp_path: Path, store: Store, make: Callable[..., RefInfo]
) -> None:
    old, new = make("old"), make("new")
    later_s = time.time() + 3600
    store.refs.touch(old.ref, later_s)
    store.close()
    again = Store.open(tmp_path, snapshotter="copy")
    assert again.refs.used_s(old) == later_s
    assert again.refs.used_s(new) == new.created_s
    again.close()


def test_a_blob_is_used_when_it_is_opened(store: Store) -> None:
    blob = store.blobs.ingest([b"data"])
    os.utime(store.blobs.path(blob.digest), (50, 50))
    assert store.blobs.used_s(blob.digest) == 50
    store.blobs.open(blob.digest).close()
    assert store.blobs.used_s(blob.digest) > 50
