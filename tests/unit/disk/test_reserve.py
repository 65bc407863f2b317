"""What a state directory keeps for when its disk is full, and gives up then."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from filesync.disk.reserve import RESERVE_BYTES, RESERVE_INODES, keep_reserve, make_room
from tests.mounting import tmpfs

pytestmark = pytest.mark.needs("mount")


def inodes_left(disk: Path) -> int:
    return os.statvfs(disk).f_favail


def use_up(disk: Path, *, but: int = 0) -> None:
    """Leave so many inodes, and no more."""
    assert os.path.ismount(disk)
    with suppress(OSError):
        for number in range(inodes_left(disk) - but):
            (disk / f"filler-{number}").touch()
    assert inodes_left(disk) == but


def kept(disk: Path) -> int:
    """Return how many inodes are in reserve."""
    return len(list((disk / "reserve-inodes").glob("*")))


def test_inodes_are_kept_once_and_given_up_when_there_are_none_left(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=8m,nr_inodes=400") as disk:
        before = inodes_left(disk)
        for keep in (make_room, make_room, keep_reserve):
            keep(disk)
            assert kept(disk) == RESERVE_INODES
            assert before - inodes_left(disk) == RESERVE_INODES + 2
        use_up(disk)
        make_room(disk)
        assert kept(disk) == 0
        assert inodes_left(disk) >= RESERVE_INODES
        keep_reserve(disk)  # another may end now and want as much
        assert min(kept(disk), inodes_left(disk)) >= RESERVE_INODES // 2 - 1
        for filler in disk.glob("filler-*"):
            filler.unlink()
        keep_reserve(disk)
        assert kept(disk) == RESERVE_INODES


def test_bytes_are_not_taken_from_what_needs_them(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", f"size={RESERVE_BYTES * 3 // 2}") as disk:
        make_room(disk)
        assert not (disk / "reserve").exists()
        keep_reserve(disk)
        assert (disk / "reserve").stat().st_blocks * 512 == RESERVE_BYTES
        make_room(disk)
        assert not (disk / "reserve").exists()


def test_of_what_another_has_just_given_up_nothing_is_taken_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tmpfs(tmp_path / "disk", f"size={RESERVE_BYTES * 4}") as disk:
        first, second = disk / "first", disk / "second"
        for one in (first, second):
            one.mkdir()
            keep_reserve(one)
        (disk / "filler").write_bytes(bytes(RESERVE_BYTES * 2 - 8192))
        make_room(first)
        assert not (first / "reserve").exists()
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: pytest.fail("it took room"))
        make_room(second)
        assert not (second / "reserve").exists()
