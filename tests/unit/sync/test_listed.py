"""Which names of a source come where they are listed."""

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import UsageError
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, put, with_entries
from filesync.manifest.tree import subdirectory
from filesync.sync.filter import MAX_RULES, Filter
from filesync.sync.listed import Listed, paths_in
from filesync.sync.options import Options
from filesync.sync.part import Part
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


@given(st.lists(a_path.filter(lambda path: b"/./" not in path), max_size=5), st.booleans())
def test_the_rules_for_another_machine_leave_out_what_the_list_does(
    paths: list[bytes], all_below: bool
) -> None:
    listed = Listed(paths, all_below=all_below)
    assert listed.rules is not None
    assert come(Filter((), before=listed.leaves_out)) == come(Filter(listed.rules))
    rules = (b"- a", b"- c*/")
    both = (*listed.leading, *rules, *listed.rules)
    assert come(Filter(rules, before=listed.leaves_out)) == come(Filter(both))


@pytest.mark.parametrize(
    ("path", "all_below", "those"),
    [
        (b"a/b", False, {b"a", b"a/b"}),
        (b"/a//b", False, {b"a", b"a/b"}),
        (b".//a/../../a/b", False, {b"a", b"a/b"}),
        (b"a/a", False, {b"a", b"a/a"}),
        (b"a/a/", False, {b"a", b"a/a"} | {b"a/a/" + name for name in NAMES}),
        (b"a/a", True, {b"a", b"a/a"} | {b"a/a/" + name for name in NAMES}),
        (b".", False, set(NAMES)),
        (b".", True, set(TREE)),
        (b"nowhere", True, set()),
    ],
)
def test_what_is_listed_comes_with_what_leads_to_it(
    path: bytes, all_below: bool, those: set[bytes]
) -> None:
    assert come(Filter((), before=Listed([path], all_below=all_below).leaves_out)) == those


def test_what_rsync_would_leave_out_of_a_path_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"'/\./'"):
        Listed([b"./a/./b"])


def test_below_a_name_the_list_is_of_the_whole_transfer() -> None:
    filter = Filter((), root=b"a/", before=Listed([b"a/b", b"b"]).leaves_out)
    assert not filter.excludes(b"b", is_directory=False)
    assert filter.excludes(b"a", is_directory=True)


def test_what_leads_to_something_comes_only_as_a_directory() -> None:
    filter = Filter((), before=Listed([b"a/b"]).leaves_out)
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


def test_another_machine_is_not_asked_for_more_than_it_takes() -> None:
    assert Listed([b"%d" % number for number in range(MAX_RULES)]).rules is None
    assert Listed([b"n" * 255 + b"/%d" % number for number in range(600)]).rules is None
    assert Listed([b"*" * 100]).rules is None


def test_where_it_goes_nothing_else_is_looked_at() -> None:
    options = Options(listed=Listed([b"a/b"]), rules=(b"- c",))
    filter = Filter(options.unseen)
    assert come(filter) == {b"a", b"a/b"}
    assert Options(rules=(b"- c",), delete=True).unseen == ()


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
