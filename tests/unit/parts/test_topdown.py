"""An image's tree read from the top: what it finds is what applying all layers gives."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.scan import scan
from filesync.errors import PathMissing, UsageError
from filesync.manifest import LayeredNodes, Manifest, MemoryNodes
from filesync.trees.select import Pick, Selector, select
from tests.unit.layers.test_layer_law import scratch
from worker.layers import BadLayer, apply_layer
from worker.layers.member import DIRECTORY, END, FILE, LINK, SYMLINK, Member, encode, padding
from worker.parts.errors import NotInParts
from worker.parts.listing import Leaf, list_layer
from worker.parts.topdown import TopDown

Layer = Sequence[Member]


def d(path: str, mode: int = 0o755) -> Member:
    return Member(path.encode() + b"/", DIRECTORY, mode)


def f(path: str, size: int = 10) -> Member:
    return Member(path.encode(), FILE, 0o644, size=size)


def ln(path: str, target: str) -> Member:
    return Member(path.encode(), SYMLINK, 0o777, link=target.encode())


def hard(path: str, target: str) -> Member:
    return Member(path.encode(), LINK, link=target.encode())


def gone(path: str) -> Member:
    above, _, name = path.rpartition("/")
    return f(f"{above}/.wh.{name}" if above else f".wh.{name}", 0)


def opaque(path: str) -> Member:
    return f(f"{path}/.wh..wh..opq", 0)


def content(layer: int, number: int, size: int) -> bytes:
    return (b"%d %d " % (layer, number) * size)[:size]


def read(
    layers: Sequence[Layer], *paths: str, wildcard: bool = True, parents: bool = False
) -> tuple[TopDown, int]:
    """Read ``layers``, topmost first, until ``paths`` are known; say how many that took."""
    selector = Selector(tuple(Pick(p, wildcard=wildcard, parents=parents) for p in paths))
    image = TopDown(selector, len(layers))
    for count, layer in enumerate(layers, start=1):
        image.add(layer)
        if image.found() is not None:
            return image, count
    raise AssertionError("all layers are read, and something is not known")


def names(layers: Sequence[Layer], *paths: str) -> tuple[list[str], int]:
    image, count = read(layers, *paths)
    found = image.found()
    assert found is not None
    return [path.decode() for path, _ in found.manifest.walk()], count


def sources(layers: Sequence[Layer], *paths: str) -> dict[str, tuple[int, int]]:
    """Return where each file comes from: the layer, from the top, and the member."""
    found = read(layers, *paths)[0].found()
    assert found is not None
    return {
        path.decode(): found.leaves[entry.digest][:2]
        for path, entry in found.manifest.walk()
        if hasattr(entry, "digest")
    }


# --- stopping ---------------------------------------------------------------------------------


def test_a_file_in_the_top_layer_needs_no_other() -> None:
    layers = [[d("usr"), d("usr/bin"), f("usr/bin/tool")], [f("other")], [f("usr/bin/tool")]]
    assert names(layers, "usr/bin/tool") == (["usr", "usr/bin", "usr/bin/tool"], 1)
    assert sources(layers, "usr/bin/tool") == {"usr/bin/tool": (0, 2)}


def test_a_file_that_is_whited_out_needs_no_other_layer() -> None:
    assert names([[d("usr"), gone("usr/tool")], [d("usr"), f("usr/tool")]], "usr/tool") == (
        [],
        1,
    )
    assert names([[d("usr"), opaque("usr")], [d("usr"), f("usr/tool")]], "usr/tool") == ([], 1)
    assert names([[gone("usr")], [d("usr"), f("usr/tool")]], "usr/tool") == ([], 1)


def test_a_directory_needs_all_layers_until_one_makes_it_anew() -> None:
    old = [d("app"), f("app/old")]
    assert names([[d("app"), f("app/a")], old, [f("x")]], "app") == (
        ["app", "app/a", "app/old"],
        3,
    )
    assert names([[d("app"), f("app/a"), opaque("app")], old], "app") == (["app", "app/a"], 1)
    assert names([[d("app"), f("app/a")], [gone("app")], old], "app") == (["app", "app/a"], 2)


def test_a_directory_that_no_layer_speaks_of_may_be_a_link_below() -> None:
    assert names([[f("app/a")], [d("app", 0o700)]], "app/a") == (["app", "app/a"], 2)
    with pytest.raises(NotInParts):
        read([[f("app/a")], [d("real"), ln("app", "real")]], "app/a")


def test_links_are_followed_into_lower_layers() -> None:
    layers = [
        [ln("tool", "/usr/bin/../bin/it")],
        [f("x")],
        [d("usr"), d("usr/bin"), f("usr/bin/it")],
    ]
    assert names(layers, "tool") == (["tool", "usr", "usr/bin", "usr/bin/it"], 3)
    assert names([[ln("l", "../../a")], [f("a")]], "l") == (["a", "l"], 2)


def test_a_wildcard_needs_all_that_may_match() -> None:
    layers = [[d("etc"), f("etc/a.conf")], [d("etc"), f("etc/b.conf"), f("etc/c")]]
    assert names(layers, "etc/*.conf") == (["etc", "etc/a.conf", "etc/b.conf"], 2)
    closed = [[d("etc"), opaque("etc"), f("etc/a.conf")], layers[1]]
    assert names(closed, "etc/*.conf") == (["etc", "etc/a.conf"], 1)


# --- what wins --------------------------------------------------------------------------------


def test_a_whiteout_speaks_of_lower_layers_only() -> None:
    layers = [[gone("a"), f("a"), f("b"), gone("b")], [f("a"), f("b")]]
    assert sources(layers, "a", "b") == {"a": (0, 1), "b": (0, 2)}


def test_a_directory_replaces_a_file_and_a_file_a_directory() -> None:
    assert names([[d("x"), f("x/new")], [f("x")], [d("x"), f("x/old")]], "x")[0] == [
        "x",
        "x/new",
    ]
    assert names([[f("x")], [d("x"), f("x/old")]], "x") == (["x"], 1)


def test_the_last_member_of_a_name_counts() -> None:
    assert sources([[f("a"), f("a", 3)]], "a") == {"a": (0, 1)}


def test_hard_links_are_one_file_in_a_layer_and_across_layers() -> None:
    assert sources([[f("a"), hard("b", "a")]], "a", "b") == {"a": (0, 0), "b": (0, 0)}
    assert sources([[hard("b", "a")], [f("x")], [f("a")]], "b") == {"b": (2, 0)}
    # What a link was made to stays, whatever becomes of the other name.
    assert sources([[f("a"), hard("b", "a"), f("a", 3)]], "a", "b") == {
        "a": (0, 2),
        "b": (0, 0),
    }
    assert sources([[gone("a")], [hard("b", "a")], [f("a")]], "b") == {"b": (2, 0)}


def test_a_hard_link_to_what_is_not_there_cannot_be_read_in_parts() -> None:
    with pytest.raises(NotInParts):
        read([[hard("b", "a")], [f("x")]], "b")
    with pytest.raises(NotInParts):
        read([[hard("b", "b")]], "b")


def test_a_hard_link_that_nobody_asks_for_hurts_nobody() -> None:
    assert names([[f("x"), hard("b", "a")], [f("y")]], "x") == (["x"], 1)


@pytest.mark.parametrize("path", ["../etc/passwd", "a/../../b", "n" * 256, "a/b\0c"])
def test_a_name_that_leads_out_or_is_none_is_a_bad_layer(path: str) -> None:
    with pytest.raises(BadLayer):
        list_layer(0, [f(path)])


def test_an_absolute_path_is_one_below_the_root() -> None:
    assert names([[d("/etc"), f("/etc/passwd")]], "etc/passwd")[0] == ["etc", "etc/passwd"]


def test_a_literal_path_that_is_missing_leaves_what_else_was_asked_for() -> None:
    image, _ = read([[f("a")], [f("b")]], "no/such", "b", wildcard=False)
    found = image.found()
    assert found is not None
    assert [path for path, _ in found.manifest.walk()] == [b"b"]


# --- against applying -------------------------------------------------------------------------


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.builds(d, PATHS, st.sampled_from([0o755, 0o700])),
    st.builds(d, PATHS),
    st.just(d(".", 0o711)),
    st.builds(f, PATHS, st.integers(0, 2)),
    st.builds(f, PATHS),
    st.builds(ln, PATHS, st.sampled_from(["a", "/b", "../c", "b/c", "/a/../b"])),
    st.builds(hard, PATHS, PATHS),
    st.builds(gone, PATHS),
    st.builds(opaque, PATHS),
)


def tidy(layer: list[Member]) -> list[Member]:
    """Return the members as most tools write them: each directory before what is in it."""
    kept: dict[str, Member] = {}
    for member in layer:
        path = member.path.decode().rstrip("/")
        above = [path[:at] for at, char in enumerate(path) if char == "/"]
        for one in above:
            if one not in kept or kept[one].kind != DIRECTORY:
                kept[one] = d(one)
        kept[path] = member
    named = {p: m for p, m in kept.items() if m.kind == DIRECTORY or not _holds(kept, p)}
    return [named[path] for path in sorted(named)]


def _holds(kept: dict[str, Member], path: str) -> bool:
    return any(other.startswith(f"{path}/") for other in kept)


RAW = st.lists(MEMBERS, min_size=1, max_size=7)
LAYERS = st.lists(RAW | RAW.map(tidy), min_size=1, max_size=4) | st.lists(
    RAW.map(tidy), min_size=2, max_size=5
)
ASKED = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "*", "[ab]", "**"]), max_size=3).map("/".join),
    min_size=1,
    max_size=2,
)


def tar(number: int, layer: Layer) -> bytes:
    out = bytearray()
    for count, member in enumerate(layer):
        out += (
            encode(member) + content(number, count, member.size) + bytes(padding(member.size))
        )
    return bytes(out) + END


def applied(layers: Sequence[Layer], at: Path) -> Manifest:
    root, nodes = at / "root", MemoryNodes()
    root.mkdir(mode=0o755)
    os.utime(root, ns=(0, 0))
    for number, layer in reversed(list(enumerate(layers))):
        apply_layer(io.BytesIO(tar(number, layer)), root)
    return Manifest(scan(root, nodes).tree, nodes)


@pytest.mark.needs("root")
@settings(max_examples=400)
@given(LAYERS, ASKED, st.booleans())
@example([[hard("b", "a/l")], [d("a"), ln("a/l", "/c")], [f("c")]], ["b"], False)
@example([[opaque("a"), f("a/b/c")], [d("a/b", 0o700), f("a/b/a")]], ["a"], False)
@example([[f("a/b/c"), opaque("a")], [d("a/b", 0o700), f("a/b/a")]], ["a"], False)
@example([[f("a/b"), gone("a")], [d("a", 0o700), f("a/c")]], ["*"], False)
@example([[d("a"), f("a/b")], [d(".", 0o711), d("a", 0o700)]], ["a/b"], True)
def test_what_is_found_is_what_applying_all_layers_gives(
    layers: list[Layer], asked: list[str], parents: bool
) -> None:
    with scratch() as at:
        try:
            whole = applied(layers, at)
        except BadLayer:
            return
        try:
            found = read(layers, *asked, parents=parents)[0].found()
        except NotInParts:
            return
    assert found is not None
    contents: Mapping[Leaf, Digest] = {
        leaf: digest_of(content(leaf.layer, leaf.number, leaf.member.size))
        for leaf in found.leaves.values()
    }
    picks: list[Pick] = []
    for path in asked:
        pick = Pick(path, wildcard=True, parents=parents)
        try:
            select(whole, Selector((pick,)), LayeredNodes(MemoryNodes(), whole.nodes))
        except (PathMissing, UsageError):
            continue
        picks.append(pick)
    expected = select(whole, Selector(tuple(picks)), LayeredNodes(MemoryNodes(), whole.nodes))
    got = found.proved(contents, MemoryNodes())
    assert dict(got.walk()) == dict(expected.walk())
    assert got.tree == expected.tree
