"""Where an overlay's snapshots are written."""

import os
from pathlib import Path

import pytest

from filesync.manifest import MemoryNodes, empty_manifest
from worker.snapshots import SnapshotInUse, mounts
from worker.snapshots.overlays import OverlayDriver

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def driver(tmp_path: Path) -> OverlayDriver:
    driver = OverlayDriver(tmp_path)
    driver.open()
    return driver


def test_a_tree_with_nothing_below_it_is_written_where_it_stays(
    driver: OverlayDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "BUSY_PATIENCE_S", 0.05)
    nothing = empty_manifest(MemoryNodes())
    at = driver.make(1, nothing, ())
    try:
        (at / "file").write_text("text")
        assert os.stat(at / "file").st_dev == os.stat(tmp_path).st_dev
        with (at / "file").open(), pytest.raises(SnapshotInUse):
            driver.seal(1, nothing, {})
        driver.seal(1, nothing, {})
    finally:
        driver.release(1)
    assert not (at / "file").exists()
    assert (tmp_path / "1" / "fs" / "file").read_text() == "text"
