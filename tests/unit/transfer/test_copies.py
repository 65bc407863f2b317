"""Contents that are copied as they are read, so that they can change before they are sent."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning.readfile import READ_BYTES, read_file
from filesync.process import descriptors
from filesync.process.descriptors import Quota
from filesync.transfer.send import copies as module
from filesync.transfer.send.copies import Copies


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Copies]:
    made = Copies(tmp_path / "not there yet")
    yield made
    made.close()


def content_of(fd: int | None) -> bytes:
    assert fd is not None
    try:
        return os.pread(fd, 1 << 30, 0)
    finally:
        os.close(fd)


def scanned(copies: Copies, path: Path) -> bytes:
    """Read a file as a scan does, and return the digest that it found."""
    dirfd = os.open(path.parent, os.O_RDONLY)
    try:
        return read_file(
            dirfd, os.fsencode(path.name), b"f", lambda _, size: copies.beside(size)
        ).digest
    finally:
        os.close(dirfd)


@pytest.mark.parametrize("size", [1, READ_BYTES - 1, READ_BYTES, 20_000_000])
def test_a_copy_is_what_was_read_whatever_becomes_of_the_file(
    copies: Copies, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    scanned(copies, tmp_path / "f")
    (tmp_path / "f").write_bytes(b"another")
    for _ in range(2):
        assert content_of(copies.open(digest_of(content))) == content
    assert copies.open(digest_of(b"another")) is None
    assert list((tmp_path / "not there yet").iterdir()) == []


def test_a_small_content_that_is_at_hand_is_copied_too(copies: Copies) -> None:
    copies.keep(digest_of(b"small"), b"small")
    assert content_of(copies.open(digest_of(b"small"))) == b"small"


def test_what_changed_while_it_was_read_is_no_copy(copies: Copies) -> None:
    one = copies.beside(5)
    assert one is not None
    one.begin(memoryview(b"first"))
    one.finish()
    one.end(None)
    assert copies.open(digest_of(b"first")) is None


def test_all_copies_of_a_process_share_their_room(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROOM", Quota(8, 100))
    others = Copies(tmp_path)
    copies.keep(digest_of(b"x" * 60), b"x" * 60)
    assert others.beside(60) is None
    copies.close()
    others.keep(digest_of(b"y" * 60), b"y" * 60)
    assert content_of(others.open(digest_of(b"y" * 60))) == b"y" * 60
    others.close()
    monkeypatch.setattr(descriptors, "may_open", lambda: 8)
    first = others.beside(1)
    assert first is not None
    assert others.beside(1) is None
    first.end(None)


def test_where_nothing_can_be_made_nothing_is_copied(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert Copies(tmp_path / "f").beside(1) is None


def test_a_full_disk_costs_the_copy_and_nothing_else(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(module, "write_all", full)
    (tmp_path / "f").write_bytes(b"content")
    assert scanned(copies, tmp_path / "f") == digest_of(b"content")
    assert copies.open(digest_of(b"content")) is None


def test_what_is_copied_when_they_are_closed_is_let_go_of(copies: Copies) -> None:
    one = copies.beside(1)
    assert one is not None
    copies.close()
    one.begin(memoryview(b"x"))
    one.finish()
    one.end(digest_of(b"x"))
    assert copies.open(digest_of(b"x")) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(one.fd)
