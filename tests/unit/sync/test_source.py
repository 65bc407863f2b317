"""What paths name: directories, and names in directories, together as far as they can be."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from filesync.sync.filter import Filter
from filesync.sync.places import Kind, LocalPlaces, Place
from filesync.sync.source import Sources, are_several, close_all, find_sources

Find = Callable[..., Sources]


@pytest.fixture
def find(tmp_path: Path) -> Iterator[Find]:
    """Find what paths below the temporary directory name."""
    made: list[Sources] = []

    def find(
        *paths: str, rules: Sequence[bytes] = (), most_names_bytes: int | None = None
    ) -> Sources:
        full = [os.fsencode(tmp_path / "x")[:-1] + os.fsencode(path) for path in paths]
        made.append(
            find_sources(LocalPlaces(), full, Filter(rules), most_names_bytes=most_names_bytes)
        )
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
    assert names(found) == [{b"one", b"three", b"sub"}, {b"two"}]
    assert [source.place.trees for source in found.found] == [True, False]
    assert [Path(os.fsdecode(path)).name for path in found.missing] == ["gone"]


def test_directories_in_one_directory_are_one_source_but_one_alone_is_one_itself(
    find: Find,
) -> None:
    assert names(find("a", "b")) == [{b"a", b"b"}]
    assert names(find("b", "b")) == [b"b"]
    assert names(find("a/sub", "b/two", "b", "a")) == [b"sub", {b"two"}, {b"a", b"b"}]
    assert names(find("a", "b/", "b/one", "a/")) == [b"a", b"", {b"one"}, b""]
    assert names(find("a/sub", "a/one")) == [{b"sub", b"one"}]


def test_directories_of_one_name_are_each_a_source(find: Find, tmp_path: Path) -> None:
    (tmp_path / "b/sub").mkdir()
    assert names(find("a/sub", "a/one", "b/sub", "b/two")) == [
        {b"sub", b"one"},
        b"sub",
        {b"two"},
    ]
    (tmp_path / "b/three").unlink()
    (tmp_path / "b/three").mkdir()
    assert names(find("a/three", "b/three", "b/sub")) == [{b"three"}, b"three", b"sub"]
    assert names(find("b/three", "b/sub", "a/three", "a/sub", "b/sub")) == [
        {b"three", b"sub"},
        b"sub",
    ]


def test_names_before_and_after_what_may_have_any_are_not_one_source(find: Find) -> None:
    assert names(find("a/one", "b/", "a/two", "a/sub")) == [{b"one"}, b"", {b"two", b"sub"}]
    assert names(find("a/sub", "b/", "a/one", "a/sub")) == [b"sub", b"", {b"one"}]


def test_a_directory_that_is_left_out_is_none_of_the_names(find: Find) -> None:
    assert names(find("a", "b", rules=[b"- /b"])) == [b"a"]
    assert names(find("b", "a", "a", rules=[b"- b"])) == [b"a"]
    assert not find("a", "b", rules=[b"- b"]).are_several
    # Nothing comes of what is left out, but the destination is made as for any one name.
    assert names(find("a", "b", rules=[b"- *"])) == [{b"a"}]


def test_where_nobody_may_list_what_is_above_them_directories_are_found_all_the_same(
    find: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    really = LocalPlaces.open

    def opening(self: LocalPlaces, path: bytes) -> int:
        if path == os.fsencode(tmp_path / "a"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(self, path)

    (tmp_path / "a/other").mkdir()
    monkeypatch.setattr(LocalPlaces, "open", opening)
    found = find("a/sub", "a/other", "a/one")
    assert names(found) == [b"sub", b"other"]
    assert list(found.missing.values()) == [errno.EACCES]


def test_where_there_can_be_no_more_names_another_source_begins(find: Find) -> None:
    two_of_them = 2 * (len("one") + 3) + 255
    found = find("a/one", "a/two", "a/one", "a/three", most_names_bytes=two_of_them)
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
    assert place.kind_of(b"file") is Kind.OTHER
    assert place.kind_of(b"directory") is Kind.DIRECTORY
    for name in (b"gone", b"", b"..", b"directory/..", b"nul\0"):
        assert place.kind_of(name) is None
    place.close()
    assert not are_several([], [b"/", b"."])
