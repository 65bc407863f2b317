"""Selectors: what a pick names, and that its subset is enough to find it again."""

from collections.abc import Mapping

import pytest
from e2b_dockerfile_utils import PatternMatcher
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from filesync.digest import Digest, digest_of
from filesync.errors import PathMissing, UsageError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    Expansion,
    File,
    LayeredNodes,
    Manifest,
    MemoryNodes,
    Subdirectory,
    Symlink,
    group_name,
    grow,
    put,
    subdirectory,
    with_entries,
)
from filesync.trees.glob import compile_name
from filesync.trees.select import Match, Pick, Selector, matched, resolve, select

Tree = Mapping[bytes, "Tree | bytes | str | tuple[bytes, bytes]"]
"""Names to directories, contents of files, targets of links, (content, link group)."""


def plant(tree: Tree) -> Manifest:
    nodes = MemoryNodes()

    def expand(at: Tree) -> Expansion[Tree]:
        entries: list[Entry] = []
        children: list[tuple[bytes, Tree]] = []
        for name, value in at.items():
            if isinstance(value, Mapping):
                children.append((name, value))
            elif isinstance(value, str):
                entries.append(Symlink(name, 0, 0, 0, value.encode()))
            else:
                data, group = value if isinstance(value, tuple) else (value, b"")
                entries.append(File(name, 0o644, 0, 0, 7, len(data), digest_of(data), group))
        return Expansion(EMPTY_DIRECTORY, entries, children)

    return Manifest(grow(nodes, tree, expand), nodes)


def subset(manifest: Manifest, *picks: Pick) -> Manifest:
    return select(manifest, Selector(picks), LayeredNodes(MemoryNodes(), manifest.nodes))


def matches(manifest: Manifest, pick: Pick) -> list[bytes]:
    return list(dict.fromkeys(match.real for match in matched(manifest, pick)))


def paths(manifest: Manifest) -> list[bytes]:
    return [path for path, _ in manifest.walk()]


BUILD: Tree = {
    b"out": {b"bin": {b"tool": b"elf", b"tool.map": b"map"}, b"log": b"noise"},
    b"src": {b"a.c": b"a", b"b.c": b"b", b"b.h": b"h", b"sub": {b"c.c": b"c"}},
    b"current": "out/bin",
    b"abs": "/out/../out/bin/tool",
    b"up": "../../../../src",
    b"dangling": "nowhere/at/all",
    b"round": "about",
    b"about": "round",
    b"empty": {},
}


def test_a_literal_path_brings_its_parents_and_nothing_beside_it() -> None:
    got = subset(plant(BUILD), Pick("/out/bin/tool"))
    assert paths(got) == [b"out", b"out/bin", b"out/bin/tool"]


def test_a_directory_is_kept_whole_by_its_digest() -> None:
    manifest = plant(BUILD)
    got = subset(manifest, Pick("src"))
    before, after = manifest.find(b"src"), got.find(b"src")
    assert isinstance(before, Subdirectory)
    assert after == before


@pytest.mark.parametrize("path", ["", "/", ".", "./", "..", "src/..", "../."])
def test_the_root_is_the_whole_tree(path: str) -> None:
    manifest = plant(BUILD)
    assert subset(manifest, Pick(path)).tree == manifest.tree


def test_no_picks_leave_the_header_of_the_root() -> None:
    got = subset(plant(BUILD))
    assert got.root == EMPTY_DIRECTORY


def test_links_on_the_way_and_at_the_end_come_with_their_targets() -> None:
    manifest = plant(BUILD)
    assert paths(subset(manifest, Pick("current/tool"))) == [
        b"current",
        b"out",
        b"out/bin",
        b"out/bin/tool",
    ]
    assert paths(subset(manifest, Pick("abs"))) == [b"abs", b"out", b"out/bin", b"out/bin/tool"]
    assert b"src/sub/c.c" in paths(subset(manifest, Pick("up")))


def test_dots_in_a_links_target_never_leave_the_root() -> None:
    assert resolve(plant(BUILD), b"up/sub/c.c") == b"src/sub/c.c"
    assert resolve(plant({b"l": "../../../.."}), b"l") == b""


def test_dots_in_a_target_are_physical_and_what_they_pass_is_kept() -> None:
    tree: Tree = {b"a": {b"deep": {}}, b"jump": "a/deep", b"l": "jump/../../b", b"b": b"1"}
    manifest = plant(tree)
    assert resolve(manifest, b"l") == b"b"
    got = subset(manifest, Pick("l"))
    assert paths(got) == [b"a", b"a/deep", b"b", b"jump", b"l"]
    assert resolve(got, b"l") == b"b"


def test_dots_in_a_path_are_taken_back_before_links_are_looked_at() -> None:
    assert resolve(plant(BUILD), b"current/../src/a.c") == b"src/a.c"


