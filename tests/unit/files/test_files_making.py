"""MakeDirectory and MakeFile."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from worker.files import BadPath, PathInTheWay
from worker.wire.ops import Action, MakeDirectory, MakeFile

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
]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "base", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_makes(
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
]  # fmt: skip


@pytest.mark.parametrize(
    ("action", "base", "kind", "sentence"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_refuses_to_make(
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
            now_ns=123,
        )
    finally:
        os.umask(previous)

    def found(name: str) -> tuple[int, int, int, int]:
        status = os.lstat(root / name)
        mode = stat.S_IMODE(status.st_mode)
        return mode, status.st_uid, status.st_gid, status.st_mtime_ns

    assert found("there")[:3] == (0o711, 0, 0)
    assert {name: found(name) for name in ("a", "a/b", "p", "p/f")} == {
        "a": (0o1777, 5, 5, 123),
        "a/b": (0o1777, 5, 5, 123),
        "p": (0o755, 0, 0, 123),
        "p/f": (0o4711, 6, 7, 123),
    }
