"""Which old file a new one is compared with, when none was there under its name."""

import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.disk.updating.similar import (
    GUESSED_BYTES,
    MAX_NOTED,
    Similar,
)
from filesync.disk.updating.update import TreeUpdate, WantedFile
from filesync.manifest import EMPTY_DIRECTORY as EMPTY
from filesync.manifest import File, Manifest, put, subdirectory, with_entries
from tests.unit.counting_nodes import CountingNodes
from tests.unit.update_driver import (
    MakeFile,
    build,
    file,
    scanned,
    sync,
    tree_of,
)


def sized(name: bytes, size: int) -> File:
    """Return a file whose digest says its name and size."""
    return msgspec.structs.replace(file(name, b"%s %d" % (name, size)), size=size)


def found(old: list[tuple[bytes, bytes, int]], path: bytes, name: bytes, size: int) -> bytes:
    """Return the path of what is found, or b""."""
    similar = Similar()
    for old_path, old_name, old_size in old:
        similar.note(old_path, sized(old_name, old_size))
    one = similar.find(path, sized(name, size))
    return b"" if one is None else one.path + b"/" + one.name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # The same name elsewhere, best in a directory of the same name.
        ([(b"a", b"f.py", 100)], (b"b", b"f.py", 110), b"a/f.py"),
        (
            [(b"x/a", b"f.py", 100), (b"x/b", b"f.py", 300)],
            (b"y/b", b"f.py", 100),
            b"x/b/f.py",
        ),
        ([(b"a", b"f.py", 100), (b"b", b"f.py", 190)], (b"c", b"f.py", 200), b"b/f.py"),
        # The nearest name of the same directory.
        ([(b"a", b"parser.py", 100)], (b"a", b"parsers.py", 100), b"a/parser.py"),
        (
            [(b"a", b"tool-1.2.tar", 90), (b"a", b"toolbox.tar", 90)],
            (b"a", b"tool-1.3.tar", 90),
            b"a/tool-1.2.tar",
        ),
        (
            [(b"a", b"v1-manual.txt", 90)],
            (b"a", b"version2-manual.txt", 90),
            b"a/v1-manual.txt",
        ),
        # A name elsewhere that is only near, a name that is not, a size that cannot be.
        ([(b"a", b"parser.py", 100)], (b"b", b"parsers.py", 100), b""),
        ([(b"a", b"index.html", 100)], (b"a", b"README.md", 100), b""),
        ([(b"a", b"f.py", 100)], (b"b", b"f.py", 801), b""),
        ([(b"a", b"f.py", 801)], (b"b", b"f.py", 100), b""),
        ([(b"a", b"f.py", 0)], (b"b", b"f.py", 1), b""),
        ([(b"a", b"f.py", 1)], (b"b", b"f.py", 0), b""),
        ([], (b"b", b"f.py", 1), b""),
    ],
)
def test_the_likeliest_old_file_is_found(
    old: list[tuple[bytes, bytes, int]], new: tuple[bytes, bytes, int], expected: bytes
) -> None:
    assert found(old, *new) == expected


def test_ten_thousand_renames_in_one_directory_each_find_their_own() -> None:
    similar = Similar()
    for number in range(10_000):
        similar.note(b"d", sized(b"picture-%05d.jpeg" % number, 5000 + number % 100))
    for number in range(0, 10_000, 97):
        one = similar.find(b"d", sized(b"picture-%05d-edited.jpeg" % number, 5000))
        assert one is not None
        assert one.name == b"picture-%05d.jpeg" % number


def test_what_is_remembered_is_bounded() -> None:
    similar = Similar()
    for number in range(MAX_NOTED + 10):
        similar.note(b"d", sized(b"%d" % number, 10))
    assert similar.find(b"elsewhere", sized(b"%d" % (MAX_NOTED - 1), 10)) is not None
    assert similar.find(b"elsewhere", sized(b"%d" % MAX_NOTED, 10)) is None


