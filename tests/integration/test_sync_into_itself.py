"""A source that contains its destination is given once, through a server as on one machine."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.sync.options import Options
from filesync.transfer.send import growing
from tests.integration.ways import Way, given, local, taken

SCAN_S = 0.2


@pytest.fixture(autouse=True)
def slow_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each directory is handed on at once, and has come before the next one is scanned."""
    real: Callable[[growing.GrowingTree, bytes, Digest], None]
    real = growing.GrowingTree.directory_done

    def slowly(tree: growing.GrowingTree, path: bytes, digest: Digest) -> None:
        real(tree, path, digest)
        time.sleep(SCAN_S)

    monkeypatch.setattr(growing, "HANDED_DIRECTORIES", 1)
    monkeypatch.setattr(growing.GrowingTree, "directory_done", slowly)


by_a_server = pytest.mark.parametrize("way", [given, taken])


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@by_a_server
@pytest.mark.parametrize("dest", ["copy", "z/copy"])
def test_a_source_that_contains_its_empty_destination_is_given_once(
    way: Way, dest: str, tmp_path: Path
) -> None:
    for name in ("a", "b", dest):
        (tmp_path / "big" / name).mkdir(parents=True)
    (tmp_path / "big/a/f").write_bytes(b"f")
    (tmp_path / "big/b/g").write_bytes(b"g")
    asyncio.run(way(tmp_path, source="big", to=f"big/{dest}"))
    assert files_below(tmp_path) == [
        *("big/a/f", "big/b/g"),
        *(f"big/{dest}/a/f", f"big/{dest}/b/g"),
    ]


@by_a_server
@pytest.mark.parametrize("dest", ["copy", "z/copy"])
def test_nothing_is_added_before_the_end_to_a_destination_that_its_source_contains(
    way: Way, dest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("giving", "taking"):
        monkeypatch.setattr(f"filesync.sync.remote.{module}.ADD_AFTER_S", 0.001)
    for name in ("a", "b", dest):
        (tmp_path / "big" / name).mkdir(parents=True)
        (tmp_path / "big" / name / "f").write_text(name)
    options = Options(caches=tmp_path / "caches")
    asyncio.run(way(tmp_path, options, source="big", to=f"big/{dest}"))
    given_files = {"a/f", "b/f", f"{dest}/f"}
    here = {f"{dest}/{name}" for name in given_files} | given_files
    assert files_below(tmp_path / "big") == sorted(here)


@pytest.mark.parametrize("way", [given, taken, local])
def test_directories_of_which_one_contains_their_empty_destination_are_given_once(
    way: Way, tmp_path: Path
) -> None:
    for name in ("a/f", "b/copy/g", "b/h"):
        (tmp_path / "big" / name).mkdir(parents=True)
        (tmp_path / "big" / name / "in").write_bytes(b"f")
    (tmp_path / "big/b/z").mkdir()
    asyncio.run(way(tmp_path, names="ab", source="big", to="big/b/z"))
    there = ["a/f/in", "b/copy/g/in", "b/h/in"]
    assert files_below(tmp_path / "big") == sorted([*there, *(f"b/z/{path}" for path in there)])


@by_a_server
def test_a_source_beside_its_empty_destination_is_given_while_it_is_scanned(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[growing.Handed] = []
    real = growing.GrowingTree.take

    def take(tree: growing.GrowingTree) -> growing.Handed:
        handed.append(real(tree))
        return handed[-1]

    monkeypatch.setattr(growing.GrowingTree, "take", take)
    (tmp_path / "big/a").mkdir(parents=True)
    (tmp_path / "big/a/f").write_bytes(b"f")
    asyncio.run(way(tmp_path, source="big", to="bigger"))
    assert files_below(tmp_path) == ["big/a/f", "bigger/a/f"]
    assert [len(one.directories) for one in handed if one.directories] == [1, 1]
