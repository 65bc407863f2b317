"""Leases on a worker's results: what is held stays, and what nobody renews is let go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.manifest import EMPTY_DIRECTORY, Manifest, put
from worker.garbage.collector import Collector
from worker.store import Store
from worker.store.leases import Leases
from worker.store.refs import RefMissing
from worker.store.results import keep
from worker.wire.disk import Holds, PrunePolicy
from worker.wire.leases import (
    AskLacking,
    EndLeases,
    Held,
    Hold,
    HoldCached,
    Lacking,
    RenewLeases,
)
from worker.wire.orders import Finished

ONE, TWO = (bytes([n]) * 16 for n in (1, 2))
KEY = Digest(b"k" * 32)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path, snapshotter="copy")
    yield opened
    opened.close()


def made(store: Store, text: str, parent: Digest | None = None) -> Digest:
    below = None if parent is None else store.refs.get(parent).snapshot
    active = store.snapshots.prepare(below)
    (active.path / text).write_text(text)
    return keep(store, active, {}, parent, ()).ref


def left(store: Store) -> set[Digest]:
    """Prune, and return which results are still there."""
    collector = Collector(store)
    plan = collector.plan((PrunePolicy(),), Holds(), ())
    collector.remove(plan, set(), verbose=False)
    return {info.ref for info in store.refs.infos()}


def test_what_is_held_stays_with_all_that_it_stands_on(store: Store) -> None:
    leases = Leases(store, Clock())
    base = made(store, "base")
    top, other = made(store, "top", base), made(store, "other", base)
    leases.hold(ONE, top, 60)
    assert left(store) == {base, top}
    assert other not in left(store)
    leases.end([ONE, TWO])
    leases.end([ONE])
    assert left(store) == set()


def test_a_lease_that_nobody_renews_ends_and_one_that_is_renewed_does_not(
    store: Store,
) -> None:
    clock = Clock()
    leases = Leases(store, clock)
    one, two = made(store, "one"), made(store, "two")
    leases.hold(ONE, one, 60)
    leases.hold(TWO, two, 60)
    clock.now_s += 59
    leases.expire()
    assert leases.perform(RenewLeases((TWO, bytes(16)), 60)) == Finished()
    clock.now_s += 1
    leases.expire()
    assert left(store) == {two}
    leases.close()
    assert left(store) == set()


def test_two_leases_on_one_result_are_two(store: Store) -> None:
    leases = Leases(store, Clock())
    ref = made(store, "one")
    leases.hold(ONE, ref, 60)
    leases.hold(TWO, ref, 60)
    leases.perform(EndLeases((ONE,)))
    assert left(store) == {ref}
    leases.perform(EndLeases((TWO,)))
    assert left(store) == set()


def test_a_question_about_a_key_is_answered_and_held_in_one(store: Store) -> None:
    leases = Leases(store, Clock())
    assert leases.perform(HoldCached(KEY, ONE, 60)) == Held()
    ref = made(store, "one")
    assert leases.perform(HoldCached(KEY, ONE, 60)) == Held()
    # The manager knows that the key has this result; from now on its worker does as well.
    held = leases.perform(HoldCached(KEY, ONE, 60, (Digest(bytes(32)), ref)))
    assert isinstance(held, Held)
    assert held.ref is not None
    assert (held.ref.ref, held.ref.keys) == (ref, (KEY,))
    assert isinstance(again := leases.perform(HoldCached(KEY, TWO, 60)), Held)
    assert again.ref == held.ref
    assert left(store) == {ref}


def test_what_is_not_there_is_not_held(store: Store) -> None:
    leases = Leases(store, Clock())
    gone = Digest(b"g" * 32)
    assert leases.perform(Hold(gone, ONE, 60)) == Held()
    with pytest.raises(RefMissing):
        leases.hold(ONE, gone, 60)
    here = made(store, "here")
    assert leases.perform(AskLacking((gone, here))) == Lacking((gone,))


def test_a_source_that_is_kept_for_a_build_is_not_lacking(store: Store) -> None:
    leases = Leases(store, Clock())
    tree, source = put(store.nodes, EMPTY_DIRECTORY), Digest(b"s" * 32)
    sealed = store.sources.seal(store.sources.take("context"), tree)
    store.hold_source(source, sealed, Manifest(tree, store.nodes))
    assert leases.perform(AskLacking((source,))) == Lacking(())
    store.release_source(source)
    assert leases.perform(AskLacking((source,))) == Lacking((source,))
