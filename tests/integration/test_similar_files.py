"""Large files that are new come by what they have of others that stay, where that is of use."""

import asyncio
import random
from pathlib import Path

import pytest

from filesync.sync.options import Options
from filesync.sync.saying.stats import SyncStats
from tests.integration.test_sync_plane import tree_of
from tests.integration.ways import Way, given, taken

COUNT = 20
SIZE = 300_000
either = pytest.mark.parametrize("way", [given, taken])


def run(way: Way, root: Path) -> SyncStats:
    stats = asyncio.run(way(root, Options(caches=root / "caches")))
    assert tree_of(root / "dest") == tree_of(root / "src")
    return stats


def write(root: Path, number: int, content: bytes | bytearray) -> None:
    root.mkdir(exist_ok=True)
    (root / f"dump-{number:02}").write_bytes(content)


@either
def test_of_many_dumps_beside_the_last_one_little_travels(way: Way, tmp_path: Path) -> None:
    rng = random.Random(7)
    content = bytearray(rng.randbytes(SIZE))
    write(tmp_path / "src", 0, content)
    run(way, tmp_path)
    for number in range(1, COUNT):
        content[number * 10_000] ^= 1
        write(tmp_path / "src", number, content)
    stats = run(way, tmp_path)
    assert stats.wire_in + stats.wire_out < COUNT * SIZE / 5


@either
def test_what_has_nothing_in_common_comes_all_the_same(way: Way, tmp_path: Path) -> None:
    rng = random.Random(8)
    for number in range(COUNT):
        write(tmp_path / "src", number, rng.randbytes(SIZE))
        if not number:
            run(way, tmp_path)
    stats = run(way, tmp_path)
    assert stats.wire_in + stats.wire_out < 1.03 * COUNT * SIZE
