"""What paths name: directories, and names in directories, together as far as they can be."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from filesync.manifest import MemoryNodes
from filesync.sync.filter import Filter
from filesync.sync.part import Part
from filesync.sync.places import Kind, LocalPlaces, Place
from filesync.sync.scanning import scan_place
from filesync.sync.source import Sources, are_several, close_all, find_sources
from filesync.sync.union import MOST_DOWN

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


# --- several directories that go to one place -------------------------------------------------


def united(sources: Sources) -> list[tuple[str, list[str]]]:
    """Return, of each source that is several directories, where they are below, and which they are."""
    return [
        (os.fspath(one.place.root), [os.fsdecode(path) for path in one.place.united])
        for one in sources.found
        if one.place.united
    ]


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)


def test_what_is_in_several_directories_is_one_source(find: Find, tmp_path: Path) -> None:
    make(tmp_path, *(f"many/{number}" for number in range(3000)))
    before = len(os.listdir("/proc/self/fd"))
    found = find(*(f"many/{number}/" for number in range(3000)))
    assert united(found) == [(f"{tmp_path}/many", [str(number) for number in range(3000)])]
    assert [source.part for source in found.found] == [Part()]
    assert found.are_several
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_they_are_in_the_order_in_which_they_were_named_and_each_is_there_once(
    find: Find, tmp_path: Path
) -> None:
    make(tmp_path, "c")
    found = find("c/", "./a/.", "b//", "c/", "gone/", "a/")
    assert united(found) == [(str(tmp_path), ["c", "a", "b"])]
    assert [Path(os.fsdecode(path)).name for path in found.missing] == ["gone"]


def test_what_is_named_between_them_stands_between_them(find: Find, tmp_path: Path) -> None:
    make(tmp_path, "c", "d")
    found = find("a/", "b/", "b/one", "c/", "d/")
    assert united(found) == [(str(tmp_path), ["a", "b"]), (str(tmp_path), ["c", "d"])]
    assert [source.part.names for source in found.found] == [None, {b"one"}, None]


def test_those_that_are_as_far_down_in_several_directories_are_one(
    find: Find, tmp_path: Path
) -> None:
    make(tmp_path, "b/sub", "c/sub", "c/deep/sub", "d/deep/sub")
    assert united(find("a/sub/", "b/sub/")) == [(str(tmp_path), ["a/sub", "b/sub"])]
    assert united(find("c/deep/sub/", "c/sub/", "a/")) == []
    found = find("a/", "b/", "c/sub/", "c/deep/", "d/deep/")
    assert united(found) == [
        (str(tmp_path), ["a", "b"]),
        (str(tmp_path), ["c/sub", "c/deep", "d/deep"]),
    ]


def test_directories_of_one_name_are_one_that_stands_there(find: Find, tmp_path: Path) -> None:
    make(tmp_path, "b/sub", "c/sub")
    found = find("a/sub", "b/sub", "c/sub", "a/one")
    assert united(found) == [(str(tmp_path), ["a/sub", "b/sub", "c/sub"])]
    assert [source.part for source in found.found] == [
        Part(b"sub"),
        Part(names=frozenset((b"one",))),
    ]


def test_what_is_reached_through_a_link_is_a_source_of_its_own(
    find: Find, tmp_path: Path
) -> None:
    make(tmp_path, "b/sub")
    (tmp_path / "to-b").symlink_to("b")
    assert united(find("a/", "to-b/", "b/")) == []
    assert united(find("a/sub/", "to-b/sub/", "b/sub/")) == []
    # One that leads to all of them is as any.
    (tmp_path / "to-all").symlink_to(".")
    found = find("to-all/a/", "to-all/b/")
    assert united(found) == [(str(tmp_path / "to-all"), ["a", "b"])]


def test_those_that_are_very_far_down_are_sources_of_their_own(
    find: Find, tmp_path: Path
) -> None:
    """What leads to each of them would be opened, from the root on."""
    for count, are_one in ((MOST_DOWN, True), (MOST_DOWN + 1, False)):
        far = ["/".join([top] + ["x"] * (count - 1)) + "/" for top in ("one", "two")]
        make(tmp_path / "far", *far)
        assert bool(united(find(*(f"far/{path}" for path in far)))) is are_one


def test_where_what_has_them_all_may_not_be_listed_they_are_sources_of_their_own(
    find: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    really = LocalPlaces.open

    def opening(self: LocalPlaces, path: bytes) -> int:
        if path == os.fsencode(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really(self, path)

    monkeypatch.setattr(LocalPlaces, "open", opening)
    found = find("a/", "b/")
    assert names(found) == [b"", b""]
    assert united(found) == []
    assert found.missing == {}


def test_each_of_them_is_scanned_as_the_root_that_it_is(find: Find, tmp_path: Path) -> None:
    """By rules, and without what an update that was killed has left there."""
    make(tmp_path, "w/a/in", "w/b/in/deep", "w/b/other", "w/b/in/.filesync-partial", "w/c")
    for name in ("a/in/top", "b/in/deep/top", "a/beside", "b/in/.filesync-partial/half"):
        (tmp_path / "w" / name).touch()
    make(tmp_path, "w/b/in/deep/.filesync-partial")
    (tmp_path / "w/b/in/deep/.filesync-partial/kept").touch()
    found = find("w/a/in/", "w/b/in/", rules=[b"- /top"])
    nodes = MemoryNodes()
    place = found.found[0].place
    scanned = scan_place(place, nodes, filter=Filter([b"- /top"]), caches=None).manifest
    assert [path for path, _ in scanned.walk()] == [
        b"deep",
        b"deep/.filesync-partial",
        b"deep/.filesync-partial/kept",
        b"deep/top",
    ]
