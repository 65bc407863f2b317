"""Partial files of two updates in one directory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.updating.partial import Partial, Partials

DIGEST = digest_of(b"large")


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def being_written(parent: int) -> tuple[Partials, Partial]:
    partials = Partials(parent)
    partials.look()
    partial = partials.take(DIGEST, 1 << 20)
    assert partial is not None
    os.pwrite(partial.fd, bytes(4096), 0)
    return partials, partial


def test_what_another_update_writes_is_not_removed_when_it_is_not_wanted(parent: int) -> None:
    first, partial = being_written(parent)
    second = Partials(parent)
    second.look()
    second.keep_only(())
    second.close()
    os.rename(partial.name, b"in place", src_dir_fd=first.fd, dst_dir_fd=parent)
    os.close(partial.fd)
    first.close()


def test_what_another_update_is_about_to_put_in_place_is_not_removed(parent: int) -> None:
    first, partial = being_written(parent)
    os.fchmod(partial.fd, 0o4755)  # as its entry says
    second = Partials(parent)
    second.look()
    assert not second.found
    second.close()
    os.rename(partial.name, b"in place", src_dir_fd=first.fd, dst_dir_fd=parent)
    os.close(partial.fd)
    first.close()


def test_what_nobody_writes_and_nobody_wants_is_removed(parent: int) -> None:
    first, partial = being_written(parent)
    first.release(partial.fd, DIGEST, keep=True)
    first.close()
    second = Partials(parent)
    second.look()
    os.mkdir(b"strange", dir_fd=second.fd)
    os.symlink(b"/etc/passwd", b"link", dir_fd=second.fd)
    second.close()
    third = Partials(parent)
    third.look()
    assert os.listdir(third.fd) == [DIGEST.hex()]
    third.keep_only(())
    assert not os.listdir(third.fd)
    third.close()
