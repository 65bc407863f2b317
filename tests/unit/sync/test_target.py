"""Where what is synced goes, where no more files may be opened for a moment."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from filesync.errors import StoreError
from filesync.sync.part import Part
from filesync.sync.places import LocalPlaces
from filesync.sync.target import Target, find_target

OPENS = 6
"""More than are needed to find a place."""


@contextmanager
def failing(at: int) -> Iterator[None]:
    """Have one call of `os.open` find no descriptor."""
    true_open, numbers = os.open, count()

    def sometimes(
        path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        if next(numbers) == at:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return true_open(path, flags, mode, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", sometimes)
        yield


def found(path: Path, part: Part) -> Target:
    target = find_target(LocalPlaces(), os.fsencode(path), part=part, dry_run=False)
    assert target is not None
    return target


@pytest.mark.parametrize("at", range(OPENS))
@pytest.mark.parametrize("inside", [b"", b"inside"])
def test_who_tries_again_has_made_the_directory(inside: bytes, at: int, tmp_path: Path) -> None:
    if inside:
        (tmp_path / "dest").mkdir()
    try:
        with failing(at):
            target = found(tmp_path / "dest", Part(inside))
    except StoreError:
        target = found(tmp_path / "dest", Part(inside))
    assert target.is_new
    target.place.close()


@pytest.mark.parametrize("at", range(OPENS))
def test_a_directory_that_cannot_be_opened_now_is_not_taken_for_a_file(
    at: int, tmp_path: Path
) -> None:
    (tmp_path / "dest").mkdir()
    try:
        with failing(at):
            target = found(tmp_path / "dest", Part(names=frozenset((b"file",))))
    except StoreError:
        return
    assert target.rename is None
    target.place.close()
