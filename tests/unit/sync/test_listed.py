"""Which names of a source come where they are listed."""

import errno
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from filesync.errors import MalformedMessage, UsageError
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, put, with_entries
from filesync.manifest.tree import subdirectory
from filesync.sync.filter import Filter
from filesync.sync.listed import Listed, paths_in
from filesync.sync.options import Options
from filesync.sync.part import Part
from filesync.sync.remote import fields
from filesync.sync.remote.lists import pack_list, unpack_list
from filesync.transfer.coding import codec
from tests.unit.made import file

NAMES = [b"a", b"b", b"c*", b"[d]", b"\\e"]
TREE = {
    above + b"/" + name if above else name: name in (b"a", b"c*", b"[d]")
    for above in (b"", b"a", b"a/a", b"c*", b"c*/[d]")
    for name in NAMES
}
"""Paths, and whether each is a directory."""
a_path = st.lists(st.sampled_from([*NAMES, b".", b"..", b""]), min_size=1, max_size=4).map(
    b"/".join
)


def come(filter: Filter) -> set[bytes]:
    """Return what a scan of ``TREE`` finds that enters no directory that is left out."""

    def enter(above: bytes) -> Iterator[bytes]:
        for path, is_directory in TREE.items():
            if path.rpartition(b"/")[0] == above and not filter.excludes(path, is_directory):
                yield path
                yield from enter(path)

    return set(enter(b""))


paths = st.lists(a_path.filter(lambda path: b"/./" not in path), max_size=5)


class Asked(set[bytes]):
    """Counts how often it is asked for."""

    times = 0

    def __contains__(self, path: object) -> bool:
        self.times += 1
        return super().__contains__(path)


def test_names_far_down_in_what_is_listed_are_decided_at_once() -> None:
    listed = Listed([b"a"], all_below=True)
    asked = listed._full = Asked(listed._full)
    leaves_out = listed.decides(())
    deep = b"a" + b"/directory-number" * 3900
    for number in range(200):
        assert leaves_out(b"%s/%d" % (deep, number), False) is None
    assert asked.times < 4000, "what leads there, and not for each"


@given(paths, st.booleans())
def test_what_the_other_side_is_told_lists_the_same(
    paths: list[bytes], all_below: bool
) -> None:
    listed = Listed(paths, all_below=all_below)
    told = pack_list(listed)
    assert (told is None) == (not listed)
    if told is not None:
        there = unpack_list(told)
        assert there.of(b"", b"") == listed.of(b"", b"")
        come_there = come(Filter((), before=there.decides(())))
        assert come_there == come(Filter((), before=listed.decides(())))


@pytest.mark.parametrize(
    ("path", "all_below", "those"),
    [
        (b"a/b", False, {b"a", b"a/b"}),
        (b"/a//b", False, {b"a", b"a/b"}),
        (b".//a/../../a/b", False, {b"a", b"a/b"}),
        (b"a/a", False, {b"a", b"a/a"}),
        (b"a/a/", False, {b"a", b"a/a"} | {b"a/a/" + name for name in NAMES}),
        (b"a/a/b/..", False, {b"a", b"a/a"} | {b"a/a/" + name for name in NAMES}),
        (b"a/a", True, {b"a", b"a/a"} | {b"a/a/" + name for name in NAMES}),
        (b".", False, set(NAMES)),
        (b".", True, set(TREE)),
        (b"nowhere", True, set()),
    ],
)
def test_what_is_listed_comes_with_what_leads_to_it(
    path: bytes, all_below: bool, those: set[bytes]
) -> None:
    assert come(Filter((), before=Listed([path], all_below=all_below).decides(()))) == those


@pytest.mark.parametrize("rule", [b"- a", b"- /a/a", b"- /a/a/"])
def test_what_leads_to_something_and_is_left_out_comes_for_no_more_than_that(
    rule: bytes,
) -> None:
    for paths, all_below in (([b"a/", b"a/a/b"], True), ([b"a/", b"a/a/", b"a/a/b"], False)):
        decides = Listed(paths, all_below=all_below).decides([rule])
        found = come(Filter([rule], before=decides))
        beside = set() if rule == b"- a" else {b"a/" + name for name in NAMES}
        assert found == {b"a", b"a/a", b"a/a/b"} | beside


@pytest.mark.parametrize(
    ("paths", "all_below", "rule", "ways"),
    [
        ([b"a/b/c"], False, b"- c", {b"a", b"a/b"}),
        ([b"a/b/c", b"a/b"], False, b"- c", {b"a"}),
        ([b"a/b/c", b"a"], False, b"- c", {b"a/b"}),
        ([b"a/b/c", b"a/"], False, b"- c", set()),
        ([b"a/b/c", b"a"], True, b"- c", set()),
        ([b"a/b/c", b"a"], True, b"- b", {b"a/b"}),
        ([b"a/b/c", b"a/b"], False, b"- a", {b"a"}),
        ([b"a/b/c", b"a/b/"], False, b"- /a/b", {b"a", b"a/b"}),
    ],
)
def test_a_way_is_what_is_not_listed_or_left_out_itself(
    paths: list[bytes], all_below: bool, rule: bytes, ways: set[bytes]
) -> None:
    listed = Listed(paths, all_below=all_below)
    filter = Filter((), root=b"a/", ways=listed.ways([rule]))
    assert {path for path in (b"a", b"a/b", b"a/b/c") if listed.ways([rule])(path)} == ways
    assert filter.is_way(b"b") == (b"a/b" in ways)
    assert not Options(listed=listed).unseen().is_way(b"a")


def test_what_rsync_would_leave_out_of_a_path_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"'/\./'"):
        Listed([b"./a/./b"])


