"""Where paths lead, and what is said of those that lead nowhere."""

import os
from pathlib import Path

import pytest

from filesync.errors import StoreError, UsageError
from filesync.sync.part import Part
from filesync.sync.places import LocalPlaces, Places, ServedPlaces
from filesync.sync.target import find_target

LONG = b"x" * 256


@pytest.fixture(params=["local", "served"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Places, bytes]:
    """Places, and the path of a directory there."""
    if request.param == "local":
        return LocalPlaces(), os.fsencode(tmp_path) + b"/"
    return ServedPlaces(tmp_path), b""


def test_a_file_is_not_given_to_a_name_that_no_file_can_have(
    places: tuple[Places, bytes],
) -> None:
    with pytest.raises(UsageError, match="does not name a file"):
        find_target(
            places[0], places[1] + LONG, part=Part(b"", frozenset([b"f"])), dry_run=True
        )


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_directory_that_cannot_be_opened_is_an_error_that_names_it(
    places: tuple[Places, bytes], dry_run: bool
) -> None:
    with pytest.raises(StoreError, match=r"xxx.*too long"):
        find_target(places[0], places[1] + LONG, part=Part(), dry_run=dry_run)
