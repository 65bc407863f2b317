"""Scans at the same time: what one has read the others need not, and none is given what was there before."""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filesync.digest import EMPTY
from filesync.disk.scanning import listing, reading
from filesync.disk.scanning.scan import Scanned, scan
from filesync.disk.scanning.statcache import FINE_SLACK_NS, StatCache
from filesync.disk.scanning.together import MOST_FILES, TOGETHER, Files, Together
from filesync.manifest import File, MemoryNodes
from tests.unit.test_scan_again import ACTIONS, act

LARGE_BYTES = reading.LARGE_BYTES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of nine files, two of them one, that have not changed just now."""
    root = tmp_path / "root"
    for number in range(6):
        (root / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        (root / f"d{number % 3}/{number}").write_bytes(b"%d" % number * 100)
    (root / "d0/large").write_bytes(os.urandom(LARGE_BYTES))
    os.link(root / "d0/0", root / "d1/link")
    (root / "d2/shut").write_bytes(b"")
    time.sleep(2e-9 * FINE_SLACK_NS)
    return root


@pytest.fixture
def together_with_another() -> Iterator[None]:
    """Another scan is under way all the time."""
    with TOGETHER.scan():
        yield


def scanned(root: Path, number: int = 0) -> Scanned:
    """Scan with a stat cache that knows nothing."""
    with StatCache(root.parent / f"{number}.db") as cache:
        return scan(root, MemoryNodes(), cache=cache)


@pytest.mark.usefixtures("together_with_another")
def test_of_many_scans_each_file_is_read_by_one(root: Path) -> None:
    alone = scan(root, MemoryNodes())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(scanned, [root] * 4, range(4)))
    assert {one.tree for one in found} == {alone.tree}
    assert sum(one.files_read for one in found) == alone.files_read


def test_who_is_alone_keeps_nothing(root: Path) -> None:
    first, second = scanned(root, 1), scanned(root, 2)
    assert first.files_read == second.files_read == 8


@pytest.mark.usefixtures("together_with_another")
def test_what_another_has_read_is_noted_by_both(root: Path) -> None:
    scanned(root, 1)
    assert scanned(root, 2).files_read == 0
    (root / "d1/new").write_bytes(b"new")
    assert scanned(root, 2).files_read == 1
    for number in (1, 2):
        assert scanned(root, number).tree == scan(root, MemoryNodes()).tree


@pytest.mark.usefixtures("together_with_another")
def test_what_may_change_without_showing_it_is_read_by_each(root: Path) -> None:
    (root / "d0/late").write_bytes(b"as if it was written after the scan had begun")
    os.utime(root / "d0/late", (time.time() + 60,) * 2)
    scanned(root, 1)
    assert scanned(root, 2).files_read == 1


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(st.lists(st.lists(ACTIONS, max_size=6), min_size=2, max_size=4))
def test_a_scan_beside_others_finds_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[str, str, object]]]
) -> None:
    top = tmp_path_factory.mktemp("any")
    root, when = top / "r", 0
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch, TOGETHER.scan():
        patch.setattr(listing, "is_racy", lambda *_, **__: False)
        for number, step in enumerate(steps):
            for what, path, argument in step:
                when += 1
                act(root, what, path, argument, when)
            assert scanned(root, number).tree == scan(root, MemoryNodes()).tree
    shutil.rmtree(top)


# --- who reads which directory --------------------------------------------------------------


def files(count: int) -> Files:
    return {
        b"%d" % number: (File(b"", 0, 0, 0, 0, 0, EMPTY), 1, 1, 1) for number in range(count)
    }


def test_what_somebody_failed_to_read_another_reads() -> None:
    together = Together()
    with together.scan(), together.scan():
        assert together.begin((1, 1), patience_s=0) is None
        together.end((1, 1), dict)
        assert together.begin((1, 1), patience_s=0) is None


def test_who_has_waited_long_reads_without_waiting_and_keeps_nobody() -> None:
    together = Together()
    with together.scan(), together.scan():
        assert together.begin((1, 1), patience_s=0) is None
        assert together.begin((1, 1), patience_s=0.01) == {}
        together.end((1, 1), lambda: files(1))
        assert together.begin((1, 1), patience_s=0) == files(1)


def test_no_more_is_kept_than_some_thousand_files_and_nothing_in_the_end() -> None:
    together = Together()
    with together.scan(), together.scan():
        for inode, count in enumerate((MOST_FILES // 2, MOST_FILES // 2, 1, MOST_FILES + 1)):
            together.begin((1, inode), patience_s=0)
            together.end((1, inode), lambda count=count: files(count))  # type: ignore[misc]
            kept = [one for one in range(4) if together.begin((1, one), patience_s=0)]
            assert kept == [[0], [0, 1], [1, 2], []][inode]
            for one in range(4):
                together.end((1, one), dict)
    with together.scan(), together.scan():
        assert together.begin((1, 0), patience_s=0) is None
