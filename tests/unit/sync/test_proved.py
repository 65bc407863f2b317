"""What an update has proved and written need not be read by the next scan, and what changed is."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning import listing, reading, written
from filesync.disk.scanning.readfile import Content, read_file, read_xattrs
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.disk.updating.files import Proved, WrittenNs
from filesync.disk.updating.update import TreeUpdate
from filesync.manifest import (
    EMPTY_DIRECTORY,
    File,
    Manifest,
    MemoryNodes,
    Subdirectory,
    Xattrs,
)
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.scanning import note_proved, scan_place
from tests.unit.update_driver import MakeFile, build

OLD, NEW, SAME = b"old" * (1 << 20), b"new" * (1 << 20), b"same" * (1 << 19)
END_NS = 1 << 62


@pytest.fixture(autouse=True)
def _old_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scans believe in files as young as these are; what was written is judged as ever."""
    monkeypatch.setattr(listing, "is_racy", lambda *_, **__: False)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Names of the files that scans read."""
    names: list[bytes] = []

    def counting(dirfd: int, name: bytes, *rest: object) -> Content:
        names.append(name)
        real: Callable[..., Content] = read_file
        return real(dirfd, name, *rest)

    monkeypatch.setattr(reading, "read_file", counting)
    return names


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    build(tmp_path / "dest", makes(OLD))
    places = LocalPlaces()
    root = os.fsencode(tmp_path / "dest")
    place = Place(places.open(root), places.path_of(root), names=None, label=root)
    yield place
    place.close()


def makes(large: bytes, **kinds: int) -> list[MakeFile]:
    return [
        MakeFile("d/large", large, **kinds),
        MakeFile("d/other", SAME),
        MakeFile("d/small", b"small"),
    ]


def scanned(place: Place, tmp_path: Path) -> Manifest:
    return scan_place(place, MemoryNodes(), caches=tmp_path / "caches").manifest


def prepared(place: Place, tmp_path: Path) -> tuple[TreeUpdate, Manifest]:
    """Begin to make ``place`` hold what the source does, the target."""
    nodes = MemoryNodes()
    basis = scan_place(place, nodes, caches=tmp_path / "caches").manifest
    source = Place(os.open(tmp_path / "source", os.O_RDONLY), None, names=None, label=b"")
    target = scan_place(source, nodes, caches=None).manifest
    source.close()
    one = TreeUpdate(place.root, basis=basis, target=target, atomic=True)
    one.prepare()
    return one, target


def update(place: Place, tmp_path: Path, *, noted: bool = True, **kinds: int) -> Manifest:
    """Bring a new large file; return what is there now."""
    build(tmp_path / "source", makes(NEW, **kinds))
    one, target = prepared(place, tmp_path)
    for wanted in one.wanted():
        large = one.open_large(wanted)
        large.write(0, NEW)
        large.finish()
    one.finish()
    if noted:
        note_proved(place, tmp_path / "caches", one.proved(), one.written_ns)
    return target


def test_a_large_file_that_was_written_is_not_read_by_the_next_scan(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    target = update(place, tmp_path)
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert not read


def test_the_scan_finds_what_one_without_a_cache_does(place: Place, tmp_path: Path) -> None:
    update(place, tmp_path)
    warm = scanned(place, tmp_path)
    assert warm.tree == scan_place(place, MemoryNodes(), caches=None).manifest.tree
    assert warm.tree == scanned(place, tmp_path).tree


def test_a_change_after_it_was_written_is_seen(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    target = update(place, tmp_path)
    with (tmp_path / "dest/d/large").open("r+b") as file:
        file.write(b"N")
    read.clear()
    assert scanned(place, tmp_path).tree != target.tree
    assert read == [b"large"]


def test_without_a_note_it_is_read(place: Place, tmp_path: Path, read: list[bytes]) -> None:
    target = update(place, tmp_path, noted=False)
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert read == [b"large"]


def test_what_others_may_write_to_is_read(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    target = update(place, tmp_path, mode=0o664)
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert read == [b"large"]


def test_what_is_as_new_as_its_own_writing_is_read(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    # A write within the same tick of the clock could not be told from none.
    soon_ns = (os.stat(tmp_path).st_mtime_ns // 10**9 + 3600) * 10**9 + 1
    target = update(place, tmp_path, mtime_ns=soon_ns)
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert read == [b"large"]


def test_what_takes_its_place_afterwards_is_read_even_if_size_and_time_are_the_same(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    target = update(place, tmp_path)
    large = tmp_path / "dest/d/large"
    status = large.stat()
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    (tmp_path / "other").write_bytes(OLD)
    os.utime(tmp_path / "other", ns=(status.st_mtime_ns, status.st_mtime_ns))
    os.rename(tmp_path / "other", large)
    read.clear()
    assert scanned(place, tmp_path).tree != target.tree
    assert read == [b"large"]


def test_what_takes_its_place_within_the_tick_in_which_the_update_ended_is_read(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    target = update(place, tmp_path, noted=False)
    ended_ns = os.stat(tmp_path / "dest/d/large").st_ctime_ns
    note(place, tmp_path / "caches", target, (1, ended_ns))
    read.clear()
    scanned(place, tmp_path)
    assert b"large" in read


def test_directories_that_change_places_afterwards_are_read(
    place: Place, tmp_path: Path
) -> None:
    # Their files are as they were, ctimes and all; and so are sizes and mtimes of a/x and b/x.
    update(place, tmp_path)
    for name in (b"a", b"b"):
        (tmp_path / "dest" / os.fsdecode(name)).mkdir()
        path = tmp_path / "dest" / os.fsdecode(name) / "x"
        path.write_bytes(name * 100_000)
        os.utime(path, (1, 1))
    target = scan_place(place, MemoryNodes(), caches=None).manifest
    for name in (b"a", b"b"):
        note(place, tmp_path / "caches", target, (1, END_NS), name)
    (tmp_path / "dest/a").rename(tmp_path / "dest/t")
    (tmp_path / "dest/b").rename(tmp_path / "dest/a")
    (tmp_path / "dest/t").rename(tmp_path / "dest/b")
    assert (
        scanned(place, tmp_path).tree
        == scan_place(place, MemoryNodes(), caches=None).manifest.tree
    )


def test_after_a_boot_what_was_written_before_is_read(
    place: Place, tmp_path: Path, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A power cut leaves the size and the times of what was just written, and zeros in it.
    target = update(place, tmp_path)
    monkeypatch.setattr(written, "_boot", lambda: b"another")
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert sorted(read) == [b"large", b"other"]


def test_what_has_holes_is_read(place: Place, tmp_path: Path, read: list[bytes]) -> None:
    # As it has when its disk was pulled out before what was in them was written there.
    target = update(place, tmp_path, noted=False)
    large = tmp_path / "dest/d/large"
    status = large.stat()
    os.truncate(large, 0)
    os.truncate(large, len(NEW))
    os.utime(large, ns=(status.st_mtime_ns, status.st_mtime_ns))
    note(place, tmp_path / "caches", target, (1, END_NS))
    read.clear()
    assert scanned(place, tmp_path).tree != target.tree
    assert b"large" in read


def test_what_has_blocks_to_which_nothing_was_written_is_read(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    # So ext4 leaves what it had made room for when its disk was pulled out.
    target = update(place, tmp_path, noted=False)
    large = tmp_path / "dest/d/large"
    status = large.stat()
    os.truncate(large, 0)
    with large.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, len(NEW))
    os.utime(large, ns=(status.st_mtime_ns, status.st_mtime_ns))
    note(place, tmp_path / "caches", target, (1, END_NS))
    read.clear()
    assert scanned(place, tmp_path).tree != target.tree
    assert b"large" in read


@pytest.mark.parametrize("mode", [0o644, 0o664])
@pytest.mark.parametrize("is_gone", ["holes", "boot"])
def test_what_was_written_a_moment_ago_may_be_lost_however_often_it_was_scanned_since(
    place: Place,
    tmp_path: Path,
    read: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    is_gone: str,
    mode: int,
) -> None:
    target = update(place, tmp_path, mode=mode)
    for _ in range(3):
        assert scanned(place, tmp_path).tree == target.tree
    if is_gone == "boot":
        monkeypatch.setattr(written, "_boot", lambda: b"another")
    else:
        monkeypatch.setattr(reading, "has_holes", lambda *_: True)
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert sorted(read) == [b"large", b"other"]


def test_a_file_with_holes_is_read_once(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    large = tmp_path / "dest/d/large"
    with large.open("r+b") as file:
        file.truncate(64 << 20)
    scanned(place, tmp_path)
    read.clear()
    scanned(place, tmp_path)
    assert not read


def test_what_was_written_some_time_ago_is_as_it_was_scanned(
    place: Place, tmp_path: Path, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = update(place, tmp_path)
    monkeypatch.setattr(written, "_FLUSHED_NS", -3_600_000_000_000)
    scanned(place, tmp_path)
    monkeypatch.setattr(reading, "is_as_written", lambda *_, **__: False)
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert not read


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_what_others_gave_each_others_names_while_it_was_written_is_read(
    place: Place, tmp_path: Path, read: list[bytes], mode: int
) -> None:
    target = update(place, tmp_path, noted=False)
    directory = tmp_path / "dest/d"
    directory.chmod(mode)
    note(place, tmp_path / "caches", target, (1, END_NS))
    read.clear()
    scanned(place, tmp_path)
    assert {b"large", b"other"} <= set(read)


def note(
    place: Place,
    caches: Path,
    target: Manifest,
    between_ns: tuple[int, int],
    path: bytes = b"d",
) -> None:
    """Note all files in ``path`` as if they had been written then."""
    found = target.find(path)
    assert isinstance(found, Subdirectory)
    directory = target.directory(found.tree)
    files = [entry for entry in directory.entries if isinstance(entry, File)]
    since_ns, until_ns = between_ns
    proved = [Proved(path, directory, files, is_new=False)]
    note_proved(place, caches, proved, WrittenNs(since_ns, 0, until_ns))


def test_what_was_there_before_the_update_is_read_even_if_size_and_time_are_the_same(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    # As when a snapshot of the file system was brought back.
    target = update(place, tmp_path, noted=False)
    note(place, tmp_path / "caches", target, (time.time_ns() + 10**9, END_NS))
    read.clear()
    assert scanned(place, tmp_path).tree == target.tree
    assert sorted(read) == [b"large", b"other", b"small"]


def test_an_attribute_that_was_set_while_the_update_went_on_is_seen(
    place: Place, tmp_path: Path
) -> None:
    target = update(place, tmp_path, noted=False)
    os.setxattr(tmp_path / "dest/d/large", "user.tag", b"new")
    note(place, tmp_path / "caches", target, (1, END_NS))
    found = scanned(place, tmp_path).find(b"d/large")
    assert isinstance(found, File)
    assert found.xattrs == ((b"user.tag", b"new"),)


def test_of_a_directory_that_no_scan_has_noted_nothing_is_read(
    place: Place, tmp_path: Path, read: list[bytes]
) -> None:
    target = update(place, tmp_path, noted=False)
    note(place, tmp_path / "new", target, (1, END_NS))
    read.clear()
    again = scan_place(place, MemoryNodes(), caches=tmp_path / "new").manifest
    assert again.tree == target.tree
    assert not read


def test_little_is_read_sooner_than_noted(place: Place, tmp_path: Path) -> None:
    files = [File(b"small", 0o644, 0, 0, 0, 1000, digest_of(b""))]
    proved = [Proved(b"d", EMPTY_DIRECTORY, files, is_new=True)]
    note_proved(place, tmp_path / "new", proved, WrittenNs(1, END_NS, END_NS))
    assert not (tmp_path / "new").exists()


SET = os.setxattr
TAGGED = "new/tagged"
NEW_ONES = [
    MakeFile("new/one", b"1" * 50_000),
    MakeFile(TAGGED, b"2" * 50_000),
    MakeFile("new/large", b"3" * 100_000),
]


def add_new(place: Place, tmp_path: Path) -> TreeUpdate:
    """Make a new directory at ``place``; its files are older than the last tick of the clock."""
    build(tmp_path / "source", [*makes(OLD), *NEW_ONES])
    SET(tmp_path / "source" / TAGGED, "user.tag", b"given")
    one, _ = prepared(place, tmp_path)
    contents = {digest_of(file.data): file.data for file in NEW_ONES}
    one.write_small([(wanted, contents[wanted.digest]) for wanted in one.wanted()])
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    one.finish()
    note_proved(place, tmp_path / "caches", one.proved(), one.written_ns)
    return one


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Paths of the files in the new directory whose attributes scans look at."""
    paths: list[bytes] = []

    def counting(at: int | bytes, path: bytes) -> Xattrs:
        if path.startswith(b"new/"):
            paths.append(path)
        return read_xattrs(at, path)

    monkeypatch.setattr(reading, "read_xattrs", counting)
    return paths


