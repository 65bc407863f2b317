import errno
import os
import threading
from pathlib import Path

import pytest

from worker.snapshots import SnapshotInUse, mounts
from worker.snapshots.mounts import (
    Overlay,
    mount_overlay,
    mount_points,
    mounts_below,
    unmount,
)

MOUNTINFO = b"""\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:30 / /state\\040dir/trees/1/merged rw - overlay none rw,lowerdir=a
31 22 0:31 / /b\\134s rw shared:7 - tmpfs tmpfs rw
32 22 0:32 / /c\rr rw - tmpfs tmpfs rw
"""


def test_mount_points_are_read_with_their_odd_characters() -> None:
    assert mount_points(MOUNTINFO) == [b"/", b"/state dir/trees/1/merged", b"/b\\s", b"/c\rr"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("low", "high", "upper", "work", "at", "odd name"):
        (tmp_path / name).mkdir()
    (tmp_path / "low/f").write_text("low")
    (tmp_path / "high/f").write_text("high")
    return tmp_path


@pytest.mark.needs("root")
def test_the_first_lower_directory_is_on_top(base: Path) -> None:
    before = os.getcwd()
    mount_overlay(base, Overlay(["high", "low"], "odd name"))
    try:
        assert (base / "odd name/f").read_text() == "high"
        assert mounts_below(base) == [base / "odd name"]
        assert os.getcwd() == before
    finally:
        unmount(base / "odd name")
    assert mounts_below(base) == []


@pytest.mark.needs("root")
def test_what_stays_in_use_is_unmounted_by_force_only(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "BUSY_PATIENCE_S", 0.05)
    mount_overlay(base, Overlay(["low"], "at", "upper", "work"))
    with (base / "at/new").open("w"):
        with pytest.raises(SnapshotInUse):
            unmount(base / "at")
        unmount(base / "at", force=True)
    assert mounts_below(base) == []
    assert (base / "upper/new").exists()


@pytest.mark.needs("root")
def test_what_is_in_use_for_a_moment_is_unmounted_after_it(base: Path) -> None:
    # As while a process is being started, which holds what this one had open until it runs.
    mount_overlay(base, Overlay(["low"], "at", "upper", "work"))
    file = (base / "at/new").open("w")
    closing = threading.Timer(0.2, file.close)
    closing.start()
    try:
        unmount(base / "at")
        assert file.closed
    finally:
        closing.join()
        unmount(base / "at", force=True)
    assert mounts_below(base) == []


@pytest.mark.needs("root")
def test_mounts_are_listed_in_the_order_to_unmount_them(base: Path) -> None:
    (base / "low/inner").mkdir()
    mount_overlay(base, Overlay(["low", "high"], "at"))
    mount_overlay(base, Overlay(["high", "low"], "at/inner"))
    found = mounts_below(base)
    for path in found:
        unmount(path)
    assert found == [base / "at/inner", base / "at"]


@pytest.mark.needs("root")
def test_what_is_not_mounted_needs_no_unmounting(base: Path) -> None:
    unmount(base / "at")
    unmount(base / "nowhere")


@pytest.mark.needs("root")
def test_a_mount_that_cannot_be_is_an_error_with_its_reason(base: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        mount_overlay(base, Overlay(["nowhere", "low"], "at"))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.needs("root")
def test_as_many_layers_as_overlayfs_takes_and_what_to_do_with_more(base: Path) -> None:
    layers = [f"{number}" for number in range(501)]
    for name in layers:
        (base / name).mkdir()
    mount_overlay(base, Overlay(layers[:500], "at"))
    unmount(base / "at")
    with pytest.raises(OSError, match="takes 500 layers and no more: start the worker with"):
        mount_overlay(base, Overlay(layers, "at"))