@pytest.mark.parametrize("path", ["nope", "out/nope", "out/log/x", "dangling", "src/sub/c.c/d"])
def test_a_literal_path_that_is_missing_is_an_error_that_names_it(path: str) -> None:
    manifest = plant(BUILD)
    with pytest.raises(PathMissing, match=path):
        subset(manifest, Pick(path))
    with pytest.raises(PathMissing):
        resolve(manifest, path.encode())
    with pytest.raises(PathMissing):
        matches(manifest, Pick(path, wildcard=True))


def test_a_loop_of_links_is_an_error() -> None:
    with pytest.raises(UsageError, match="'round': too many links on the way, or a circle"):
        subset(plant(BUILD), Pick("round"))


def test_a_chain_of_255_links_is_followed() -> None:
    tree = {b"%03d" % i: f"{i + 1:03}" for i in range(255)} | {b"255": b"end"}
    assert resolve(plant(tree), b"000") == b"255"
    with pytest.raises(UsageError):
        resolve(plant({**tree, b"more": "000"}), b"more")


def test_a_wildcard_stops_at_a_slash_and_picks_nothing_when_nothing_matches() -> None:
    manifest = plant(BUILD)
    assert matches(manifest, Pick("src/*.c", wildcard=True)) == [b"src/a.c", b"src/b.c"]
    assert matches(manifest, Pick("*/*/*.c", wildcard=True)) == [b"src/sub/c.c"]
    assert matches(manifest, Pick("*/nope/*", wildcard=True)) == []
    assert paths(subset(manifest, Pick("*.none", wildcard=True))) == []
    assert paths(subset(manifest, Pick("src/*.none", wildcard=True))) == [b"src"]


@pytest.mark.parametrize("path", ["nope/*.c", "src/nope/*", "src/a.c/*"])
def test_what_stands_before_a_wildcard_must_be_a_directory_but_with_parents(path: str) -> None:
    manifest = plant(BUILD)
    before = path.rpartition("/")[0]
    for find in (matches, subset):
        with pytest.raises(PathMissing, match=before):
            find(manifest, Pick(path, wildcard=True))
    assert matches(manifest, Pick(path, wildcard=True, parents=True)) == []


def test_a_wildcard_that_matches_a_directory_brings_its_subtree() -> None:
    got = subset(plant(BUILD), Pick("s*", wildcard=True))
    assert paths(got) == [
        b"src",
        b"src/a.c",
        b"src/b.c",
        b"src/b.h",
        b"src/sub",
        b"src/sub/c.c",
    ]


def test_a_wildcard_enters_directories_but_not_links_to_them() -> None:
    manifest = plant(BUILD)
    assert matches(manifest, Pick("c*/tool", wildcard=True)) == []
    assert matches(manifest, Pick("current/t*", wildcard=True)) == [
        b"out/bin/tool",
        b"out/bin/tool.map",
    ]


def test_two_stars_are_any_number_of_directories_to_a_pick_with_parents() -> None:
    manifest = plant(BUILD)
    deep = Pick("**/*.c", wildcard=True, parents=True)
    assert matches(manifest, deep) == [b"src/a.c", b"src/b.c", b"src/sub/c.c"]
    assert matches(manifest, replace(deep, path="src/**/**/sub/**")) == [b"src/sub/c.c"]
    assert matches(manifest, replace(deep, path="nope/**/a")) == []
    assert matches(manifest, Pick("**/*.c", wildcard=True)) == [b"src/a.c", b"src/b.c"]
    assert paths(subset(manifest, replace(deep, path="**/c.c"))) == [
        b"src",
        b"src/sub",
        b"src/sub/c.c",
    ]


def test_a_link_that_a_wildcard_matches_is_followed_and_a_dangling_one_stands_for_itself() -> (
    None
):
    manifest = plant(BUILD)
    assert matched(manifest, Pick("[cdr]*", wildcard=True)) == [
        Match(b"current", b"out/bin"),
        Match(b"dangling", b"dangling"),
        Match(b"round", b"round"),
    ]


def test_two_names_for_one_path_are_one_match() -> None:
    manifest = plant({b"a": b"1", b"b": "a"})
    assert matches(manifest, Pick("*", wildcard=True)) == [b"a"]


def test_an_escaped_wildcard_is_a_literal_name() -> None:
    manifest = plant({b"a*": b"1", b"ab": b"2", b"arr[0]": b"3"})
    assert matches(manifest, Pick("a\\*", wildcard=True)) == [b"a*"]
    assert matches(manifest, Pick("arr[[]0]", wildcard=True)) == [b"arr[0]"]
    assert matches(manifest, Pick("a*")) == [b"a*"]