def test_small_files_of_a_new_directory_are_not_even_opened(
    place: Place, tmp_path: Path, opened: list[bytes]
) -> None:
    add_new(place, tmp_path)
    opened.clear()
    found = scanned(place, tmp_path)
    assert opened == [b"new/large"]
    assert found.tree == scan_place(place, MemoryNodes(), caches=None).manifest.tree


def test_an_attribute_that_was_set_in_a_new_directory_afterwards_is_seen(
    place: Place, tmp_path: Path
) -> None:
    add_new(place, tmp_path)
    os.setxattr(tmp_path / "dest" / TAGGED, "user.tag", b"mine")
    found = scanned(place, tmp_path).find(os.fsencode(TAGGED))
    assert isinstance(found, File)
    assert found.xattrs == ((b"user.tag", b"mine"),)


def test_where_not_all_could_be_kept_the_files_of_a_new_directory_are_opened(
    place: Place, tmp_path: Path, opened: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no attributes here")

    with monkeypatch.context() as without:
        without.setattr(os, "setxattr", refusing)
        assert add_new(place, tmp_path).written_ns.shown == 0
    opened.clear()
    found = scanned(place, tmp_path).find(os.fsencode(TAGGED))
    assert isinstance(found, File)
    assert not found.xattrs
    assert sorted(opened) == sorted(os.fsencode(file.path) for file in NEW_ONES)


def test_a_small_file_of_a_new_directory_that_has_holes_is_read(
    place: Place, tmp_path: Path, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_new(place, tmp_path)
    monkeypatch.setattr(listing, "is_sparse", lambda _: True)
    read.clear()
    scanned(place, tmp_path)
    assert {b"one", b"tagged"} <= set(read)
