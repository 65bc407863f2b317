"""Files of an update whose content is not to be had any more."""

from pathlib import Path

import pytest

from filesync.disk.updating.update import TreeUpdate
from tests.unit.update_driver import Contents, MakeFile, MakeLink, build, hand_in, scanned, sync

COPIED = bytes(range(256)) * 100
"""Large enough for two files of it to be one that comes, and a copy."""


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "root", tmp_path / "source"


def begun(root: Path, source: Path, *, passes_over: bool = True) -> TreeUpdate:
    update = TreeUpdate(
        root, basis=scanned(root), target=scanned(source), passes_over=passes_over
    )
    update.prepare()
    return update


def test_what_is_passed_over_stays_as_it_is_and_all_else_is_done(
    roots: tuple[Path, Path],
) -> None:
    root, source = roots
    build(root, [MakeFile("d/old", b"as it was"), MakeFile("d/kept", b"1")])
    build(
        source,
        [MakeFile(f"d/{name}", b"new " + name.encode()) for name in ("old", "new", "other")],
    )
    update = begun(root, source)
    gone = {update.content_at(b"d/old"), update.content_at(b"d/new")}
    wanted = list(update.wanted())
    for one in wanted:
        if one.digest in gone:
            update.pass_over(one)
    hand_in(
        update,
        [one for one in wanted if one.digest not in gone],
        Contents(source, scanned(source)),
    )
    stats = update.finish()
    assert sorted(update.passed_over) == [b"d/new", b"d/old"]
    assert {path.name: path.read_bytes() for path in (root / "d").iterdir()} == {
        "old": b"as it was",
        "other": b"new other",
    }
    assert (stats.created, stats.deleted) == (1, 1)
    assert sync(root, source).stats.created == 1
    assert scanned(root).tree == scanned(source).tree


def test_copies_and_links_of_what_is_passed_over_stay_as_they_are_too(
    roots: tuple[Path, Path],
) -> None:
    root, source = roots
    build(root, [MakeFile("b", b"old b"), MakeFile("f", b"1")])
    build(
        source,
        [
            *(MakeFile(name, COPIED) for name in ("a", "b", "c")),
            MakeFile("d", b"linked"),
            MakeLink("e", "d"),
            MakeLink("f", "d"),
            MakeFile("other", b"2"),
        ],
    )
    update = begun(root, source)
    kept = update.content_at(b"other")
    for wanted in list(update.wanted()):
        if wanted.digest == kept:
            hand_in(update, [wanted], Contents(source, scanned(source)))
        else:
            update.pass_over(wanted)
    stats = update.finish()
    assert sorted(update.passed_over) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {
        "b": b"old b",
        "f": b"1",
        "other": b"2",
    }
    assert stats.created == 1
    sync(root, source)
    assert scanned(root).tree == scanned(source).tree


def test_who_has_to_have_all_is_told_of_nothing_that_may_be_passed_over(
    roots: tuple[Path, Path],
) -> None:
    root, source = roots
    build(root, [])
    build(source, [MakeFile("a", b"1")])
    update = begun(root, source, passes_over=False)
    assert update.content_at(b"a") is None
    update.abort()
