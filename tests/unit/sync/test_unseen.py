"""What stands at a destination though no scan shows it, asked of a disk."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from filesync.errors import StoreError
from filesync.sync.filter import Filter
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.unseen import UnseenOnDisk


@pytest.fixture
def unseen(tmp_path: Path) -> Iterator[UnseenOnDisk]:
    for path in ("empty", "full/x", "d/out"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "d/link").symlink_to("out")
    places, root = LocalPlaces(), os.fsencode(tmp_path)
    place = Place(places.open(root), places.path_of(root), names=None, label=root)
    with closing(place), UnseenOnDisk(place, Filter([b"out", b"link", b"gone"])) as unseen:
        yield unseen


def test_a_directory_has_something_in_it_or_has_not_and_one_that_is_not_there_has_nothing(
    unseen: UnseenOnDisk,
) -> None:
    assert unseen.is_in(b"full")
    for path in (b"empty", b"gone", b"file", b"file/below"):
        assert not unseen.is_in(path)


def test_a_directory_that_cannot_be_looked_into_is_an_error(unseen: UnseenOnDisk) -> None:
    with pytest.raises(StoreError):
        unseen.is_in(b"x" * 256)


def test_only_what_was_left_out_and_is_a_directory_stands_there_unseen(
    unseen: UnseenOnDisk,
) -> None:
    assert unseen.is_directory(b"d/out")
    # One that the rules let through was seen, if it is there; a link is none, and leads to none.
    for path in (b"full", b"d/link", b"d/gone", b"gone", b"nowhere/out", b"file/out"):
        assert not unseen.is_directory(path)
