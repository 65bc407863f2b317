"""MakeDirectory, MakeFile, MakeSymlink and Remove."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from filesync.errors import PathMissing
from tests.deep import dig
from worker.files import BadPath, PathInTheWay
from worker.wire.ops import Action, MakeDirectory, MakeFile, MakeSymlink, Remove

Listing = Mapping[str, str]
Lay = Callable[[Listing], Path]
Read = Callable[[Path], dict[str, str]]
Run = Callable[..., object]

CASES: list[tuple[str, Action, Listing, Listing]] = [
    ("a directory and its parents", MakeDirectory("/a/b"), {}, {"a/b/": ""}),
    ("one that is there", MakeDirectory("/a"), {"a/f": "f"}, {"a/f": "f"}),
    ("the root is there", MakeDirectory("/"), {}, {}),
    ("through links", MakeDirectory("/l/b"), {"l": "-> /r"}, {"l": "-> /r", "r/b/": ""}),
    ("a file and its parents", MakeFile("a/f", b"x"), {}, {"a/f": "x"}),
    ("a file replaces", MakeFile("/f", b"x"), {"f": "old"}, {"f": "x"}),
    ("a file replaces a link", MakeFile("/l", b"x"), {"l": "-> f", "f": "f"}, {"l": "x", "f": "f"}),
    ("an empty file", MakeFile("/f", b""), {}, {"f": ""}),
    ("a link and its parents", MakeSymlink("/a/l", "../x"), {}, {"a/l": "-> ../x"}),
    ("a link replaces", MakeSymlink("/f", "/etc"), {"f": "f"}, {"f": "-> /etc"}),
    ("a link replaces a link", MakeSymlink("/l", "y"), {"l": "-> d", "d/": ""}, {"l": "-> y", "d/": ""}),
    ("remove a file", Remove("/f"), {"f": "f", "g": "g"}, {"g": "g"}),
    ("remove a directory", Remove("d/"), {"d/e/f": "f", "dd": "g"}, {"dd": "g"}),
    ("remove a link, not what it leads to", Remove("/l"), {"l": "-> d", "d/f": "f"}, {"d/f": "f"}),
    ("remove through a link", Remove("/l/f"), {"l": "-> d", "d/f": "f"}, {"l": "-> d", "d/": ""}),
    ("remove what matches", Remove("/d/*.o", wildcard=True), {"d/a.o": "", "d/b.o/x": "", "d/c": "c"}, {"d/c": "c"}),
    ("on every level", Remove("/*/[xy]", wildcard=True), {"a/x": "", "b/y": "", "b/z": "z"}, {"a/": "", "b/z": "z"}),
    ("through a link before it", Remove("/l/*", wildcard=True), {"l": "-> d", "d/f": "f"}, {"l": "-> d", "d/": ""}),
    ("through none that matches", Remove("/*/f", wildcard=True), {"l": "-> .d", "e/g": "g"}, {"l": "-> .d", "e/g": "g"}),
    ("through no link that matches", Remove("/l*/f", wildcard=True), {"l": "-> e", "e/f": "f"}, {"l": "-> e", "e/f": "f"}),
    ("remove a link to nothing", Remove("/l"), {"l": "-> none", "f": "f"}, {"f": "f"}),
    ("no match is fine", Remove("/x*", wildcard=True), {}, {}),
    ("no directory to match in is fine", Remove("/x/*", wildcard=True), {"x": "f"}, {"x": "f"}),
    ("escaped wildcards are none", Remove(r"/\*", wildcard=True), {"*": "s", "a": "a"}, {"a": "a"}),
    ("none, if that is fine", Remove("/x", missing_ok=True), {}, {}),
    ("none above, if that is fine", Remove("/x/y/z", missing_ok=True), {"x": "f"}, {"x": "f"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "base", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_makes_and_removes(
    lay: Lay, read: Read, run: Run, action: Action, base: Listing, wanted: Listing
) -> None:
    root = lay(base)

    run(root, action)

    assert read(root) == wanted


REFUSED: list[tuple[str, Action, Listing, type[Exception], str]] = [
    ("a directory on a file", MakeDirectory("/f"), {"f": ""}, PathInTheWay, "/f"),
    ("a directory below a file", MakeDirectory("/f/g"), {"f": ""}, PathInTheWay, "/f/g"),
    ("a file on a directory", MakeFile("/d", b""), {"d/": ""}, PathInTheWay, "/d"),
    ("a file on the root", MakeFile("/..", b""), {}, BadPath, "/"),
    ("a file with a NUL", MakeFile("/a\0b", b""), {}, BadPath, r"/a\\x00b"),
    ("a link on a directory", MakeSymlink("/d", "x"), {"d/": ""}, PathInTheWay, "/d"),
    ("a link without a target", MakeSymlink("/l", ""), {}, BadPath, "/l"),
    ("a link with a NUL", MakeSymlink("/l", "a\0"), {}, BadPath, "/l"),
    ("removing the root", Remove("/"), {"f": ""}, BadPath, "root"),
    ("removing the root by dots", Remove("a/../.."), {"f": ""}, BadPath, "root"),
    ("removing what is not there", Remove("/x"), {}, PathMissing, "/x"),
    ("removing below a file", Remove("/f/x"), {"f": ""}, PathMissing, "/f/x"),
    ("removing what cannot be a name", Remove("/a\0b"), {}, PathMissing, "b"),
    ("removing in a loop", Remove("/l/x"), {"l": "-> l"}, BadPath, "too many links"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "base", "kind", "sentence"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_refuses_to_make_or_remove(
    lay: Lay,
    run: Run,
    action: Action,
    base: Listing,
    kind: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        run(lay(base), action)


@pytest.mark.needs("root")
def test_what_is_made_has_its_mode_owner_and_time_whatever_the_umask(
    lay: Lay, run: Run
) -> None:
    root = lay({"there/": "711"})
    previous = os.umask(0o077)
    try:
        run(
            root,
            MakeDirectory("/a/b", mode=0o1777, owner="5"),
            MakeDirectory("/there", mode=0o700, owner="5"),
            MakeFile("/p/f", b"x", mode=0o4711, owner="6:7"),
            MakeSymlink("/p/l", "f", owner="8"),
            now_ns=123,
        )
    finally:
        os.umask(previous)

    def found(name: str) -> tuple[int, int, int, int]:
        status = os.lstat(root / name)
        mode = stat.S_IMODE(status.st_mode)
        return mode, status.st_uid, status.st_gid, status.st_mtime_ns

    assert found("there")[:3] == (0o711, 0, 0)
    assert {name: found(name) for name in ("a", "a/b", "p", "p/f", "p/l")} == {
        "a": (0o1777, 5, 5, 123),
        "a/b": (0o1777, 5, 5, 123),
        "p": (0o755, 0, 0, 123),
        "p/f": (0o4711, 6, 7, 123),
        "p/l": (0o777, 8, 8, 123),
    }


def test_removes_a_tree_deeper_than_any_path(lay: Lay, run: Run) -> None:
    root = lay({})
    os.close(dig(root, 2500, "deeper"))

    run(root, Remove("/deeper"))

    assert not any(root.iterdir())
