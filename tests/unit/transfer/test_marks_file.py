"""Marks of small files from one run of a command to the next."""

import os
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.transfer.coding import edit, kept_disk, marks_disk
from filesync.transfer.coding.marks_disk import MarksFile

MADE = edit.mark(bytes(range(256)) * 300, 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "caches/marks"


def save(path: Path, *contents: bytes) -> None:
    files = MarksFile(path)
    for content in contents:
        files.keep(digest_of(content), MADE)
    files.save()


def test_what_was_saved_is_found_by_another_process(path: Path) -> None:
    save(path, b"a")
    assert MarksFile(path).find(digest_of(b"a")) == MADE
    assert MarksFile(path).find(digest_of(b"b")) is None
    assert os.listdir(path.parent) == ["marks"]


def test_what_is_kept_again_stays_longest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks_disk, "MAX_MARKS", 2)
    save(path, b"a", b"b", b"a", b"c")
    found = [MarksFile(path).find(digest_of(one)) for one in (b"a", b"b", b"c")]
    assert found == [MADE, None, MADE]


def test_nothing_is_written_where_nothing_is_new(path: Path) -> None:
    files = MarksFile(path)
    assert files.find(digest_of(b"a")) is None
    files.save()
    assert not path.exists()


def test_damaged_marks_are_as_good_as_none(path: Path) -> None:
    save(path, b"a")
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert MarksFile(path).find(digest_of(b"a")) is None
        path.write_bytes(data[:at])
        assert MarksFile(path).find(digest_of(b"a")) is None


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\x01\x02"])
def test_whole_files_of_something_else_are_as_good_as_none(path: Path, body: bytes) -> None:
    kept_disk.save(path, marks_disk._FORMAT, body)
    assert MarksFile(path).find(digest_of(b"a")) is None


def test_what_cannot_be_put_in_its_place_leaves_nothing(path: Path) -> None:
    path.mkdir(parents=True)
    save(path, b"a")
    assert os.listdir(path.parent) == ["marks"]


def test_those_that_were_kept_last_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks_disk, "MAX_MARKS", 3)
    names = [bytes([n]) for n in range(6)]
    save(path, *names)
    save(path, b"new")
    files = MarksFile(path)
    kept = [name for name in [*names, b"new"] if files.find(digest_of(name))]
    assert kept == [*names[-2:], b"new"]


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    save(tmp_path / "file/marks", b"a")
    assert MarksFile(tmp_path / "file/marks").find(digest_of(b"a")) is None