def test_names_that_are_not_text_are_matched() -> None:
    manifest = plant({b"\xff\xfe.c": b"1", b"n\n\x1b": b"2"})
    assert matches(manifest, Pick("??.c", wildcard=True)) == [b"\xff\xfe.c"]
    assert matches(manifest, Pick("\udcff\udcfe.c")) == [b"\xff\xfe.c"]
    assert matches(manifest, Pick("n*", wildcard=True)) == [b"n\n\x1b"]


def test_excludes_are_relative_to_the_directory_that_the_path_names() -> None:
    manifest = plant(BUILD)
    got = subset(manifest, Pick("src", exclude=("b.*", "sub")))
    assert paths(got) == [b"src", b"src/a.c"]
    assert paths(subset(manifest, Pick("src", exclude=("src/b.*",)))) == paths(
        subset(manifest, Pick("src"))
    )
    assert paths(subset(manifest, Pick("current", exclude=("*.map",)))) == [
        b"current",
        b"out",
        b"out/bin",
        b"out/bin/tool",
    ]


def test_what_is_taken_back_below_an_excluded_directory_brings_its_parents() -> None:
    tree: Tree = {b"d": {b"x": {b"keep": b"1", b"drop": b"2"}, b"y": {b"drop": b"3"}}}
    got = subset(plant(tree), Pick("d", exclude=("*", "!x/keep")))
    assert paths(got) == [b"d", b"d/x", b"d/x/keep"]


def test_a_file_that_a_wildcard_matches_is_excluded_by_its_name() -> None:
    manifest = plant(BUILD)
    pick = Pick("src/*", exclude=("b.*",), wildcard=True)
    assert matches(manifest, pick) == [b"src/a.c", b"src/sub"]


def test_a_directory_that_a_wildcard_matches_is_not_excluded_by_its_name() -> None:
    pick = Pick("src/*", exclude=("sub",), wildcard=True)
    assert b"src/sub" in matches(plant(BUILD), pick)
    assert b"src/sub/c.c" in paths(subset(plant(BUILD), pick))


def test_a_file_that_a_literal_path_names_is_never_excluded() -> None:
    manifest = plant(BUILD)
    assert matches(manifest, Pick("src/a.c", exclude=("*",))) == [b"src/a.c"]


def test_the_union_keeps_what_any_pick_keeps() -> None:
    got = subset(plant(BUILD), Pick("src", exclude=("*",)), Pick("src/b.h"), Pick("empty"))
    assert paths(got) == [b"empty", b"src", b"src/b.h"]


@pytest.mark.parametrize("pattern", ["[", "[a", "[]a]", "a[", "[a-", "x\\", "[-]", "[^]"])
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        matches(plant(BUILD), Pick(f"*/{pattern}", wildcard=True))


def test_a_malformed_exclude_is_refused() -> None:
    with pytest.raises(UsageError):
        subset(plant(BUILD), Pick("src", exclude=("[",)))


def test_hard_links_are_named_again_and_one_alone_has_none() -> None:
    group = group_name(b"a/1")
    tree: Tree = {
        b"a": {b"1": (b"x", group)},
        b"b": {b"2": (b"x", group), b"3": (b"x", group)},
    }
    manifest = plant(tree)
    pair = subset(manifest, Pick("b"))
    found = [entry.link for _, entry in pair.walk() if isinstance(entry, File)]
    assert found == [group_name(b"b/2")] * 2
    alone = subset(manifest, Pick("b/3")).find(b"b/3")
    assert isinstance(alone, File)
    assert alone.link == b""


def test_directories_beside_the_way_are_not_read() -> None:
    manifest = plant(BUILD)
    seen = set()

    class Watched(MemoryNodes):
        def read(self, digest: object) -> bytes:
            seen.add(digest)
            return manifest.nodes.read(digest)  # type: ignore[arg-type]

    watched = Manifest(manifest.tree, LayeredNodes(MemoryNodes(), Watched()))
    src = manifest.find(b"src")
    assert isinstance(src, Subdirectory)
    assert resolve(watched, b"out/bin/tool") == b"out/bin/tool"
    assert src.tree not in seen


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("ab*", "a", False),
        ("a*b*c*d*e", "axbxcxdxe", True),
        ("a*b*c*d*e", "axbxcxdxexxx", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[^b-d]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "z", False),
        ("*x", "xxx", True),
        ("[z-a]", "b", False),
        ("[^z-a]", "b", True),
        (".*", "a", False),
    ],
)
def test_patterns_match_as_in_go(pattern: str, name: str, expected: bool) -> None:
    assert bool(compile_name(pattern)(name)) is expected


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    assert not compile_name("*a" * 120 + "b")("a" * 255)


