"""A sync that is cancelled, and cancelled again while it ends, as by who has no patience."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import Scanned, scan
from filesync.sync import scanning
from filesync.sync.options import Options
from tests.integration.ways import Way, given, taken
from tests.unit.cancelling import Held, open_below


def open_at(directory: Path) -> int:
    return open_below(directory.parent).count(str(directory))


@pytest.mark.parametrize("way", [given, taken])
async def test_nothing_is_closed_under_a_scan_nor_stays_open_after_it(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("src/file", "dest/file"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"content")
    here = tmp_path / ("src" if way is given else "dest")
    held = Held(scan)

    def scanned(root: Path, *arguments: object, **more: object) -> Scanned:
        is_here = not str(root).startswith("/proc/")  # so the server knows its places
        run: Callable[..., Scanned] = held if is_here else scan
        return run(root, *arguments, **more)

    monkeypatch.setattr(scanning, "scan", scanned)
    syncing = asyncio.create_task(way(tmp_path, Options(caches=tmp_path / "caches")))
    await held.is_reached()
    opened = open_at(here)
    assert opened
    for _ in range(20):
        syncing.cancel()
        await asyncio.sleep(0)
    assert open_at(here) == opened
    await held.let_go()
    with pytest.raises(asyncio.CancelledError):
        await syncing
    assert not open_at(here)