@given(
    st.lists(st.tuples(st.binary(max_size=3), st.binary(min_size=1, max_size=5)), max_size=20),
    st.binary(max_size=3),
    st.binary(min_size=1, max_size=5),
    st.integers(1, 100),
)
def test_whatever_is_found_was_noted_and_is_near_in_size(
    old: list[tuple[bytes, bytes]], path: bytes, name: bytes, size: int
) -> None:
    similar = Similar()
    for number, (old_path, old_name) in enumerate(old):
        similar.note(old_path, sized(old_name, 1 + number * 10))
    one = similar.find(path, sized(name, size))
    if one is not None:
        assert (one.path, one.name) in old
        assert one.size <= size * 8
        assert size <= one.size * 8


# --- on disk --------------------------------------------------------------------------------

TEXT = random.Random(1).randbytes(3000)
EDITED = TEXT[:1000] + b"edited" + TEXT[1000:]


def basis_of(root: Path, source: Path) -> tuple[bytes | None, int]:
    """Return what the one file that must come can be made of, and what ``replaces`` says."""
    one = TreeUpdate(root, basis=scanned(root), target=scanned(source))
    one.prepare()
    (wanted,) = one.wanted()
    data = one.read_basis(wanted, 1 << 20)
    assert one.read_basis(wanted, 10) == (None if data is None else data[:10])
    assert one.read_basis(wanted, 0) is None
    large = one.open_large(wanted)
    read = [os.pread(basis.fd, basis.size, 0) for basis in large.bases]
    assert read == ([] if data is None else [data])
    large.abort()
    one.abort()
    return data, wanted.replaces


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("f", "f"),
        ("d/old-name.py", "d/new-name.py"),
        ("d/f.py", "e/f.py"),
        ("d/deep/er/f.py", "e/deep/er/f.py"),
    ],
    ids=["in its place", "renamed", "moved", "in a renamed directory"],
)
def test_an_edited_file_has_its_old_content_as_basis(
    root: Path, source: Path, before: str, after: str
) -> None:
    build(root, [MakeFile(before, TEXT), MakeFile("d/other", b"1" * 2900)])
    build(source, [MakeFile(after, EDITED), MakeFile("d/other", b"1" * 2900)])
    assert basis_of(root, source) == (TEXT, len(TEXT))
    done = sync(root, source)
    assert len(done.fetched) == 1


def test_a_content_that_was_moved_on_is_still_found(root: Path, source: Path) -> None:
    build(root, [MakeFile("d/data", TEXT)])
    build(source, [MakeFile("e/kept", TEXT), MakeFile("f/data", EDITED)])
    assert basis_of(root, source) == (TEXT, len(TEXT))


def test_a_file_that_is_unlike_all_others_has_no_basis(root: Path, source: Path) -> None:
    build(root, [MakeFile("gone.txt", TEXT), MakeFile("stays.py", TEXT)])
    build(source, [MakeFile("stays.py", TEXT), MakeFile("fresh.py", EDITED)])
    assert basis_of(root, source) == (None, 0)


def test_a_file_that_is_replaced_is_the_basis_of_one_that_its_content_went_to(
    root: Path, source: Path
) -> None:
    build(root, [MakeFile("log", TEXT)])
    build(source, [MakeFile("log", b"new"), MakeFile("log.1", EDITED)])
    one = TreeUpdate(root, basis=scanned(root), target=scanned(source))
    one.prepare()
    log, rotated = one.wanted()
    assert (log.replaces, rotated.replaces) == (len(TEXT), len(TEXT))
    assert one.read_basis(rotated, 1 << 20) == TEXT
    one.abort()


def test_a_basis_that_vanished_is_none(root: Path, source: Path) -> None:
    build(root, [MakeFile("f", TEXT)])
    build(source, [MakeFile("f", EDITED)])
    one = TreeUpdate(root, basis=scanned(root), target=scanned(source))
    one.prepare()
    (wanted,) = one.wanted()
    (root / "f").unlink()
    (root / "f").symlink_to("/etc/passwd")
    assert one.read_basis(wanted, 100) is None
    (root / "f").unlink()
    os.mkfifo(root / "f")
    assert one.read_basis(wanted, 100) is None
    large = one.open_large(wanted)
    assert large.bases == ()
    large.abort()
    one.write_small([(wanted, EDITED)])
    assert one.read_basis(wanted, 100) is None
    one.abort()


# --- work that is not done ------------------------------------------------------------------


