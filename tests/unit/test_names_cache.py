"""What is noted of names in a directory, and of what else is in it: each stays for who looks next."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.disk.scanning import reading
from filesync.disk.scanning import scan as scan_module
from filesync.disk.scanning.readfile import Content, read_file
from filesync.disk.scanning.statcache import Seen
from filesync.disk.scanning.statcaches import open_cache
from filesync.manifest import MemoryNodes
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.scanning import scan_place

FILES = ("one", "two", "three", "sub/in", "sub/deep/in", "other/in")
BIG = b"big enough to be worth it" * (1 << 16)


@pytest.fixture(autouse=True)
def _old_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scans believe in files as young as these are."""
    monkeypatch.setattr(scan_module, "is_racy", lambda *_, **__: False)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Names of the files that scans read."""
    names: set[bytes] = set()

    def counting(dirfd: int, name: bytes, path: bytes, *rest: object) -> Content:
        names.add(path)
        real: Callable[..., Content] = read_file
        return real(dirfd, name, path, *rest)

    monkeypatch.setattr(reading, "read_file", counting)
    monkeypatch.setattr(reading, "read_small", lambda *_: None)
    return names


Scan = Callable[..., set[bytes]]


@pytest.fixture
def scanned(tmp_path: Path, read: set[bytes]) -> Scan:
    """Scan names of a directory, or all of it; say what was read."""
    root = tmp_path / "tree"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() + BIG)

    def scan(*names: bytes) -> set[bytes]:
        read.clear()
        path = os.fsencode(root)
        fd = LocalPlaces().open(path)
        place = Place(fd, root, names=frozenset(names) or None, trees=bool(names), label=path)
        found = scan_place(place, MemoryNodes(), caches=tmp_path / "caches")
        place.close()
        tops = set(names) or {os.fsencode(name) for name in os.listdir(root)}
        assert {entry.name for entry in found.manifest.root.entries} <= tops
        return set(read)

    return scan


def test_a_name_more_is_all_that_is_read(scanned: Scan) -> None:
    assert scanned(b"one", b"sub") == {b"one", b"sub/in", b"sub/deep/in"}
    assert scanned(b"one", b"sub", b"two") == {b"two"}
    assert scanned(b"two", b"sub") == set()
    assert scanned(b"one", b"three") == {b"three"}


def test_who_scans_all_of_it_reads_no_name_again_and_the_other_way_round(scanned: Scan) -> None:
    scanned(b"one", b"sub")
    assert scanned() == {b"two", b"three", b"other/in"}
    assert scanned(b"one", b"other") == set()
    assert scanned() == set()


def test_what_has_changed_is_read_whoever_scans_next(scanned: Scan, tmp_path: Path) -> None:
    scanned()
    (tmp_path / "tree/one").write_bytes(b"changed" + BIG)
    assert scanned(b"one", b"two") == {b"one"}
    assert scanned(b"three", b"one") == set()
    assert scanned() == set()


def test_names_whose_order_of_scans_changes_read_nothing(scanned: Scan) -> None:
    scanned(b"one")
    scanned(b"two", b"other")
    for names in ((b"one",), (b"two", b"other"), (b"one", b"other"), ()):
        if names:
            assert scanned(*names) == set()


def noted(tmp_path: Path, directory: bytes) -> Seen | None:
    """Return what is noted of a directory."""
    of = os.fsencode(tmp_path / "tree")
    with open_cache(tmp_path / "caches", of) or pytest.fail("no cache") as cache:
        return cache.load(directory)


def rows(tmp_path: Path) -> set[bytes]:
    """Return the directories of which something is noted."""
    paths = (b"", b"sub", b"sub/deep", b"other")
    return {path for path in paths if noted(tmp_path, path) is not None}


def test_of_names_that_are_as_they_were_nothing_is_noted_anew(
    scanned: Scan, tmp_path: Path
) -> None:
    """What is noted of all names may be much, and a scan of few takes as long as to read few."""
    scanned()
    before = noted(tmp_path, b"")
    assert scanned(b"one", b"sub") == set()
    assert noted(tmp_path, b"") == before
    (tmp_path / "tree/one").write_bytes(b"changed" + BIG)
    scanned(b"one", b"sub")
    assert noted(tmp_path, b"") != before


def test_what_is_noted_of_directories_that_are_gone_goes(scanned: Scan, tmp_path: Path) -> None:
    scanned()
    assert rows(tmp_path) == {b"", b"sub", b"sub/deep", b"other"}
    os.rename(tmp_path / "tree/sub/deep", tmp_path / "deep")
    scanned(b"one", b"sub")  # the other one is none of the names, and is there
    assert rows(tmp_path) == {b"", b"sub", b"other"}
    os.rename(tmp_path / "tree/other", tmp_path / "other")
    scanned(b"one", b"sub")  # nor is that one of the names, but it is gone
    assert rows(tmp_path) == {b"", b"sub"}


def test_what_is_noted_of_files_that_are_gone_goes_when_anything_changes(
    scanned: Scan, tmp_path: Path
) -> None:
    scanned(b"one", b"two", b"three")
    os.unlink(tmp_path / "tree/two")
    (tmp_path / "tree/one").write_bytes(b"changed" + BIG)
    scanned(b"one")
    seen = noted(tmp_path, b"")
    assert seen is not None
    assert seen.noted().keys() == {b"one", b"three"}
