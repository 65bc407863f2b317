"""Rows of the stat cache that are read before they are asked for: fewer questions, the same answers."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.disk.scanning import statcache
from filesync.disk.scanning.statcache import Noted, StatCache

paths = st.lists(st.sampled_from([b"a", b"a-b", b"b", b"b\xff"]), max_size=3).map(b"/".join)


def noted(number: int) -> dict[bytes, Noted]:
    """Return what differs for each number."""
    return {b"f": Noted(number, 2, 3, 4, 5, digest_of(b"%d" % number))}


def is_noted(cache: StatCache, path: bytes, number: int | None) -> bool:
    seen = cache.load(path)
    return (
        seen is None if number is None else seen is not None and seen.noted() == noted(number)
    )


@settings(max_examples=50)
@given(st.dictionaries(paths, st.integers(0, 9)), st.lists(st.lists(paths), max_size=3))
def test_each_directory_is_found_in_whatever_order_they_are_asked_for(
    kept: dict[bytes, int], scans: list[list[bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as root, StatCache(Path(root, "cache")) as cache:
        for path, number in kept.items():
            cache.store(path, noted(number))
        cache.end(complete=False)
        for asked in [sorted(kept), *scans]:
            cache.begin()
            assert all(is_noted(cache, path, kept.get(path)) for path in dict.fromkeys(asked))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Where rows were read."""
    asked: list[bytes] = []
    really = StatCache._read_ahead

    def read_ahead(cache: StatCache, directory: bytes) -> None:
        asked.append(directory)
        really(cache, directory)

    monkeypatch.setattr(StatCache, "_read_ahead", read_ahead)
    return asked


def test_a_scan_of_a_thousand_directories_reads_some_dozen_times(
    tmp_path: Path, reads: list[bytes]
) -> None:
    directories = [b"%02d/%02d" % divmod(number, 100) for number in range(1000)]
    with StatCache(tmp_path / "cache") as cache:
        for number, path in enumerate(directories):
            cache.store(path, noted(number))
        cache.end(complete=False)
        cache.begin()
        assert all(is_noted(cache, path, number) for number, path in enumerate(directories))
        assert len(reads) < 20
        cache.end(complete=True)
        assert is_noted(cache, directories[0], 0)  # all have been met


def test_of_large_directories_no_more_than_one_too_many_is_held(
    tmp_path: Path, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statcache, "_AHEAD_BYTES", 1)
    with StatCache(tmp_path / "cache") as cache:
        for number in range(9):
            cache.store(b"%d" % number, noted(number))
        cache.end(complete=False)
        cache.begin()
        assert all(is_noted(cache, b"%d" % number, number) for number in range(9))
        assert len(reads) == 9


def test_among_new_directories_each_reads_no_more_than_one_row(
    tmp_path: Path, reads: list[bytes]
) -> None:
    with StatCache(tmp_path / "cache") as cache:
        for number in range(100):
            cache.store(b"z%02d" % number, noted(number))
        cache.end(complete=False)
        cache.begin()
        for number in range(100):
            assert is_noted(cache, b"a%02d" % number, None)
            assert len(cache._ahead) <= 1
        assert is_noted(cache, b"z00", 0)


def test_a_first_scan_reads_nothing(tmp_path: Path, reads: list[bytes]) -> None:
    with StatCache(tmp_path / "cache") as cache:
        cache.begin()
        for number in range(9):
            assert is_noted(cache, b"%d" % number, None)
            cache.store(b"%d" % number, noted(number))
        cache.end(complete=True)
        assert reads == []
        cache.begin()
        assert all(is_noted(cache, b"%d" % number, number) for number in range(9))
