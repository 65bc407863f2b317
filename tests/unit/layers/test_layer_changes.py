import re

import pytest

from filesync.digest import Digest, digest_of
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Directory,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Summary,
    Symlink,
    canonical_links,
    put,
    subdirectory,
    with_entries,
)
from worker.layers import NotALayer, tar_size
from worker.layers.changes import members
from worker.layers.member import END, LINK

NODES = MemoryNodes()
Plain = dict[str, "Plain | int | str"]


def tree(plain: Plain, header: Directory = EMPTY_DIRECTORY) -> Manifest:
    """Return a manifest: numbers are files' contents, text names a hard-link group."""
    return Manifest(canonical_links(NODES, _put(plain, header)), NODES)


def _put(plain: Plain, header: Directory = EMPTY_DIRECTORY) -> Digest:
    entries: list[Entry] = []
    for text, what in plain.items():
        name = text.encode()
        if isinstance(what, dict):
            entries.append(subdirectory(NODES, name, _put(what)))
        elif isinstance(what, str):
            entries.append(File(name, 0o644, 0, 0, 0, 4, digest_of(b"link"), what.encode()))
        else:
            entries.append(File(name, 0o644, 0, 0, 0, what, digest_of(bytes(what))))
    return put(NODES, with_entries(header, entries))


def says(old: Plain | None, new: Plain) -> list[str]:
    """Return what the layer says: paths, and links as ``path -> target``."""
    found = members(tree(old) if old is not None else None, tree(new))
    return [
        one.path.decode() + (f" -> {one.link.decode()}" if one.kind == LINK else "")
        for one in found
    ]


def test_equal_trees_say_nothing() -> None:
    same: Plain = {"a": 1, "d": {"b": 2}}
    assert says(same, same) == []
    assert tar_size(tree(same), tree(same)) == len(END)


def test_a_whole_tree_comes_in_walk_order_with_its_root() -> None:
    assert says(None, {"b": 1, "a": {"z": 1, "y": {}}, "a.b": 1}) == [
        "./",
        "a/",
        "a/y/",
        "a/z",
        "a.b",
        "b",
    ]


def test_a_directory_is_said_when_something_in_it_is() -> None:
    old: Plain = {"d": {"e": {"f": 1, "g": 1}, "h": 1}, "i": 1}
    assert says(old, {"d": {"e": {"f": 2, "g": 1}, "h": 1}, "i": 1}) == ["d/e/", "d/e/f"]
    assert says(old, {"d": {"e": {"f": 1}, "h": 1}, "i": 1}) == ["d/e/", "d/e/.wh.g"]
    assert says(old, {"i": 1}) == ["./", ".wh.d"]


def test_a_changed_header_is_said() -> None:
    new = tree({"a": 1}, Directory(0o700, 0, 0, 0, (), ()))
    assert [one.path for one in members(tree({"a": 1}), new)] == [b"./"]


def test_another_kind_of_thing_needs_no_whiteout() -> None:
    assert says({"a": {"b": 1}}, {"a": 1}) == ["./", "a"]
    assert says({"a": 1}, {"a": {"b": 1}}) == ["./", "a/", "a/b"]


def test_a_group_with_a_new_name_is_said_whole() -> None:
    """A link to a file of another layer is one that podman and docker cannot unpack."""
    assert says({"b": 0, "c": "g", "d": "g"}, {"b": 0, "c": "g", "d": "g", "e": "g"}) == [
        "./",
        "c",
        "d -> c",
        "e -> c",
    ]


def test_a_group_that_changed_is_a_file_and_links_to_it() -> None:
    assert says(None, {"d": {"b": "g"}, "a": "g"}) == ["./", "a", "d/", "d/b -> a"]


def test_a_group_that_lost_its_first_name_says_only_that() -> None:
    assert says({"a": "g", "b": "g", "c": "g"}, {"b": "g", "c": "g"}) == ["./", ".wh.a"]


def test_a_name_that_left_its_group_is_a_file() -> None:
    old: Plain = {"a": "g", "b": "g", "c": "g"}
    assert says(old, {"a": "g", "b": "h", "c": "g"}) == ["./", "b"]


def test_a_file_is_not_said_again_for_its_groups_new_name() -> None:
    old: Plain = {"d": {"a": "g"}, "e": "g", "f": "g"}
    assert says(old, {"d": {}, "e": "g", "f": "g"}) == ["d/", "d/.wh.a"]


@pytest.mark.parametrize("name", [".wh.a", ".wh..wh..opq"])
def test_a_name_that_means_removal_cannot_be_said(name: str) -> None:
    with pytest.raises(NotALayer, match=rf"^'{re.escape(name)}': .* give it another name"):
        says({}, {name: 1})
    with pytest.raises(NotALayer):
        says({name: 1}, {})
    assert says({name: 1, "b": 1}, {name: 1, "b": 2}) == ["./", "b"]


def test_only_directories_that_differ_are_read() -> None:
    read: list[Digest] = []

    class Watched(MemoryNodes):
        def read(self, digest: Digest) -> bytes:
            read.append(digest)
            return NODES.read(digest)

        def summary(self, digest: Digest) -> Summary:
            return NODES.summary(digest)

    symlink = Symlink(b"l", 0, 0, 0, b"x")
    old = tree({"same": {"deep": {"a": 1}}, "b": 1})
    new = put(NODES, with_entries(old.root, [*old.root.entries, symlink]))
    nodes = Watched()
    list(members(Manifest(old.tree, nodes), Manifest(new, nodes)))
    assert set(read) == {old.tree, new}
