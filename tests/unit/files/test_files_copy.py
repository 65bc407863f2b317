"""COPY cases as Docker documents them; each from the whole input and from its subset."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from filesync.errors import PathMissing, UsageError
from tests.unit.files.conftest import NOW_NS
from worker.files import BadPath, PathInTheWay
from worker.wire.ops import Copy

Listing = Mapping[str, str]
Lay = Callable[[Listing], Path]
Read = Callable[[Path], dict[str, str]]
CopyBoth = Callable[..., Path]

SOURCE: Listing = {
    "a.txt": "a",
    "b.txt": "b",
    "c.log": "c",
    "dir/one": "1",
    "dir/two.log": "2",
    "dir/sub/three": "3",
    "dir/sub/four.log": "4",
    "dir/inner": "-> one",
    "dir/dangling": "-> nowhere",
    "link": "-> dir",
    "file-link": "-> /dir/sub/three",
    "up": "-> ../../../../dir/sub",
    "empty/": "",
    "m/x/f": "xf",
    "m/y/f": "yf",
    "m/y/g": "yg",
}
IN_DIR: Listing = {
    "one": "1",
    "two.log": "2",
    "sub/three": "3",
    "sub/four.log": "4",
    "inner": "-> one",
    "dangling": "-> nowhere",
}


def below(directory: str, tree: Listing) -> dict[str, str]:
    return {f"{directory}/{name}": value for name, value in tree.items()}


def copy(source: str, dest: str, *exclude: str, **flags: bool) -> Copy:
    return Copy(0, source, dest, exclude=exclude, **flags)  # type: ignore[arg-type]


CASES: list[tuple[str, Copy, Listing, Listing]] = [
    ("a file gets the destination's name", copy("a.txt", "/x"), {}, {"x": "a"}),
    ("missing parents are made", copy("a.txt", "/p/q/x"), {}, {"p/q/x": "a"}),
    ("a slash means into", copy("a.txt", "/p/"), {}, {"p/a.txt": "a"}),
    ("a slash and a dot too", copy("a.txt", "/p/."), {}, {"p/a.txt": "a"}),
    ("an existing directory too", copy("a.txt", "/p"), {"p/": ""}, {"p/a.txt": "a"}),
    ("the root is one", copy("/a.txt", "/"), {}, {"a.txt": "a"}),
    ("a file replaces a file", copy("a.txt", "/x"), {"x": "old"}, {"x": "a"}),
    ("a directory gives its contents", copy("dir", "/d"), {}, below("d", IN_DIR)),
    ("whatever slashes it has", copy("/dir/", "/d/"), {}, below("d", IN_DIR)),
    ("the source's '..' stops at the root", copy("../../a.txt", "/x"), {}, {"x": "a"}),
    ("the destination's too", copy("a.txt", "../../x"), {}, {"x": "a"}),
    ("an empty directory makes one", copy("empty", "/d"), {}, {"d/": ""}),
    ("the whole input", copy("/", "/d"), {}, below("d", SOURCE)),
    (
        "directories merge",
        copy("dir/sub", "/d"),
        {"d/old": "o", "d/three": "t"},
        {"d/old": "o", "d/three": "3", "d/four.log": "4"},
    ),
    ("a source link to a directory", copy("link", "/d"), {}, below("d", IN_DIR)),
    ("a source through a link", copy("link/sub/three", "/x"), {}, {"x": "3"}),
    ("a source link to a file", copy("file-link", "/x"), {}, {"x": "3"}),
    ("keeps the link's name in a directory", copy("file-link", "/d/"), {}, {"d/file-link": "3"}),
    ("a link that leads up stays inside", copy("up/three", "/x"), {}, {"x": "3"}),
    (
        "several matches go into a directory that is there",
        copy("*.txt", "/d", wildcard=True),
        {"d/old": "o"},
        {"d/old": "o", "d/a.txt": "a", "d/b.txt": "b"},
    ),
    (
        "several matches go into a directory that '/' asks for",
        copy("*.txt", "/d/", wildcard=True),
        {},
        {"d/a.txt": "a", "d/b.txt": "b"},
    ),
    (
        "the last of several matches is what is no directory",
        copy("*.txt", "/d", wildcard=True),
        {},
        {"d": "b"},
    ),
    ("one match is a name", copy("c*", "/d", wildcard=True), {}, {"d": "c"}),
    ("no match copies nothing", copy("*.zip", "/d/", wildcard=True), {}, {}),
    (
        "matched directories give their contents",
        copy("m/*", "/d/", wildcard=True),
        {},
        {"d/f": "yf", "d/g": "yg"},
    ),
    ("a wildcard on the way", copy("m/*/g", "/d/", wildcard=True), {}, {"d/g": "yg"}),
    (
        "a match that is a link is followed",
        copy("file-*", "/d/", wildcard=True),
        {},
        {"d/file-link": "3"},
    ),
    (
        "a match that leads nowhere is kept",
        copy("dir/dangl*", "/d/", wildcard=True),
        {},
        {"d/dangling": "-> nowhere"},
    ),
    (
        "excludes are relative to the directory",
        copy("dir", "/d", "*.log", "dangling"),
        {},
        {"d/one": "1", "d/sub/three": "3", "d/sub/four.log": "4", "d/inner": "-> one"},
    ),
    (
        "two stars reach below",
        copy("dir", "/d", "**/*.log", "inner", "dangling"),
        {},
        {"d/one": "1", "d/sub/three": "3"},
    ),
    (
        "an exclamation mark takes back in",
        copy("dir", "/d", "*", "!sub/three"),
        {},
        {"d/sub/three": "3"},
    ),
    (
        "an excluded match does not count",
        copy("?.*", "/d", "*.log", "b.txt", wildcard=True),
        {},
        {"d": "a"},
    ),
    ("a destination link", copy("a.txt", "/l/x"), {"l": "-> /r", "r/": ""}, {"r/x": "a"}),
    ("one that leads up", copy("a.txt", "/l/x"), {"l": "-> ../../r"}, {"r/x": "a"}),
    ("a link to a directory at the end", copy("a.txt", "/l"), {"l": "-> r", "r/": ""}, {"r/a.txt": "a"}),
    ("a link to a file at the end", copy("a.txt", "/l"), {"l": "-> r", "r": "o"}, {"r": "a"}),
    ("a link to nothing at the end", copy("a.txt", "/l"), {"l": "-> r"}, {"r": "a"}),
    ("a link for contents", copy("dir/sub", "/l"), {"l": "-> r/s"}, below("r/s", {"three": "3", "four.log": "4"})),
    (
        "a link inside the directory is replaced",
        copy("dir/sub", "/d"),
        {"d/three": "-> /t", "t": "kept"},
        {"d/three": "3", "d/four.log": "4", "t": "kept"},
    ),
    (
        "a link replaces a file",
        copy("dir", "/d", "sub", "*.log", "one", "dangling"),
        {"d/inner": "file"},
        {"d/inner": "-> one"},
    ),
    ("parents", copy("dir/sub/three", "/d/", parents=True), {}, {"d/dir/sub/three": "3"}),
    ("parents, from the pivot", copy("dir/./sub/three", "/d/", parents=True), {}, {"d/sub/three": "3"}),
    (
        "parents of matches",
        copy("m/*/f", "/d/", parents=True, wildcard=True),
        {},
        {"d/m/x/f": "xf", "d/m/y/f": "yf"},
    ),
    (
        "parents of matches, from the pivot",
        copy("m/./*/f", "/d", parents=True, wildcard=True),
        {},
        {"d/x/f": "xf", "d/y/f": "yf"},
    ),
    (
        "parents of matches at any depth",
        copy("**/f", "/d/", parents=True, wildcard=True),
        {},
        {"d/m/x/f": "xf", "d/m/y/f": "yf"},
    ),
    (
        "no depth is one, and a link on the way keeps its name",
        copy("link/**/t*", "/d/", "link/*.log", parents=True, wildcard=True),
        {},
        {"d/link/sub/three": "3"},
    ),
    (
        "parents of matches at any depth, from the pivot",
        copy("dir/./**/t*", "/d/", parents=True, wildcard=True),
        {},
        {"d/two.log": "2", "d/sub/three": "3"},
    ),
    (
        "two stars at the end are all that is there",
        copy("m/**/y/**", "/d/", parents=True, wildcard=True),
        {},
        {"d/m/y/f": "yf", "d/m/y/g": "yg"},
    ),
    (
        "parents of a directory",
        copy("dir/sub", "/", parents=True),
        {},
        {"dir/sub/three": "3", "dir/sub/four.log": "4"},
    ),
    ("parents through a link", copy("link/sub/three", "/", parents=True), {}, {"link/sub/three": "3"}),
    ("parents of everything", copy("dir/sub/./", "/d", parents=True), {}, below("d", {"three": "3", "four.log": "4"})),
    ("parents of a link keep it", copy("file-link", "/", parents=True), {}, {"file-link": "-> /dir/sub/three"}),
    (
        "parents with excludes, which are then relative to the root",
        copy("dir/sub", "/d", "*.log", "dir/sub/three", parents=True),
        {},
        {"d/dir/sub/four.log": "4"},
    ),
    (
        "by the names that were written, where a link is on the way",
        copy("link/sub", "/d", "link/sub/three", "dir/sub/four.log", parents=True),
        {},
        {"d/link/sub/four.log": "4"},
    ),
    (
        "or to the pivot",
        copy("dir/./sub", "/d", "dir/sub/three", "sub/*.log", parents=True),
        {},
        {"d/sub/three": "3"},
    ),
    (
        "a match below a directory that is excluded does not count",
        copy("m/**/[fg]", "/d", "**/x", "m/y/f", parents=True, wildcard=True),
        {},
        {"d/m/y/g": "yg"},
    ),
    (
        "nor does a directory that is, but for what is taken back in",
        copy("m/*", "/d", "**/x", "m/y", "!m/y/g", parents=True, wildcard=True),
        {},
        {"d/m/y/g": "yg"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "base", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_copies_as_docker_does(
    lay: Lay,
    copy_both: CopyBoth,
    read: Read,
    action: Copy,
    base: Listing,
    wanted: Listing,
) -> None:
    root = copy_both(lay(SOURCE), base, action)

    links = {name: value for name, value in base.items() if value.startswith("-> ")}
    found = read(root)
    assert found == {**{name: links[name] for name in links if name not in wanted}, **wanted}


REFUSED: list[tuple[str, Copy, Listing, type[Exception], str]] = [
    ("a missing source", copy("none", "/x"), {}, PathMissing, "none"),
    ("a source below a file", copy("a.txt/x", "/x"), {}, PathMissing, "a.txt/x"),
    ("a directory onto a file", copy("dir", "/x"), {"x": "f"}, PathInTheWay, "cannot copy to non-directory: /x"),
    ("a file into a file", copy("a.txt", "/x/"), {"x": "f"}, PathInTheWay, "cannot copy to non-directory: /x"),
    ("matches into a file", copy("*.txt", "/x/", wildcard=True), {"x": "f"}, PathInTheWay, "cannot copy to non-directory: /x"),
    ("below a file", copy("a.txt", "/x/y/z"), {"x": "f"}, PathInTheWay, "cannot copy to non-directory: /x/y/z"),
    ("a file onto a directory inside one", copy("dir", "/d"), {"d/one/": ""}, PathInTheWay, "cannot replace directory /d/one"),
    ("a directory onto a file inside one", copy("dir", "/d"), {"d/sub": "f"}, PathInTheWay, "cannot copy to non-directory: /d/sub"),
    ("a directory onto a link inside one", copy("dir", "/d"), {"d/sub": "-> /t", "t/": ""}, PathInTheWay, "cannot copy to non-directory: /d/sub"),
    ("a file onto a directory of its name", copy("a.txt", "/d/"), {"d/a.txt/": ""}, PathInTheWay, "cannot replace directory /d/a.txt"),
    ("a loop of links", copy("a.txt", "/l/x"), {"l": "-> m", "m": "-> l"}, BadPath, "too many links"),
    ("a link behind nothing", copy("a.txt", "/l/x"), {"l": "-> no/../y"}, BadPath, "leads nowhere"),
    ("a NUL", copy("a.txt", "/x\0y"), {}, BadPath, "NUL"),
    ("a bad mode", Copy(0, "a.txt", "/x", mode="0999"), {}, UsageError, "0999"),
    ("an unknown owner", Copy(0, "a.txt", "/x", owner="nobody"), {}, UsageError, "nobody"),
    ("a bad pattern", copy("[a", "/x", wildcard=True), {}, UsageError, r"\[a"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "base", "kind", "sentence"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_refuses_by_name(
    lay: Lay,
    run: Callable[..., object],
    action: Copy,
    base: Listing,
    kind: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        run(lay(base), action, source=lay(SOURCE))


def test_several_copies_share_one_subset(lay: Lay, copy_both: CopyBoth, read: Read) -> None:
    root = copy_both(
        lay(SOURCE),
        {},
        copy("*.txt", "/t/", wildcard=True),
        copy("link/sub", "/s/", "*.log"),
        copy("m/./y/g", "/t/", parents=True),
        copy("dir/two.log", "/s/three"),
    )

    assert read(root) == {"t/a.txt": "a", "t/b.txt": "b", "s/three": "2", "t/y/g": "yg"}


def test_a_mode_of_the_way_yields_to_that_of_a_directory_copied_there_later(
    lay: Lay, copy_both: CopyBoth
) -> None:
    source = lay({"f": "f", "d/b/": "750"})
    root = copy_both(source, {}, Copy(0, "f", "/a/b/", mode="500"), copy("d", "/a"))
    assert [(root / name).stat().st_mode & 0o7777 for name in ("a", "a/b")] == [0o500, 0o750]


DIRECTORY_NS, OTHER_NS = 10**15, 2 * 10**15
TIMED: Listing = {"dir/f": "f", "dir/sub/g": "g", "other/h": "h", "empty/": "", "file": "file"}


def times(root: Path, *names: str) -> list[int]:
    return [(root / name).stat().st_mtime_ns for name in names]


@pytest.mark.parametrize(
    ("actions", "wanted"),
    [
        ([copy("dir", "/x")], {"x": DIRECTORY_NS, "": NOW_NS}),
        ([copy("dir", "/x/y/z/")], {"x": NOW_NS, "x/y": NOW_NS, "x/y/z": DIRECTORY_NS}),
        ([copy("dir", "/there")], {"there": DIRECTORY_NS}),
        ([copy("empty", "/x")], {"x": OTHER_NS}),
        ([copy("dir", "/x", "*")], {"x": DIRECTORY_NS}),
        ([copy("dir", "/x"), copy("other", "/x")], {"x": OTHER_NS}),
        ([copy("*r", "/x", wildcard=True)], {"x": OTHER_NS}),
        ([copy("file", "/x/"), copy("dir", "/x")], {"x": DIRECTORY_NS}),
        ([copy("dir", "/x"), copy("file", "/x/")], {"x": NOW_NS}),
        (
            [copy("dir/sub", "/x/sub"), copy("dir", "/x")],
            {"x": DIRECTORY_NS, "x/sub": OTHER_NS},
        ),
        ([copy("dir", "/x"), copy("other", "/x/sub/in")], {"x": DIRECTORY_NS, "x/sub": NOW_NS}),
        ([copy("/", "/x")], {"x": OTHER_NS, "x/dir": DIRECTORY_NS}),
        ([Copy(0, "dir", "/x/y", mode="0500")], {"x": NOW_NS, "x/y": DIRECTORY_NS}),
    ],
)
def test_where_a_directory_is_copied_to_has_its_time_until_a_file_comes_there(
    lay: Lay, copy_both: CopyBoth, actions: list[Copy], wanted: Mapping[str, int]
) -> None:
    source = lay(TIMED)
    for name in ("", "dir/sub", "empty", "other"):
        os.utime(source / name, ns=(OTHER_NS, OTHER_NS))
    os.utime(source / "dir", ns=(DIRECTORY_NS, DIRECTORY_NS))
    root = copy_both(source, {"there/f": "old"}, *actions)
    assert times(root, *wanted) == [*wanted.values()]


def test_a_root_of_which_nobody_says_a_time_gives_none(lay: Lay, copy_both: CopyBoth) -> None:
    source = lay(TIMED)
    os.utime(source, ns=(0, 0))
    assert times(copy_both(source, {}, copy("/", "/x")), "x") == [NOW_NS]
