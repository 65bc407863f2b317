"""What paths name: directories, and names in directories, together as far as they can be."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync.sync.filter import Filter
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.source import Sources, are_several, close_all, find_sources

Find = Callable[..., Sources]


@pytest.fixture
def find(tmp_path: Path) -> Iterator[Find]:
    """Find what paths below the temporary directory name."""
    made: list[Sources] = []

    def find(*paths: str, most_names: int | None = None) -> Sources:
        full = [os.fsencode(tmp_path / path) for path in paths]
        made.append(find_sources(LocalPlaces(), full, Filter(()), most_names=most_names))
        return made[-1]

    for directory in ("a", "b", "a/sub"):
        (tmp_path / directory).mkdir()
        for name in ("one", "two", "three"):
            (tmp_path / directory / name).write_text(directory)
    yield find
    for sources in made:
        close_all(sources.found)


def names(sources: Sources) -> list[set[bytes] | bytes]:
    """Return the names, or where a directory comes to stand, of each source."""
    places = [source.place for source in sources.found]
    return [
        source.inside if place.names is None else set(place.names)
        for source, place in zip(sources.found, places, strict=True)
    ]


def test_names_in_one_directory_are_one_source(find: Find) -> None:
    found = find("a/one", "b/two", "a/three", "a/sub", "a/gone")
    assert names(found) == [{b"one", b"three"}, {b"two"}, b"sub"]
    assert [Path(os.fsdecode(path)).name for path in found.missing] == ["gone"]


def test_where_there_can_be_no_more_names_another_source_begins(find: Find) -> None:
    found = find("a/one", "a/two", "a/one", "a/three", most_names=2)
    assert names(found) == [{b"one", b"two"}, {b"three"}]


def test_of_two_names_the_first_stands(find: Find) -> None:
    assert names(find("a/one", "b/one", "b/two")) == [{b"one"}, {b"two"}]


def test_a_path_that_comes_twice_is_several(find: Find) -> None:
    assert find("a/one", "a/one").are_several
    assert find("a", "a").are_several
    assert not find("a/one", "a/gone").are_several


def test_of_a_directory_with_the_name_is_not_opened_again(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []
    really = LocalPlaces.open

    def opening(self: LocalPlaces, path: bytes) -> int:
        opened.append(path)
        return really(self, path)

    monkeypatch.setattr(LocalPlaces, "open", opening)
    find("a/one")
    of_one = len(opened)
    opened.clear()
    find("a/one", "a/two", "a/three")
    assert len(opened) == of_one


def test_only_what_has_a_name_alone_is_asked_for_it(tmp_path: Path) -> None:
    place = Place(os.open(tmp_path, os.O_RDONLY), None, names=None, label=b"")
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    assert place.has_other(b"file")
    for name in (b"directory", b"gone", b"", b"..", b"directory/..", b"nul\0"):
        assert not place.has_other(name)
    place.close()
    assert not are_several([], [b"/", b"."])
