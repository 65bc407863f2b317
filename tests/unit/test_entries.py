"""Listing directories that are held open."""

import os
import re
from pathlib import Path

from filesync.disk.entries import entries_of, names_of
from filesync.disk.handles import open_root

BY_PATH = {
    "filesync/surplus.py",
    "filesync/disk/reserve.py",
    "solver/client/contexts.py",
    "worker/garbage/collector.py",
}
"""Modules that list what they have a path of, which is opened anew."""


def test_all_is_listed_though_a_listing_has_ended_elsewhere(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / f"{number:03}").touch()
    fd = open_root(tmp_path)
    os.lseek(fd, 300, os.SEEK_SET)  # as a listing that was given up may leave it
    assert len(names_of(fd)) == 500
    os.lseek(fd, 300, os.SEEK_SET)
    with entries_of(fd) as entries:
        assert len(list(entries)) == 500
    os.close(fd)


def test_what_is_made_after_a_listing_is_in_the_next_one(tmp_path: Path) -> None:
    fd = open_root(tmp_path)
    for number in range(3):
        (tmp_path / str(number)).touch()
        assert len(names_of(fd)) == number + 1
    os.close(fd)


def test_no_open_directory_is_listed_from_where_it_happens_to_be() -> None:
    """So btrfs would not list what was made since it was opened; no other file system of a test's does that."""
    root = Path(__file__).parents[2]
    listing = {
        str(module.relative_to(root))
        for package in ("filesync", "worker", "solver")
        for module in (root / package).rglob("*.py")
        if re.search(r"os\.(listdir|scandir|walk|fwalk)\(", module.read_text())
    }
    assert listing == BY_PATH | {"filesync/disk/entries.py"}
