"""Snapshots as overlay layers: each keeps only what it changed of its parent. Needs root."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filesync.disk.handles import DirectoryHandles, open_root
from filesync.disk.removing import remove_tree
from filesync.disk.updating.metadata import Metadata
from filesync.errors import StoreError
from filesync.manifest import Manifest
from filesync.manifest.patch import patch
from worker.snapshots.driver import Sealed
from worker.snapshots.mounts import (
    Overlay,
    mount_bind,
    mount_overlay,
    mounts_below,
    unmount,
)
from worker.snapshots.upper import Hints, read_upper

_EMPTY: Final = 0
"""The number of a directory with nothing in it: an overlay needs something below."""


class OverlayDriver:
    """``<number>/fs`` is the upper directory, and later a lower one.

    While it is written to, ``<number>/work`` is the kernel's and the tree is mounted at
    ``<number>/merged``; a sealed tree is shown, read-only, at ``<number>/view``. A tree with no
    parent is its upper directory: a bind mount instead of an overlay takes a seventh off unpacking.

    Hard links behave as on any overlay: a file of the parent that is written to becomes one of
    its own, and its other names keep the old content.
    """

    kind = "overlay"

    def __init__(self, directory: Path) -> None:
        """Keep trees below ``directory``, which is there."""
        self._directory = directory

    def open(self) -> None:
        """Unmount all that a killed process left mounted."""
        for point in mounts_below(self._directory):
            unmount(point, force=True)
        self._path(_EMPTY, "fs").mkdir(parents=True, exist_ok=True)

    def make(self, number: int, parent: Manifest, chain: Sequence[int]) -> Path:
        """Mount an empty upper directory on the parent's layers."""
        for name in ("fs", "work", "merged"):
            self._path(number, name).mkdir(parents=True, mode=0o700)
        fd = open_root(self._path(number, "fs"))
        try:
            # A merged root is the upper one in mode, owner and times.
            Metadata().sync(fd, parent.root)
        finally:
            os.close(fd)
        upper, work, merged = f"{number}/fs", f"{number}/work", f"{number}/merged"
        with self._mounting(merged):
            if chain:
                mount_overlay(self._directory, Overlay(_lowers(chain), merged, upper, work))
            else:
                mount_bind(self._directory, upper, merged)
        return self._path(number, "merged")

    def seal(self, number: int, parent: Manifest, hints: Hints) -> Sealed:
        """Unmount the tree and read its upper directory alone."""
        unmount(self._path(number, "merged"))
        with DirectoryHandles(self._path(number, "fs")) as handles:
            upper = read_upper(handles, hints)
        tree = patch(parent.nodes, parent.tree, upper.change)
        self._remove(number, b"work", b"merged")
        return Sealed(tree, upper.bytes)

    def show(self, chain: Sequence[int]) -> Path:
        """Mount the layers read-only."""
        path = self._path(chain[0], "view")
        path.mkdir(mode=0o700, exist_ok=True)
        with self._mounting(f"{chain[0]}/view"):
            mount_overlay(self._directory, Overlay(_lowers(chain), f"{chain[0]}/view"))
        return path

    def hide(self, number: int) -> None:
        """Unmount them; a process that still reads there goes on until it closes its files."""
        unmount(self._path(number, "view"), force=True)

    def release(self, number: int) -> None:
        """Unmount everything of ``number``."""
        for name in ("merged", "view"):
            unmount(self._path(number, name), force=True)

    @contextmanager
    def _mounting(self, target: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            where = self._directory / target
            raise StoreError(f"no snapshot can be mounted at {where}: {exc}") from exc

    def _remove(self, number: int, *names: bytes) -> None:
        fd = open_root(self._directory / str(number))
        try:
            for name in names:
                remove_tree(fd, name)
        finally:
            os.close(fd)

    def _path(self, number: int, name: str) -> Path:
        return self._directory / str(number) / name


def _lowers(chain: Sequence[int]) -> list[str]:
    return [f"{number}/fs" for number in (*chain, _EMPTY)]
