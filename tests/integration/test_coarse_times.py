"""Syncs to a file system that keeps times in seconds."""

import asyncio
import os
from pathlib import Path

import pytest

from filesync.sync import places
from filesync.sync.options import Options
from tests.integration.ways import Way, given, local, taken

SECOND_NS = 1_000_000_000
every = pytest.mark.parametrize("way", [local, given, taken])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a source is, and a destination that has it all, with its times in seconds."""
    for top in ("src", "dest"):
        (tmp_path / top / "d").mkdir(parents=True)
        for name in ("d/in", "file"):
            (tmp_path / top / name).write_text(name)
        for name in ("d/in", "file", "d", "."):
            odd_ns = 123_456_789 if top == "src" else 0
            os.utime(tmp_path / top / name, ns=(17 * SECOND_NS, 17 * SECOND_NS + odd_ns))
    monkeypatch.setattr(places, "tick_of", lambda _: SECOND_NS)
    return tmp_path


def synced(way: Way, root: Path, *, dry_run: bool = False) -> list[str]:
    """Sync all, and return what that says it changes."""
    lines: list[str] = []
    options = Options(on_changes=lines.extend, dry_run=dry_run)
    asyncio.run(way(root, options))
    return lines


@every
@pytest.mark.parametrize("dry_run", [False, True], ids=["done", "dry run"])
def test_what_has_its_times_as_well_as_it_can_is_not_changed(
    way: Way, root: Path, *, dry_run: bool
) -> None:
    assert synced(way, root, dry_run=dry_run) == []
    assert (root / "dest/file").stat().st_mtime_ns == 17 * SECOND_NS


@every
def test_what_has_another_time_gets_it(way: Way, root: Path) -> None:
    os.utime(root / "dest/file", ns=(16 * SECOND_NS, 16 * SECOND_NS))
    assert len(synced(way, root)) == 1
    assert (root / "dest/file").stat().st_mtime_ns == 17 * SECOND_NS + 123_456_789
    assert (root / "dest/d/in").stat().st_mtime_ns == 17 * SECOND_NS


@every
def test_what_has_another_content_gets_it_though_its_time_looks_right(
    way: Way, root: Path
) -> None:
    (root / "dest/file").write_text("else")
    os.utime(root / "dest/file", ns=(17 * SECOND_NS, 17 * SECOND_NS))
    assert len(synced(way, root)) == 1
    assert (root / "dest/file").read_text() == "file"