NAMES = st.sampled_from([b"a", b"b", b"c", b"ab", b"\xff"])
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "ab"]), min_size=1, max_size=3)
LEAVES = st.one_of(
    st.binary(max_size=2),
    st.builds(lambda up, parts: up + "/".join(parts), st.sampled_from(["", "/"]), TARGETS),
)
TREES = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=3),
    lambda trees: st.dictionaries(NAMES, st.one_of(LEAVES, trees), max_size=4),
    max_leaves=12,
)
PARTS = st.sampled_from(["a", "b", "c", "ab", "*", "?", "a*", "[a-b]", "..", "\udcff", "**"])
EXCLUDES = st.sampled_from(["a", "*", "**/b", "!a", "!b/a", "a/b", "!*/c", "?b"])
PICKS = st.builds(
    Pick,
    st.lists(PARTS, max_size=4).map("/".join),
    st.lists(EXCLUDES, max_size=3).map(tuple),
    st.just(True),
    st.booleans(),
)


@given(TREES, st.lists(PICKS, max_size=3))
def test_every_pick_names_the_same_in_the_subset_as_in_the_tree(
    tree: Tree, picks: list[Pick]
) -> None:
    manifest = plant(tree)
    try:
        found = [matched(manifest, pick) for pick in picks]
        got = subset(manifest, *picks)
    except (PathMissing, UsageError):
        return
    before, after = dict(manifest.walk()), dict(got.walk())
    assert after.keys() <= before.keys()
    assert all(
        entry == before[path] or isinstance(entry, Subdirectory)
        for path, entry in after.items()
    )
    for pick, names in zip(picks, found, strict=True):
        again = [match.path for match in matched(got, pick)]
        assert set(again) >= {match.path for match in names}
        if len(picks) == 1:
            assert matched(got, pick) == names


@given(TREES, PICKS)
def test_selecting_then_walking_is_filtering_the_walk(tree: Tree, pick: Pick) -> None:
    manifest = plant(tree)
    pick = replace(pick, parents=False)
    try:
        names = matches(manifest, pick)
        got = subset(manifest, pick)
    except (PathMissing, UsageError):
        return
    matcher = PatternMatcher(list(pick.exclude))

    def is_below(path: bytes, top: bytes) -> bool:
        if top and not path.startswith(top + b"/"):
            return False
        rest = path[len(top) + 1 :] if top else path
        return not matcher.matches(rest.decode("utf-8", "surrogateescape"))

    wanted = {
        path
        for path, _ in manifest.walk()
        if path in names or any(is_below(path, top) for top in names)
    }
    walked = set(paths(got))
    assert wanted <= walked
    links = {path for path, entry in manifest.walk() if isinstance(entry, Symlink)}
    for extra in walked - wanted:
        # Only what leads somewhere: a parent, a link, or what a link's own path passes.
        assert extra in links or isinstance(got.find(extra), Subdirectory)


# --- attributes of directories on the way ---------------------------------------------------


def attributed(way: int) -> Manifest:
    nodes = MemoryNodes()

    def directory(mode: int, entries: list[Entry], below: dict[bytes, Digest]) -> Digest:
        found = [subdirectory(nodes, name, tree) for name, tree in below.items()]
        header = replace(EMPTY_DIRECTORY, mode=mode, uid=way, gid=way, mtime_ns=way)
        return put(nodes, with_entries(header, [*entries, *found]))

    picked = directory(0o700, [File(b"f", 0o644, 0, 0, 0, 1, digest_of(b"x"))], {})
    on_the_way = directory(way, [], {b"picked": picked})
    return Manifest(directory(way, [], {b"way": on_the_way}), nodes)


def test_the_attributes_of_a_directory_on_the_way_are_not_read() -> None:
    pick = Pick("way/picked/f")
    assert subset(attributed(0o711), pick).tree == subset(attributed(0o755), pick).tree
    got = subset(attributed(0o711), Pick("way/picked"))
    assert got.root.mode == 0o755
    found = got.find(b"way/picked")
    assert isinstance(found, Subdirectory)
    assert got.directory(found.tree).mode == 0o700


def test_a_pick_with_parents_reads_the_attributes_of_all_on_the_way() -> None:
    got = subset(attributed(0o711), Pick("way/picked/f", parents=True))
    found = got.find(b"way")
    assert isinstance(found, Subdirectory)
    assert (got.root.mode, got.directory(found.tree).mode) == (0o711, 0o711)


@given(TREES, st.lists(PICKS, min_size=1, max_size=3))
def test_a_part_of_a_subset_is_that_part_of_the_tree(tree: Tree, picks: list[Pick]) -> None:
    manifest = plant(tree)
    try:
        parts = [subset(manifest, pick).tree for pick in picks]
        together = subset(manifest, *picks)
    except (PathMissing, UsageError):
        return
    assert [subset(together, pick).tree for pick in picks] == parts
