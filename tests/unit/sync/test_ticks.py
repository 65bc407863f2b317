"""Times on file systems that keep them in coarser steps than nanoseconds."""

import os
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from filesync.sync.ticks import FINE_NS, as_kept, tick_in, tick_of

MOUNTS = rb"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
42 21 8:17 / /media/a\040stick rw,nosuid shared:7 master:2 - vfat /dev/sdb1 rw,uid=0
43 21 0:39 / /mnt/share rw - cifs //nas/share rw
44 21 8:33 / /mnt/old rw - ext3 /dev/sdc1 rw
"""
SECOND_NS = 1_000_000_000


def test_what_times_are_multiples_of_is_known_by_the_file_system() -> None:
    assert tick_in(MOUNTS, os.makedev(8, 17), changed_ns=1) == 2 * SECOND_NS
    assert tick_in(MOUNTS, os.makedev(0, 39), changed_ns=1) == 100


def test_a_mount_point_may_have_a_carriage_return_in_its_name() -> None:
    mounts = MOUNTS.replace(b"/mnt/share", b"/mnt/odd\rname")
    assert tick_in(mounts, os.makedev(0, 39), changed_ns=1) == 100


def test_of_a_file_system_that_is_not_listed_times_are_taken_as_they_are() -> None:
    device = os.makedev(0, 99)  # as a subvolume of btrfs
    assert tick_in(MOUNTS, device, changed_ns=0) == FINE_NS


@pytest.mark.parametrize(
    "device", [os.makedev(254, 0), os.makedev(8, 33)], ids=["ext4", "ext3"]
)
def test_what_times_are_multiples_of_depends_on_the_inodes_where_these_may_be_small(
    device: int,
) -> None:
    assert tick_in(MOUNTS, device, changed_ns=17 * SECOND_NS) == SECOND_NS
    assert tick_in(MOUNTS, device, changed_ns=17 * SECOND_NS + 1) == FINE_NS


def test_where_tests_run_times_are_fine(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert tick_of(fd) == FINE_NS
    os.close(fd)


def tree(root: Path, times_ns: dict[str, int], nodes: MemoryNodes) -> Manifest:
    """Return a tree of a file, a link and a directory with a file in it, that have these times."""
    root.mkdir()
    (root / "d").mkdir()
    (root / "d/in").touch()
    (root / "file").touch()
    (root / "link").symlink_to("file")
    for name in ("d/in", "file", "link", "d", "."):
        at = times_ns[name]
        os.utime(root / name, ns=(at, at), follow_symlinks=False)
    return Manifest(scan(root, nodes).tree, nodes)


NAMES = ("d/in", "file", "link", "d", ".")
ODD_NS = dict(
    zip(NAMES, (17 * SECOND_NS + odd for odd in (1, 5_000, 123_456_789, 3, 999)), strict=True)
)


def test_what_has_its_times_as_well_as_it_can_differs_no_more(tmp_path: Path) -> None:
    nodes = MemoryNodes()
    top = tree(tmp_path / "top", ODD_NS, nodes)
    kept = {name: at - at % SECOND_NS for name, at in ODD_NS.items()}
    basis = tree(tmp_path / "basis", kept, nodes)
    assert basis.tree != top.tree
    assert as_kept(basis, top, nodes, SECOND_NS).tree == top.tree
    assert as_kept(basis, top, nodes, FINE_NS).tree == basis.tree


def test_a_time_that_is_another_stays_one(tmp_path: Path) -> None:
    nodes = MemoryNodes()
    top = tree(tmp_path / "top", ODD_NS, nodes)
    kept = {name: at - at % SECOND_NS for name, at in ODD_NS.items()}
    basis = tree(tmp_path / "basis", kept | {"file": 16 * SECOND_NS}, nodes)
    seen = as_kept(basis, top, nodes, SECOND_NS)
    times = {entry.name: entry for entry in seen.root.entries}
    assert seen.tree != top.tree
    assert times[b"d"] == {entry.name: entry for entry in top.root.entries}[b"d"]
    assert times[b"file"] == {entry.name: entry for entry in basis.root.entries}[b"file"]
