"""Which kind of snapshots a state directory can have."""

import logging
import os
from pathlib import Path
from typing import Final

from filesync.disk.removing import remove_path
from filesync.errors import StoreError, UsageError
from filesync.manifest import Nodes
from worker.snapshots.copies import CopyDriver
from worker.snapshots.driver import Driver
from worker.snapshots.mounts import Overlay, mount_overlay, unmount
from worker.snapshots.overlays import OverlayDriver
from worker.snapshots.records import Records
from worker.snapshots.snapshotter import Snapshotter

log = logging.getLogger(__name__)

KINDS: Final = ("overlay", "copy")


def open_snapshotter(directory: Path, nodes: Nodes, *, kind: str | None = None) -> Snapshotter:
    """Open the snapshots below ``directory``, made if missing, and clear away leftovers.

    ``nodes`` keeps their manifests and must outlive the process as ``directory`` does: a
    snapshot whose manifest is gone is dropped. ``kind`` is ``overlay`` or ``copy``; None is what
    the directory has been used with, else overlay where that works, else copy.

    Raises:
        UsageError: there is no such kind, or overlay is asked for and does not work here.
        StoreError: the directory cannot be used, or was used with the other kind.
    """
    if kind not in (None, *KINDS):
        raise UsageError(f"there are no {kind!r} snapshots: choose from {', '.join(KINDS)}")
    trees = directory / "trees"
    try:
        trees.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreError(f"{directory} cannot hold snapshots: {exc.strerror}") from exc
    used = Records.kind_of(directory / "snapshots.db")
    driver: Driver
    if _wants_overlay(directory, kind or used):
        driver = OverlayDriver(trees)
    else:
        driver = CopyDriver(trees)
    records = Records(directory / "snapshots.db", kind=driver.kind)
    try:
        return Snapshotter(directory, nodes, driver, records)
    except BaseException:
        records.close()
        raise


def _wants_overlay(directory: Path, kind: str | None) -> bool:
    if kind == "copy":
        return False
    reason = overlay_fails(directory)
    if reason and kind == "overlay":
        raise UsageError(f"overlay snapshots do not work in {directory}: {reason}; use copy")
    if reason:
        log.info("snapshots are copies path=%s reason=%s", directory, reason)
    return not reason


def overlay_fails(directory: Path) -> str:
    """Return why no overlay can be mounted with its layers in ``directory``; empty if one can."""
    if os.geteuid() != 0:
        return "only root can mount"
    probe = directory / "probe"
    _remove(probe)  # what a process has left that was killed as it looked
    for part in ("lower", "upper", "work", "merged"):
        (probe / part).mkdir(parents=True)
    (probe / "lower" / "file").touch()
    try:
        mount_overlay(probe, Overlay(["lower"], "merged", "upper", "work"))
        (probe / "merged" / "file").unlink()
        return "" if (probe / "upper" / "file").is_char_device() else "no whiteouts"
    except OSError as exc:
        return str(exc)
    finally:
        _remove(probe)


def _remove(probe: Path) -> None:
    unmount(probe / "merged", force=True)
    remove_path(probe)