def test_below_a_name_the_list_is_of_the_whole_transfer() -> None:
    filter = Filter((), root=b"a/", before=Listed([b"a/b", b"b"]).decides(()))
    assert not filter.excludes(b"b", is_directory=False)
    assert filter.excludes(b"a", is_directory=True)


def test_what_leads_to_something_comes_only_as_a_directory() -> None:
    filter = Filter((), before=Listed([b"a/b"]).decides(()))
    assert filter.excludes(b"a", is_directory=False)


def test_what_is_listed_in_a_source_that_is_no_directory_is_unmet() -> None:
    listed = Listed([b"a/b", b"c/d", b"e/f", b"g/h", b"i/left", b"k"])
    parts = [Part(names=frozenset((b"c",))), Part(b"e")]
    unmet = listed.unmet(parts, [b"src/g"], [b"- left"])
    assert unmet == {b"a/b": errno.ENOTDIR}
    assert listed.unmet([Part()], [], []) == {}


def test_the_sources_are_the_names_that_it_begins_with() -> None:
    listed = Listed([b"b/c", b"b/d", b"a"])
    assert listed.of(b"src", b"dst") == listed.of(b"src/", b"dst/")
    assert listed.of(b"src", b"dst") == ([b"src/a", b"src/b"], b"dst/")
    assert Listed([b"a", b"."]).of(b"src", b"dst") == ([b"src/"], b"dst/")
    assert Listed([]).of(b"src", b"dst") == ([], b"dst/")


def test_where_a_remote_shell_begins_is_not_the_root() -> None:
    assert Listed([b"a"]).of(b"", b"") == ([b"./a"], b"./")


def test_what_is_listed_and_not_there_is_told_of_unless_a_rule_leaves_it_out() -> None:
    nodes = MemoryNodes()
    below = put(nodes, with_entries(EMPTY_DIRECTORY, [file(b"b", b"content")]))
    entries = [subdirectory(nodes, b"a", below)]
    top = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)
    listed = Listed([b"a/b", b"a/no", b"a/left", b"shut/x", b"other/x"])
    part = Part(names=frozenset((b"a", b"shut")))
    lacking = listed.lacking(part, top, {b"shut": errno.EACCES}, [b"- left"])
    assert lacking == {b"a/no": errno.ENOENT}
    inner = Manifest(below, nodes)
    assert listed.lacking(Part(b"a"), inner, {}, []) == {
        b"no": errno.ENOENT,
        b"left": errno.ENOENT,
    }


TOO_MUCH = {
    "paths": [b"a/%d" % number for number in range(fields.MAX_LISTED + 1)],
    "bytes": [b"a/%0250d" % number for number in range(fields.MAX_LISTED_BYTES // 252 + 1)],
    "above": [b"a/%0250d" % number + b"/a" * 250 for number in range(100)],
    "tops": [b"%d" % number for number in range(fields.MAX_TOPS + 1)],
    "tops behind slashes": [b"/%d" % number for number in range(fields.MAX_TOPS + 1)],
    "tops behind others": [b"x/../%d" % number for number in range(fields.MAX_TOPS + 1)],
    "long tops": [b"%0250d" % number for number in range(600)],
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_neither_side_tells_the_other_of_more_than_that_holds(what: str) -> None:
    """In ten megabytes."""
    paths = TOO_MUCH[what]
    assert pack_list(Listed(paths)) is None
    raw = b"\0".join(paths)
    coding, payload = codec.compress(raw)
    told = fields.Listed(bytes(payload), len(raw), coding)
    with pytest.raises(MalformedMessage, match="more paths"):
        unpack_list(told)
    assert pack_list(Listed(paths[: len(paths) // 8])) is not None


def test_a_list_that_is_too_much_as_it_is_coded_is_not_told() -> None:
    names = [os.urandom(15).hex().encode() for _ in range(fields.MAX_LISTED - 1)]
    assert pack_list(Listed([b"a/" + name for name in names])) is None


def test_what_is_listed_of_what_is_mounted_is_told_of_where_that_is_not_entered() -> None:
    nodes = MemoryNodes()
    empty = put(nodes, EMPTY_DIRECTORY)
    mounts = [b"asked", b"below", b"open"]
    entries = [subdirectory(nodes, name, empty) for name in mounts]
    top = Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)
    listed = Listed([b"a/asked", b"a/below/x/f", b"a/open/", b"a/no"])
    assert listed.lacking(Part(b"a"), top, {}, [], mounts=mounts) == {
        b"below/x/f": errno.EXDEV,
        b"open": errno.EXDEV,
        b"no": errno.ENOENT,
    }
    with_all = Listed([b"a/asked"], all_below=True)
    assert with_all.lacking(Part(b"a"), top, {}, [], mounts=mounts) == {b"asked": errno.EXDEV}


def test_where_it_goes_nothing_else_is_looked_at() -> None:
    options = Options(listed=Listed([b"a/b"]), rules=(b"- c",))
    assert come(options.unseen()) == {b"a", b"a/b"}
    assert come(replace(options, rules=(b"- a",)).unseen()) == {b"a", b"a/b"}
    assert come(Options(rules=(b"- c",), delete=True).unseen()) == set(TREE)


@pytest.mark.parametrize(
    ("data", "from0", "paths"),
    [
        (b"a\nb/c\r\n\n#d\n;e\n f", False, [b"a", b"b/c", b" f"]),
        (b"a\0b\nc\0\0#d", True, [b"a", b"b\nc", b"#d"]),
        (b"", False, []),
    ],
)
def test_a_file_lists_a_path_in_each_line_or_before_each_nul(
    data: bytes, from0: bool, paths: list[bytes]
) -> None:
    assert paths_in(data, from0=from0) == paths
