"""Which files are believed to be what an update wrote, from their stats alone."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from filesync.digest import digest_of
from filesync.disk.scanning.listing import Stamp
from filesync.disk.scanning.statcache import FINE_SLACK_NS, SeenFile
from filesync.disk.scanning.written import has_holes, is_as_written, owner_believed
from filesync.manifest import EMPTY_DIRECTORY, File

S = 1_000_000_000
SINCE, UNTIL = 1_000 * S, 1_010 * S
ME = os.geteuid()


def a_stamp(
    *,
    size: int = 7,
    mtime_ns: int = 500 * S + 1,
    ctime_ns: int = SINCE,
    mode: int = 0o100644,
    uid: int = ME,
    nlink: int = 1,
) -> Stamp:
    return (size, mtime_ns, ctime_ns, 11, 12, mode, uid, 0, nlink)


def a_note(mtime_ns: int = 500 * S + 1, until_ns: int = UNTIL) -> SeenFile:
    file = File(b"f", 0o644, ME, 0, mtime_ns, 7, digest_of(b"content"))
    return file, until_ns, SINCE, -1


def test_a_file_that_is_as_it_was_written_is_believed() -> None:
    assert is_as_written(a_note(), a_stamp(), owner=ME)
    assert is_as_written(a_note(), a_stamp(ctime_ns=UNTIL - 1), owner=ME)


OTHERS = {
    "another size": a_stamp(size=8),
    "another time": a_stamp(mtime_ns=500 * S + 2),
    "changed before": a_stamp(ctime_ns=SINCE - 1),
    "changed after": a_stamp(ctime_ns=UNTIL),
    "two names": a_stamp(nlink=2),
}
STRANGE = {
    "another's": a_stamp(uid=ME + 1),
    "one that its group may write to": a_stamp(mode=0o100664),
    "one that all may write to": a_stamp(mode=0o100646),
}


@pytest.mark.parametrize("what", [*OTHERS, *STRANGE])
def test_a_file_that_may_be_another_by_now_is_not_believed(what: str) -> None:
    assert not is_as_written(a_note(), (OTHERS | STRANGE)[what], owner=ME)


def test_where_others_can_rename_files_none_is_believed() -> None:
    assert not is_as_written(a_note(), a_stamp(), owner=None)

    def believed(uid: int, mode: int) -> int | None:
        return owner_believed(replace(EMPTY_DIRECTORY, mode=mode, uid=uid, gid=0, mtime_ns=0))

    assert believed(ME, 0o755) == ME
    assert believed(ME + 1, 0o755) is None
    assert believed(ME, 0o775) is None
    assert believed(ME, 0o757) is None


def test_a_file_whose_time_is_of_when_it_was_written_is_not_believed() -> None:
    late = SINCE - FINE_SLACK_NS
    assert not is_as_written(a_note(late), a_stamp(mtime_ns=late), owner=ME)


@pytest.mark.parametrize("what", [*OTHERS, *STRANGE])
def test_what_a_scan_has_read_is_believed_whosever_it_is_while_its_stamps_are_the_same(
    what: str,
) -> None:
    stamp = (OTHERS | STRANGE)[what]
    assert is_as_written(a_note(until_ns=SINCE + 1), stamp, owner=None) == (what in STRANGE)


@pytest.mark.parametrize("size", [5000, 200_000])
def test_a_file_with_fewer_blocks_than_its_size_takes_has_holes(
    tmp_path: Path, size: int
) -> None:
    (tmp_path / "whole").write_bytes(b"x" * size)
    (tmp_path / "hollow").touch()
    os.truncate(tmp_path / "hollow", size)
    for name, expected in (("whole", False), ("hollow", True)):
        with (tmp_path / name).open("rb") as file:
            os.fsync(file.fileno())
            assert has_holes(file.fileno(), os.fstat(file.fileno())) == expected
