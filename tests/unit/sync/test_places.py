"""Where paths lead, and what is said of those that lead nowhere."""

import errno
import os
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from filesync.errors import StoreError, UsageError
from filesync.sync.part import Part
from filesync.sync.places import (
    LocalPlaces,
    Place,
    Places,
    ServedPlaces,
    leads_into,
    local_path,
    split_path,
)
from filesync.sync.target import NotMade, find_target
from tests.unit.ordinary import as_nobody

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


def test_a_place_whose_name_the_file_system_does_not_take_need_not_keep_others_from_theirs(
    places: tuple[Places, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_taken(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "mkdir", not_taken)
    with pytest.raises(NotMade, match="d:' cannot be made") as caught:
        find_target(places[0], places[1], part=Part(b"d:"), is_directory=True, dry_run=False)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.needs("root")
def test_a_path_may_lead_through_a_directory_that_this_user_may_not_list() -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "unlisted/inside").mkdir(parents=True)
        (root / "unlisted").chmod(0o711)
        (root / "linked").symlink_to("unlisted")

        def check() -> None:
            for places, above in (
                (ServedPlaces(root), b""),
                (LocalPlaces(), os.fsencode(root) + b"/"),
            ):
                os.close(places.open(above + b"unlisted/inside"))
                with pytest.raises(PermissionError):
                    places.open(above + b"unlisted")
            with pytest.raises(OSError, match="it leads over a link"):
                ServedPlaces(root).open(b"linked/inside")

        as_nobody(check)


def test_a_place_is_in_itself_and_in_all_that_is_above_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    served = ServedPlaces(tmp_path / "a")

    def place(path: bytes) -> Place:
        return Place(served.open(path), None, names=None, label=path)

    def identity(path: Path) -> tuple[int, int]:
        return path.stat().st_dev, path.stat().st_ino

    with closing(place(b"b")) as below:
        assert below.identity == identity(tmp_path / "a/b")
        for above in ("a/b", "a", "."):
            assert below.is_in(identity(tmp_path / above))
        assert not below.is_in(identity(tmp_path / "c"))
        (tmp_path / "a/b").rmdir()
        assert not below.is_in(identity(tmp_path / "c"))


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_directory_that_cannot_be_opened_is_an_error_that_names_it(
    places: tuple[Places, bytes], dry_run: bool
) -> None:
    with pytest.raises(StoreError, match=r"xxx.*too long"):
        find_target(places[0], places[1] + LONG, part=Part(), dry_run=dry_run)


def test_what_is_no_path_is_refused_and_nothing_stays_open(
    places: tuple[Places, bytes], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    served = isinstance(places[0], ServedPlaces)
    before = os.listdir("/proc/self/fd")
    for path in (b"a\0b", b"a/\0", *((b"..", b"a/../a") if served else ())):
        with pytest.raises(UsageError, match="path"):
            places[0].open(places[1] + path)
    with pytest.raises(FileNotFoundError):
        places[0].open(places[1] + b"a/gone")
    assert os.listdir("/proc/self/fd") == before


def test_an_empty_path_of_a_user_names_nothing() -> None:
    with pytest.raises(UsageError, match="names nothing"):
        local_path("")


def test_a_path_leads_into_a_directory_that_holds_it_or_would_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    monkeypatch.chdir(tmp_path)
    status = (tmp_path / "a").stat()
    a = status.st_dev, status.st_ino
    before = os.listdir("/proc/self/fd")
    for path in (b"a", b"a/", b"a/b", b"a/new", b"a/b/new/", b"link", b"link/new"):
        assert leads_into(path, a)
    for path in (b".", b"new", b"/", b"a/gone/new"):
        assert not leads_into(path, a)
    assert os.listdir("/proc/self/fd") == before


def test_a_path_is_a_directory_and_a_name_in_it() -> None:
    assert split_path(b"/name") == (b"/", b"name")
    assert split_path(b"name") == (b"", b"name")
    assert split_path(b"a/b/") == (b"a", b"b")