def test_a_renamed_directory_is_not_looked_into(root: Path) -> None:
    nodes = CountingNodes()
    full = put(nodes, with_entries(EMPTY, [file(b"f%d" % n, b"%d" % n) for n in range(100)]))
    whole = put(nodes, with_entries(EMPTY, [subdirectory(nodes, b"in", full)]))
    trees = [
        Manifest(put(nodes, with_entries(EMPTY, [subdirectory(nodes, name, whole)])), nodes)
        for name in (b"old", b"new")
    ]
    root.mkdir()
    first = TreeUpdate(root, basis=tree_of(), target=trees[0])
    first.prepare()
    first.write_small([(one, b"%d" % n) for n, one in _numbered(first)])
    first.finish()
    inode = (root / "old").stat().st_ino
    nodes.reads = 0
    second = TreeUpdate(root, basis=trees[0], target=trees[1])
    second.prepare()
    assert list(second.wanted()) == []
    second.finish()
    # The two roots, a few times.
    assert nodes.reads <= 8
    assert (root / "new").stat().st_ino == inode
    assert scanned(root).tree == trees[1].tree


def _numbered(update: TreeUpdate) -> list[tuple[int, WantedFile]]:
    names = sorted(range(100), key=lambda n: b"f%d" % n)
    return list(zip(names, update.wanted(), strict=True))


def test_directories_that_swap_their_names_want_nothing(root: Path, source: Path) -> None:
    for path, (one, other) in ((root, "xy"), (source, "yx")):
        build(path, [MakeFile(f"{one}/{n}", b"1%d" % n) for n in range(30)])
        build(path, [MakeFile(f"{other}/{n}", b"2%d" % n) for n in range(30)])
    assert sync(root, source).fetched == []


# --- what stays -------------------------------------------------------------------------------

DUMP = random.Random(2).randbytes(GUESSED_BYTES + 1)
LATER = DUMP + b"one more"


@pytest.mark.parametrize(
    ("stays", "comes"),
    [
        ("dumps/db-01.sql", "dumps/db-02.sql"),
        ("day-01/db.sql", "day-02/db.sql"),
        ("still/a/lib.so", "new/a/lib.so"),
    ],
)
def test_a_large_new_file_has_one_that_stays_as_basis(
    root: Path, source: Path, stays: str, comes: str
) -> None:
    build(root, [MakeFile(stays, DUMP)])
    build(source, [MakeFile(stays, DUMP), MakeFile(comes, LATER)])
    assert basis_of(root, source) == (DUMP, len(DUMP))
    sync(root, source)


@pytest.mark.parametrize("size", [3000, GUESSED_BYTES])
def test_a_small_one_has_none(root: Path, source: Path, size: int) -> None:
    build(root, [MakeFile("db-01.sql", DUMP)])
    build(source, [MakeFile("db-01.sql", DUMP), MakeFile("db-02.sql", LATER[-size:])])
    assert basis_of(root, source) == (None, 0)


def test_whoever_fetches_is_told_what_is_a_guess(root: Path, source: Path) -> None:
    build(root, [MakeFile("dumps/db-01.sql", DUMP), MakeFile("dumps/other", DUMP[::-1])])
    build(
        source,
        [
            MakeFile("dumps/db-01.sql", DUMP),
            MakeFile("dumps/db-02.sql", LATER),
            MakeFile("dumps/other", LATER[::-1]),
        ],
    )
    wanted = sync(root, source).fetched
    assert [one.guess for one in wanted] == [b"dumps", None]
    assert [one.replaces for one in wanted] == [len(DUMP)] * 2


def test_what_has_come_partly_is_no_guess(root: Path, source: Path) -> None:
    build(root, [MakeFile("db-01.sql", DUMP)])
    build(source, [MakeFile("db-01.sql", DUMP), MakeFile("db-02.sql", LATER)])
    trees = scanned(root), scanned(source)
    for is_cut in (True, False):
        update = TreeUpdate(root, basis=trees[0], target=trees[1])
        update.prepare()
        (wanted,) = update.wanted()
        assert wanted.guess == (b"" if is_cut else None)
        large = update.open_large(wanted)
        large.write(0, LATER[:100_000])
        large.abort()
        update.abort()
