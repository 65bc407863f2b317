"""Cache records: what is known of refs, and which keys have them."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from filesync.digest import Digest
from filesync.errors import StoreError
from solver.manager.records import SCHEMA_VERSION, Records
from tests.unit.solver.fakes import digest, layer_of
from worker.wire.orders import RefInfo

ONE = RefInfo(digest("one"), digest("tree one"), None, (digest("key"),), 1.0, tar_size=10)
TWO = RefInfo(digest("two"), digest("tree two"), ONE.ref, (), 2.0)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path / "records.db")
    yield made
    made.close()


def bare(info: RefInfo) -> RefInfo:
    return msgspec.structs.replace(info, keys=())


def test_ref_is_found_by_each_of_its_keys(records: Records) -> None:
    records.add(ONE)
    records.add_keys(ONE.ref, [digest("other key")])
    assert records.find(digest("key")) == records.find(digest("other key")) == [bare(ONE)]
    assert records.find(digest("no key")) == []


def test_key_of_many_refs_gives_the_newest_first(records: Records) -> None:
    newer = msgspec.structs.replace(TWO, keys=ONE.keys)
    records.add(newer)
    records.add(ONE)
    assert records.find(digest("key")) == [bare(newer), bare(ONE)]


def test_key_of_a_ref_that_is_not_known_finds_nothing_until_it_is(records: Records) -> None:
    records.add_keys(ONE.ref, [digest("early")])
    assert records.find(digest("early")) == []
    records.add(ONE)
    assert records.find(digest("early")) == [bare(ONE)]


def test_adding_twice_is_adding_once(records: Records) -> None:
    records.add(ONE)
    records.add(ONE)
    assert records.find(digest("key")) == [bare(ONE)]
    assert records.trees() == [ONE.tree]


def test_layer_once_known_stays(records: Records) -> None:
    layered = msgspec.structs.replace(ONE, layer=layer_of(ONE.ref))
    records.add(layered)
    records.add(ONE)
    assert records.ref(ONE.ref) == bare(layered)


def test_chain_has_the_parents_first(records: Records) -> None:
    records.add(TWO)
    records.add(ONE)
    assert records.chain(TWO.ref) == (bare(ONE), bare(TWO))


def test_chain_that_a_worker_has_made_a_ring_of_is_an_error(records: Records) -> None:
    records.add(msgspec.structs.replace(ONE, parent=TWO.ref))
    records.add(TWO)
    with pytest.raises(StoreError, match="made of itself"):
        records.chain(TWO.ref)


def test_chain_with_an_unknown_parent_is_an_error(records: Records) -> None:
    records.add(TWO)
    with pytest.raises(StoreError, match="is not known"):
        records.chain(TWO.ref)


def test_forgotten_ref_is_not_found_by_any_key(records: Records) -> None:
    records.add(ONE)
    records.add(msgspec.structs.replace(TWO, parent=None))
    records.forget([ONE.ref, digest("never there")])
    assert records.find(digest("key")) == []
    assert records.ref(ONE.ref) is None
    records.add(bare(ONE))
    assert records.find(digest("key")) == [], "its keys went with it"


def test_what_others_were_made_on_top_of_is_not_forgotten(records: Records) -> None:
    three = RefInfo(digest("three"), digest("tree three"), TWO.ref, (), 3.0)
    for info in (ONE, TWO, three):
        records.add(info)
    records.forget([ONE.ref, TWO.ref])
    assert records.chain(three.ref) == (bare(ONE), bare(TWO), bare(three))
    records.forget([ONE.ref, TWO.ref, three.ref])
    assert records.trees() == []


def test_records_outlive_the_process(tmp_path: Path) -> None:
    first = Records(tmp_path / "records.db")
    first.add(ONE)
    first.close()
    second = Records(tmp_path / "records.db")
    assert second.find(digest("key")) == [bare(ONE)]
    second.close()


def test_records_of_another_version_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(StoreError, match="give another --state directory, or remove that one"):
        Records(path)


@pytest.mark.parametrize(
    "damage",
    ["UPDATE refs SET info = x'c1'", "DROP TABLE refs"],
    ids=["a row", "all of it"],
)
def test_damaged_records_say_what_to_do(tmp_path: Path, records: Records, damage: str) -> None:
    records.add(ONE)
    with sqlite3.connect(tmp_path / "records.db") as other:
        other.execute(damage)
    other.close()
    asked = (
        lambda: records.find(digest("key")),
        lambda: records.ref(ONE.ref),
        lambda: records.add(ONE),
        lambda: records.forget([ONE.ref]),
        records.trees,
    )
    for ask in asked:
        with pytest.raises(StoreError, match="remove the manager's --state directory"):
            ask()


def test_a_copy_that_came_later_does_not_make_a_result_younger(records: Records) -> None:
    records.add(ONE)
    records.add(msgspec.structs.replace(ONE, created_s=9.0))
    known = records.ref(ONE.ref)
    assert known is not None
    assert known.created_s == ONE.created_s


def test_the_beginning_of_a_key_is_enough_to_find_it(records: Records) -> None:
    first, second = (Digest(bytes([0xAB, 0xCD, 0xEF, n]) + bytes(28)) for n in (1, 2))
    records.add(ONE)
    records.add_keys(ONE.ref, [second, first])
    assert records.keys_like("abcdef01") == [first]
    assert records.keys_like(second.hex()) == [second]
    assert records.keys_like("abcdef0") == [first, second]
    assert records.keys_like("00000000") == []
    assert records.keys(ONE.ref) == tuple(sorted([first, second, *ONE.keys]))
    assert records.keys(TWO.ref) == ()
