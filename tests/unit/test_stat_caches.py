import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning import statcaches
from filesync.disk.scanning.statcache import Noted
from filesync.disk.scanning.statcaches import open_cache

NOTED = {b"f": Noted(1, 2, 3, 4, 5, digest_of(b"f"))}


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    return tmp_path / "home" / "caches"


def keep(caches: Path, of: bytes) -> None:
    with open_cache(caches, of) or pytest.fail("no cache") as cache:
        cache.begin()
        cache.store(b"", NOTED)
        cache.end(complete=True)


def is_kept(caches: Path, of: bytes) -> bool:
    with open_cache(caches, of) or pytest.fail("no cache") as cache:
        seen = cache.load(b"")
        return seen is not None and seen.noted() == NOTED


def test_what_is_kept_of_one_tree_is_found_again_for_it_alone(caches: Path) -> None:
    keep(caches, b"/a")
    assert is_kept(caches, b"/a")
    assert not is_kept(caches, b"/b")


def test_the_caches_that_were_used_last_stay(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statcaches, "MAX_CACHES", 3)
    monkeypatch.setattr(statcaches, "SLACK", 0)
    for name in (b"/a", b"/b", b"/c"):
        keep(caches, name)
    for age, file in enumerate(
        sorted(caches.glob("*.db"), key=lambda one: one.stat().st_mtime_ns)
    ):
        os.utime(file, (age, age))
    assert is_kept(caches, b"/a")  # and is the youngest for that
    keep(caches, b"/d")
    assert len(list(caches.glob("*.db"))) == 3
    assert [is_kept(caches, name) for name in (b"/a", b"/c", b"/d")] == [True] * 3
    assert not is_kept(caches, b"/b")


def test_the_oldest_go_when_there_are_some_too_many(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statcaches, "MAX_CACHES", 3)
    monkeypatch.setattr(statcaches, "SLACK", 2)
    left = []
    for number in range(7):
        keep(caches, b"%d" % number)
        left.append(len(list(caches.glob("*.db"))))
    assert left == [1, 2, 3, 4, 5, 3, 4]


def test_what_is_beside_the_caches_is_left_alone(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statcaches, "MAX_CACHES", 1)
    monkeypatch.setattr(statcaches, "SLACK", 0)
    (caches / "recipes").mkdir(parents=True)
    (caches / "note").write_bytes(b"")
    for name in (b"/a", b"/b"):
        keep(caches, name)
    assert {"recipes", "note"} < {file.name for file in caches.iterdir()}
    assert len(list(caches.glob("*.db*"))) == 1


def test_a_cache_that_goes_while_it_is_used_does_no_harm(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statcaches, "MAX_CACHES", 1)
    monkeypatch.setattr(statcaches, "SLACK", 0)
    with open_cache(caches, b"/a") or pytest.fail("no cache") as cache:
        cache.begin()
        keep(caches, b"/b")
        cache.store(b"", NOTED)
        cache.end(complete=True)
        assert cache.load(b"") is not None


def test_where_nothing_can_be_kept_there_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert open_cache(tmp_path / "file" / "caches", b"/a") is None


def test_many_that_come_to_a_new_cache_at_once_all_use_it(
    caches: Path, caplog: pytest.LogCaptureFixture
) -> None:
    together = Barrier(8)

    def use(number: int, of: bytes) -> None:
        together.wait()
        with open_cache(caches, of) or pytest.fail("no cache") as cache:
            cache.begin()
            cache.store(b"%d" % number, NOTED)
            cache.end(complete=False)

    for of in (b"%d" % number for number in range(20)):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(8), [of] * 8))
        with open_cache(caches, of) or pytest.fail("no cache") as cache:
            assert all(cache.load(b"%d" % number) for number in range(8))
    assert not caplog.records
