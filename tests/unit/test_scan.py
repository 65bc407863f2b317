"""Scanning a directory on disk, with and without a stat cache."""

import errno
import os
import socket
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import pytest
from e2b_dockerfile_utils import PatternMatcher

from filesync.digest import EMPTY, Digest, digest_of
from filesync.disk.removing import remove_tree
from filesync.disk.scanning import listing, readfile, reading, wanted
from filesync.disk.scanning.listing import Item, names_in, racy, these_in
from filesync.disk.scanning.readfile import is_kept
from filesync.disk.scanning.scan import Scanned, scan
from filesync.disk.scanning.statcache import FINE_SLACK_NS, Seen, StatCache, is_racy
from filesync.disk.scanning.wanted import Excludes
from filesync.disk.scanning.watcher import Watcher
from filesync.errors import SourceChanged, StoreError, Unreadable
from filesync.manifest import (
    Entry,
    File,
    Manifest,
    MemoryNodes,
    Special,
    Subdirectory,
    Symlink,
    Xattrs,
    group_name,
)
from tests.deep import dig

Meddle = Callable[[Callable[[], object]], None]

LONG_AGO = 1_000_000_000_123_456_789
IN_2400 = 13_569_465_600_000_000_000


class Ignore:
    """Excludes by .dockerignore patterns."""

    def __init__(self, *patterns: str) -> None:
        self._matcher = PatternMatcher(list(patterns))
        self.asked: list[str] = []

    def excludes(self, path: str) -> bool:
        self.asked.append(path)
        return self._matcher.matches(path)

    def may_prune(self, directory: str) -> bool:
        return not self._matcher.may_match_under(directory)


class Tree:
    """A directory, and the manifest that the last scan of it gave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes = MemoryNodes()

    def scan(
        self,
        *,
        cache: StatCache | None = None,
        excludes: Excludes | None = None,
        hints: Mapping[bytes, tuple[int, Digest]] | None = None,
    ) -> Scanned:
        self.last = scan(self.root, self.nodes, cache=cache, excludes=excludes, hints=hints)
        return self.last

    def walk(self) -> dict[bytes, Entry]:
        return dict(Manifest(self.last.tree, self.nodes).walk())


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "root").mkdir()
    return Tree(tmp_path / "root")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StatCache]:
    with StatCache(tmp_path / "stat.db") as opened:
        yield opened


@pytest.fixture
def old_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be as old as the tests' own are not: nobody changes them within a tick."""
    monkeypatch.setattr(listing, "is_racy", lambda *_, **__: False)


def test_a_file_has_its_stat_and_the_digest_of_its_content(tree: Tree) -> None:
    path = tree.root / "f"
    path.write_bytes(b"hello")
    path.chmod(0o4751)
    os.utime(path, ns=(0, LONG_AGO))
    tree.scan()
    st = path.stat()
    assert tree.walk() == {
        b"f": File(b"f", 0o4751, st.st_uid, st.st_gid, LONG_AGO, 5, digest_of(b"hello"))
    }


def test_an_empty_directory_and_an_empty_file_are_entries(tree: Tree) -> None:
    (tree.root / "d").mkdir()
    (tree.root / "e").touch()
    tree.scan()
    found = tree.walk()
    assert isinstance(found[b"d"], Subdirectory)
    assert isinstance(found[b"e"], File)
    assert found[b"e"].digest == EMPTY


def test_the_roots_own_metadata_is_in_its_header(tree: Tree) -> None:
    tree.root.chmod(0o1751)
    os.utime(tree.root, ns=(0, -5))
    tree.scan()
    root = Manifest(tree.last.tree, tree.nodes).root
    assert (root.mode, root.mtime_ns) == (0o1751, -5)


def test_links_keep_their_targets_to_the_letter(tree: Tree) -> None:
    (tree.root / "abs").symlink_to("/etc/../etc//passwd")
    os.symlink(b"\xff/nowhere", os.fsencode(tree.root) + b"/odd\xfe\n")
    tree.scan()
    targets = {p: e.target for p, e in tree.walk().items() if isinstance(e, Symlink)}
    assert targets == {b"abs": b"/etc/../etc//passwd", b"odd\xfe\n": b"\xff/nowhere"}


def test_names_that_share_a_link_or_a_fifo_are_kept_apart_and_counted(tree: Tree) -> None:
    os.mkfifo(tree.root / "fifo")
    (tree.root / "link").symlink_to("fifo")
    for name in ("fifo", "link"):
        os.link(tree.root / name, tree.root / f"{name}2", follow_symlinks=False)
    assert tree.scan().skipped == {"FIFO hard link": 2, "symlink hard link": 2}
    assert tree.scan().skipped == {"FIFO hard link": 2, "symlink hard link": 2}
    assert list(tree.walk()) == [b"fifo", b"fifo2", b"link", b"link2"]


@pytest.mark.usefixtures("old_is_safe")
def test_times_that_no_tree_can_say_are_counted_by_each_scan(
    tree: Tree, cache: StatCache
) -> None:
    (tree.root / "d").mkdir()
    (tree.root / "d/file").write_bytes(b"x")
    (tree.root / "link").symlink_to("d")
    os.mkfifo(tree.root / "fifo")
    for name in ("d/file", "d", "link", "fifo", "."):
        os.utime(tree.root / name, ns=(0, IN_2400), follow_symlinks=False)
    if (tree.root / "d").stat().st_mtime_ns != IN_2400:
        pytest.skip("this file system has no such times")
    for _ in range(2):
        assert tree.scan(cache=cache).skipped == {"extreme mtime": 5}
        entry = tree.walk()[b"d/file"]
        assert isinstance(entry, File)
        assert entry.mtime_ns == (1 << 63) - 1
    os.utime(tree.root / "d/file", ns=(0, LONG_AGO))
    assert tree.scan(cache=cache).skipped == {"extreme mtime": 4}


def test_a_fifo_is_kept_and_a_socket_is_counted(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree.root / "fifo", 0o640)
    monkeypatch.chdir(tree.root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
    assert tree.scan().skipped == {"socket": 1}
    assert list(tree.walk()) == [b"fifo"]
    fifo = tree.walk()[b"fifo"]
    assert isinstance(fifo, Special)
    assert stat.S_ISFIFO(fifo.mode)


@pytest.mark.needs("root")
def test_a_device_keeps_its_numbers(tree: Tree) -> None:
    try:
        os.mknod(tree.root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 300))
    except PermissionError:
        pytest.skip("device nodes may not be made here")
    tree.scan()
    device = tree.walk()[b"null"]
    assert isinstance(device, Special)
    assert (device.major, device.minor) == (1, 300)


def test_names_of_one_file_are_a_group_and_a_name_alone_has_none(tree: Tree) -> None:
    (tree.root / "a").mkdir()
    (tree.root / "z").write_bytes(b"x")
    os.link(tree.root / "z", tree.root / "a/1")
    (tree.root / "alone").write_bytes(b"y")
    os.link(tree.root / "alone", tree.root.parent / "outside")
    assert tree.scan().files_read == 2
    groups = {p: e.link for p, e in tree.walk().items() if isinstance(e, File)}
    group = group_name(b"a/1")
    assert groups == {b"a/1": group, b"alone": b"", b"z": group}


def test_large_files_are_read_in_pieces(tree: Tree) -> None:
    sizes = [*range(1 << 20, (1 << 20) + 4), 16 << 20, (18 << 20) + 1]
    contents = {b"f%d" % i: os.urandom(size) for i, size in enumerate(sizes)}
    for name, data in contents.items():
        (tree.root / name.decode()).write_bytes(data)
    assert tree.scan().bytes_read == sum(map(len, contents.values()))
    found = {p: e.digest for p, e in tree.walk().items() if isinstance(e, File)}
    assert found == {name: digest_of(data) for name, data in contents.items()}


def test_the_root_may_be_a_link_to_a_directory(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "f").touch()
    (tmp_path / "link").symlink_to("root")
    assert scan(tmp_path / "link", tree.nodes) == tree.scan()


@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_a_root_that_is_no_directory_is_refused(tree: Tree, kind: str) -> None:
    (tree.root / "file").touch()
    with pytest.raises(StoreError, match=kind):
        scan(tree.root / kind, tree.nodes)


def test_a_tree_of_1500_levels_is_scanned(tree: Tree) -> None:
    fd = os.open(tree.root, os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    tree.scan()
    assert Manifest(tree.last.tree, tree.nodes).summary.depth == 1501
    top = os.open(tree.root, os.O_DIRECTORY)
    remove_tree(top, b"d")
    os.close(top)


def test_equal_trees_have_equal_digests_whatever_the_order_of_making(tmp_path: Path) -> None:
    nodes = MemoryNodes()
    made = []
    for top, names in (("x", "abc"), ("y", "cba")):
        root = tmp_path / top
        root.mkdir()
        for name in names:
            (root / name).write_text("same")
            os.utime(root / name, ns=(0, LONG_AGO))
        os.utime(root, ns=(0, LONG_AGO))
        made.append(scan(root, nodes))
    assert made[0] == made[1]


# --- excludes and hints ---------------------------------------------------------------------


def test_excluded_files_are_left_out_and_pruned_directories_not_entered(tree: Tree) -> None:
    for path in ("src/a.c", "src/a.o", "node_modules/x/y", "docs/keep/me", "docs/drop/me"):
        (tree.root / path).parent.mkdir(parents=True, exist_ok=True)
        (tree.root / path).touch()
    ignore = Ignore("**/*.o", "node_modules", "docs", "!docs/keep")
    tree.scan(excludes=ignore)
    assert sorted(tree.walk()) == [b"docs", b"docs/keep", b"docs/keep/me", b"src", b"src/a.c"]
    assert "node_modules/x" not in ignore.asked


def test_an_excluded_directory_stays_away_when_nothing_in_it_is_taken_back(tree: Tree) -> None:
    (tree.root / "docs").mkdir()
    tree.scan(excludes=Ignore("docs", "!docs/keep"))
    assert tree.walk() == {}


def test_a_hinted_file_of_the_right_size_is_not_read(tree: Tree) -> None:
    (tree.root / "f").write_bytes(b"hello")
    (tree.root / "g").write_bytes(b"hello!")
    wrong = digest_of(b"vouched for")
    scanned = tree.scan(hints={b"f": (5, wrong), b"g": (5, wrong)})
    assert scanned.files_read == 1
    found = {p: e.digest for p, e in tree.walk().items() if isinstance(e, File)}
    assert found == {b"f": wrong, b"g": digest_of(b"hello!")}


# --- extended attributes --------------------------------------------------------------------


def test_a_trees_own_xattrs_are_kept(tree: Tree) -> None:
    (tree.root / "f").touch()
    (tree.root / "d").mkdir()
    try:
        os.setxattr(tree.root / "f", "user.b", b"2")
        os.setxattr(tree.root / "f", "user.a", b"1\x00")
        os.setxattr(tree.root / "d", "user.d", b"")
    except OSError:
        pytest.skip("no xattrs on this file system")
    tree.scan()
    file, directory = tree.walk()[b"f"], tree.walk()[b"d"]
    assert isinstance(file, File)
    assert isinstance(directory, Subdirectory)
    assert file.xattrs == ((b"user.a", b"1\x00"), (b"user.b", b"2"))
    header = Manifest(directory.tree, tree.nodes).root
    assert header.xattrs == ((b"user.d", b""),)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"user.x", True),
        (b"trusted.x", True),
        (b"trusted.overlay.opaque", False),
        (b"security.capability", True),
        (b"security.selinux", False),
        (b"security.ima", False),
        (b"system.posix_acl_access", True),
        (b"system.posix_acl_default", True),
        (b"system.nfs4_acl", False),
        (b"odd", False),
    ],
)
def test_only_what_belongs_to_a_tree_counts_as_its_xattrs(name: bytes, kept: bool) -> None:
    assert is_kept(name) is kept


# --- the stat cache -------------------------------------------------------------------------


@pytest.mark.usefixtures("old_is_safe")
def test_an_unchanged_tree_is_not_read_again(tree: Tree, cache: StatCache) -> None:
    (tree.root / "d").mkdir()
    (tree.root / "d/f").write_bytes(b"x")
    (tree.root / "g").write_bytes(b"y")
    os.link(tree.root / "g", tree.root / "h")
    first = tree.scan(cache=cache)
    second = tree.scan(cache=cache)
    assert (first.files_read, second.files_read, second.bytes_read) == (2, 0, 0)
    assert (first.tree, first.content) == (second.tree, second.content)
    assert tree.scan() == first


@pytest.mark.usefixtures("old_is_safe")
def test_a_change_that_keeps_size_and_mtime_is_seen(tree: Tree, cache: StatCache) -> None:
    path = tree.root / "f"
    path.write_bytes(b"old")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    before = tree.scan(cache=cache)
    (tree.root / "new").write_bytes(b"new")
    os.utime(tree.root / "new", ns=(LONG_AGO, LONG_AGO))
    (tree.root / "new").rename(path)
    after = tree.scan(cache=cache)
    assert after.files_read == 1
    assert before.content != after.content


@pytest.mark.usefixtures("old_is_safe")
def test_a_new_mode_needs_no_reading_of_other_files(tree: Tree, cache: StatCache) -> None:
    for name in "fgh":
        (tree.root / name).write_text(name)
    tree.scan(cache=cache)
    (tree.root / "f").chmod(0o700)
    assert tree.scan(cache=cache).files_read <= 1
    file = tree.walk()[b"f"]
    assert isinstance(file, File)
    assert file.mode == 0o700


def test_a_file_as_young_as_the_scan_is_not_noted(tree: Tree, cache: StatCache) -> None:
    ahead = 4_000_000_000_000_000_000
    (tree.root / "f").write_text("f")
    os.utime(tree.root / "f", ns=(ahead, ahead))
    tree.scan(cache=cache)
    assert tree.scan(cache=cache).files_read == 1


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "is_so"),
    [
        (5_000_000_001, 5_000_000_001, False),
        (10_000_000_000 - FINE_SLACK_NS + 1, 1, True),
        (1, 10_000_000_000 - FINE_SLACK_NS + 1, True),
        (1, 10_000_000_000 - FINE_SLACK_NS - 1, False),
        (8_000_000_000, 8_000_000_000, True),
        (8_000_000_000, 8_000_000_001, False),
        (8_000_000_001, 8_000_000_000, False),
        (7_000_000_000, 7_000_000_000, False),
        (20_000_000_000, 1, True),
    ],
)
def test_a_stamp_within_the_slack_before_the_scan_is_racy(
    mtime_ns: int, ctime_ns: int, is_so: bool
) -> None:
    assert is_racy(mtime_ns, ctime_ns, started_ns=10_000_000_000) is is_so
    stamps = {b"f": (1, mtime_ns, ctime_ns, 1, 1, 0o100644, 0, 0, 1)}
    assert racy(stamps, started_ns=10_000_000_000) == ({b"f"} if is_so else set())


def rows(path: Path) -> set[bytes]:
    with sqlite3.connect(path) as db:
        found = {row[0] for row in db.execute("SELECT path FROM directories")}
    db.close()
    return found


@pytest.mark.usefixtures("old_is_safe")
def test_directories_that_vanished_are_dropped_from_the_cache(
    tree: Tree, cache: StatCache, tmp_path: Path
) -> None:
    for name in "abc":
        (tree.root / name).mkdir()
        (tree.root / name / "f").touch()
    tree.scan(cache=cache)
    assert rows(tmp_path / "stat.db") == {b"", b"a", b"b", b"c"}
    (tree.root / "b/f").unlink()
    (tree.root / "b").rmdir()
    (tree.root / "d").mkdir()
    (tree.root / "d/f").touch()
    tree.scan(cache=cache)
    assert rows(tmp_path / "stat.db") == {b"", b"a", b"c", b"d"}


@pytest.mark.usefixtures("old_is_safe")
def test_a_scan_that_fails_drops_nothing(tree: Tree, cache: StatCache, tmp_path: Path) -> None:
    (tree.root / "a").mkdir()
    (tree.root / "a/f").touch()
    tree.scan(cache=cache)

    class Fails(MemoryNodes):
        def write(self, *_: object) -> None:
            raise StoreError("full")

    with pytest.raises(StoreError, match="full"):
        scan(tree.root, Fails(), cache=cache)
    assert rows(tmp_path / "stat.db") == {b"", b"a"}


@pytest.mark.usefixtures("old_is_safe")
@pytest.mark.parametrize(
    "damage", ["garbage", "version", "table", "row", "type", "schema", "half"]
)
def test_a_damaged_cache_is_started_anew(tree: Tree, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "stat.db"
    (tree.root / "f").write_bytes(b"x" * 5000)
    with StatCache(path) as cache:
        first = tree.scan(cache=cache)
    if damage == "garbage":
        path.write_bytes(os.urandom(9000))
    elif damage == "half":
        os.truncate(path, 5000)
    elif damage == "schema":  # of which SQLite says what is no text
        path.write_bytes(path.read_bytes().replace(b"UNIQUE NOT", b"UNIQUE \xb1OT"))
    else:
        statement = {
            "version": "PRAGMA user_version = 99",
            "table": "DROP TABLE directories",
            "row": "UPDATE directories SET data = x'00'",
            "type": "UPDATE directories SET data = 5",
        }[damage]
        db = sqlite3.connect(path)
        with db:
            db.execute(statement)
        db.close()
    with StatCache(path) as cache:
        assert tree.scan(cache=cache) == first
        assert tree.scan(cache=cache).files_read == 0


def test_a_damaged_cache_that_cannot_be_removed_is_not_used(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stat.db"
    (tree.root / "f").touch()
    with StatCache(path) as cache:
        first = tree.scan(cache=cache)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with StatCache(path) as cache:
        path.write_bytes(bytes(path.stat().st_size))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            assert tree.scan(cache=cache) == first


def test_a_cache_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        StatCache(tmp_path / "nowhere/stat.db")


@pytest.mark.usefixtures("old_is_safe")
def test_a_cache_that_another_process_locks_is_not_used(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "f").touch()
    path = tmp_path / "stat.db"
    with StatCache(path) as cache:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        tree.scan(cache=cache)
        db.execute("ROLLBACK")
        db.close()
    assert rows(path) == set()


def test_a_renamed_directory_that_another_process_notes_meanwhile_costs_no_cache(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stat.db"

    class Slow(StatCache):
        def _row(self, query: str, *arguments: bytes | int) -> tuple[Any, ...] | None:
            found = super()._row(query, *arguments)
            if b"new" not in rows(path):
                with StatCache(path) as others:
                    others.keep(b"new", Seen(b"", b""), 7)
                    others.end(complete=False)
            return found

    with StatCache(path) as cache:
        for name, inode in ((b"old", 5), (b"other", 6)):
            cache.keep(name, Seen(b"", b""), inode)
        cache.end(complete=False)
    with Slow(path) as cache:
        assert cache.load(b"new", 5) is not None
    assert rows(path) == {b"new", b"other"}


# --- files that change meanwhile ------------------------------------------------------------


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Meddle:
    """Return what makes a function be called each time just after a file was read."""

    def install(action: Callable[[], object]) -> None:
        real = readfile.read_xattrs

        def xattrs(place: int | bytes, path: bytes) -> Xattrs:
            if path:
                action()
            return real(place, path)

        monkeypatch.setattr(readfile, "read_xattrs", xattrs)

    return install


@pytest.mark.parametrize("size", [10, 3 << 20, 17 << 20])
def test_a_file_that_changes_once_while_it_is_read_is_read_again(
    tree: Tree, meddle: Meddle, size: int
) -> None:
    path = tree.root / "f"
    path.write_bytes(b"a" * size)
    changed = threading.Event()

    def grow_once() -> None:
        if not changed.is_set():
            changed.set()
            with path.open("ab") as file:
                file.write(b"b")

    meddle(grow_once)
    tree.scan()
    file = tree.walk()[b"f"]
    assert isinstance(file, File)
    assert (file.size, file.digest) == (size + 1, digest_of(b"a" * size + b"b"))


def test_a_file_that_never_rests_is_an_error_that_names_it(tree: Tree, meddle: Meddle) -> None:
    path = tree.root / "f"
    path.touch()
    meddle(lambda: path.write_bytes(os.urandom(8 + path.stat().st_size)))
    with pytest.raises(SourceChanged, match="'f' changed"):
        tree.scan()


@pytest.mark.parametrize("size", [0, 10, 3 << 20, 17 << 20])
def test_a_file_that_grows_all_the_while_is_taken_as_it_was_when_it_was_begun(
    tree: Tree, meddle: Meddle, size: int
) -> None:
    path = tree.root / "f"
    path.write_bytes(b"a" * size)
    grown: list[int] = []

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"b" * 1000)
        grown.append(path.stat().st_mtime_ns)

    meddle(grow)
    tree.scan()
    file = tree.walk()[b"f"]
    assert isinstance(file, File)
    times = (file.size - size) // 1000
    assert file.mtime_ns == grown[times - 1]
    assert file.digest == digest_of(b"a" * size + b"b" * 1000 * times)
    assert times < len(grown) <= 3  # it is not read again and again


@pytest.mark.parametrize("size", [2 << 20, 17 << 20])
def test_a_file_that_is_cut_short_while_it_is_read_is_read_again(
    tree: Tree, meddle: Meddle, size: int
) -> None:
    path = tree.root / "f"
    path.write_bytes(b"a" * size)
    meddle(lambda: os.truncate(path, 3) if path.stat().st_size > 3 else None)
    tree.scan()
    file = tree.walk()[b"f"]
    assert isinstance(file, File)
    assert file.digest == digest_of(b"aaa")


@pytest.mark.parametrize("becomes", ["nothing", "link", "fifo", "directory"])
@pytest.mark.parametrize(
    ("reader", "size"), [("read_small", 1), ("read_file", 1), ("read_file", 2 << 20)]
)
def test_a_name_that_becomes_something_else_before_it_is_read_costs_no_sibling(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, becomes: str, reader: str, size: int
) -> None:
    for name in ("a", "f", "z"):
        (tree.root / name).write_bytes(b"x" * size)
    path = tree.root / "f"

    def swap(dirfd: int, name: bytes, *more: object) -> object:
        if name == b"f" and path.is_file() and not path.is_symlink():
            path.unlink()
            if becomes == "link":
                path.symlink_to("/etc/passwd")
            elif becomes == "fifo":
                os.mkfifo(path)
            elif becomes == "directory":
                path.mkdir()
        return real(dirfd, name, *more)

    real: Callable[..., object] = getattr(reading, reader)
    monkeypatch.setattr(reading, "read_small", lambda *_: None)
    monkeypatch.setattr(reading, reader, swap)
    tree.scan()
    kinds: dict[str, list[type]] = {
        "nothing": [File, File],
        "link": [File, Symlink, File],
        "fifo": [File, Special, File],
        "directory": [File, Subdirectory, File],
    }
    assert [type(entry) for entry in tree.walk().values()] == kinds[becomes]


def test_a_directory_that_vanishes_before_it_is_read_is_left_out(tree: Tree) -> None:
    (tree.root / "a").mkdir()
    (tree.root / "b").mkdir()

    class Removes(Ignore):
        def excludes(self, path: str) -> bool:
            if path == "a/f":
                (root / "b").rmdir()
            return False

    root = tree.root
    (root / "a/f").touch()
    tree.scan(excludes=Removes())
    assert list(tree.walk()) == [b"a", b"a/f"]


def test_a_file_that_may_not_be_read_is_named_with_what_to_do(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.root / "secret\n").touch()
    real = os.open

    def refuse(path: Path | bytes, flags: int, *, dir_fd: int | None = None) -> int:
        if path == b"secret\n":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"'secret\\n' cannot be read.*exclude it"):
        tree.scan()


@pytest.mark.parametrize("size", [5, reading.LARGE_BYTES])
def test_what_may_not_be_read_is_left_out_or_kept_with_a_content_that_nothing_has(
    tree: Tree, cache: StatCache, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (tree.root / "d").mkdir()
    (tree.root / "d/secret").write_bytes(bytes(size))
    (tree.root / "d/plain").write_bytes(b"plain")
    real = os.open

    def refuse(path: Path | bytes, flags: int, *, dir_fd: int | None = None) -> int:
        if path == b"secret":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, dir_fd=dir_fd)

    def found(*, keep: bool) -> Scanned:
        return scan(
            tree.root, tree.nodes, cache=cache, skip_unreadable=True, keep_unreadable=keep
        )

    with monkeypatch.context() as refusing:
        refusing.setattr(os, "open", refuse)
        for _ in range(2):
            tree.last = found(keep=False)
            assert sorted(tree.walk()) == [b"d", b"d/plain"]
            assert tree.last.unreadable == {b"d/secret": 13}
        tree.last = found(keep=True)
        assert tree.last.unreadable == {}
        secret = tree.walk()[b"d/secret"]
        assert isinstance(secret, File)
        assert (secret.size, secret.digest == digest_of(bytes(size))) == (size, False)
    tree.last = found(keep=True)
    secret = tree.walk()[b"d/secret"]
    assert isinstance(secret, File)
    assert secret.digest == digest_of(bytes(size))


def test_what_a_killed_update_left_at_the_root_is_no_part_of_the_tree(tmp_path: Path) -> None:
    nodes = MemoryNodes()
    (tmp_path / "kept").touch()
    before = Manifest(scan(tmp_path, nodes).tree, nodes)
    (tmp_path / ".filesync-0123456789abcdef").mkdir()
    (tmp_path / ".filesync-0123456789abcdef/left").touch()
    after = Manifest(scan(tmp_path, nodes).tree, nodes)
    assert [entry.name for entry in after.root.entries] == [b"kept"]
    assert after.root.entries == before.root.entries


class Meddler(Watcher):
    """A watcher that changes the tree when a directory is done."""

    def __init__(self, change: Callable[[], object]) -> None:
        self._change = change

    def directory_done(self, path: bytes, tree: Digest) -> None:
        if path == b"a":
            self._change()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"other content"),
        lambda path: path.chmod(0o751),
        lambda path: os.utime(path, ns=(0, LONG_AGO)),
        lambda path: os.setxattr(path, "user.key", b"value"),
    ],
    ids=["content", "mode", "time", "xattr"],
)
@pytest.mark.parametrize("is_cached", [False, True], ids=["first", "again"])
def test_a_file_that_changes_after_one_of_its_names_was_met_is_no_two_files(
    tree: Tree, cache: StatCache, change: Callable[[Path], object], *, is_cached: bool
) -> None:
    for name in "ab":
        (tree.root / name).mkdir()
    (tree.root / "a/f").write_bytes(b"content")
    os.link(tree.root / "a/f", tree.root / "b/f")
    if is_cached:
        tree.scan(cache=cache)
    meddler = Meddler(lambda: change(tree.root / "a/f"))
    with pytest.raises(SourceChanged) as caught:
        scan(tree.root, tree.nodes, cache=cache, watcher=meddler)
    assert caught.value.path == b"b/f"
    tree.scan(cache=cache)
    by_path = tree.walk()
    assert by_path[b"a/f"] == by_path[b"b/f"]


def test_a_name_that_a_file_gets_while_it_is_scanned_is_one_of_its_names(tree: Tree) -> None:
    for name in "ab":
        (tree.root / name).mkdir()
    (tree.root / "a/f").write_bytes(b"content")
    os.link(tree.root / "a/f", tree.root / "b/f")
    meddler = Meddler(lambda: os.link(tree.root / "a/f", tree.root / "b/g"))
    tree.last = scan(tree.root, tree.nodes, watcher=meddler)
    found = tree.walk()
    links = [entry.link for entry in found.values() if isinstance(entry, File)]
    assert links == [group_name(b"a/f")] * 3


@pytest.mark.parametrize(("depth", "name"), [(6000, "d"), (1100, "n" * 255)])
def test_directories_that_are_too_deep_are_refused_before_all_of_them_are_entered(
    tmp_path: Path, depth: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(dig(tmp_path, depth, name))
    entered = 0

    def list_names(fd: int) -> Iterator[tuple[bytes, Item]]:
        nonlocal entered
        entered += 1
        return names_in(fd)

    monkeypatch.setattr(wanted, "names_in", list_names)
    with pytest.raises(StoreError, match="inside each other"):
        scan(tmp_path, MemoryNodes())
    assert entered < 4001
    assert entered < depth
    subprocess.run(["rm", "-rf", tmp_path / name], check=True)


def test_of_names_that_are_given_nothing_else_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    for path in ("one", "other", "sub/one", "../outside"):
        (tmp_path / "tree" / path).write_text(path)
    os.symlink("one", tmp_path / "tree/link")
    listed: list[int] = []

    def list_names(fd: int) -> Iterator[tuple[bytes, Item]]:
        listed.append(os.fstat(fd).st_ino)
        return names_in(fd)

    monkeypatch.setattr(wanted, "names_in", list_names)
    nodes = MemoryNodes()
    names = {b"one", b"link", b"sub", b"gone", b"", b".", b"..", b"sub/one", b"../outside"}
    for _ in range(2):
        with StatCache(tmp_path / "cache") as cache:
            found = scan(tmp_path / "tree", nodes, cache=cache, names=names)
        root = Manifest(found.tree, nodes).root
        assert [entry.name for entry in root.entries] == [b"link", b"one", b"sub"]
    assert listed == [(tmp_path / "tree/sub").stat().st_ino] * 2


def test_a_name_that_the_file_system_cannot_have_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").touch()
    said = {b"long": errno.ENAMETOOLONG, b"bad": errno.EILSEQ, b"odd": errno.EINVAL}
    really = os.stat

    def stat(
        path: bytes, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        if path in said:
            raise OSError(said[path], os.strerror(said[path]))
        return really(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "stat", stat)
    nodes = MemoryNodes()
    found = scan(tmp_path, nodes, names={b"one", *said})
    assert [entry.name for entry in Manifest(found.tree, nodes).root.entries] == [b"one"]
    said[b"one"] = errno.EACCES
    with pytest.raises(Unreadable):
        scan(tmp_path, nodes, names={b"one"})


def test_of_names_that_are_one_the_first_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("case", "other"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    really = os.stat

    def stat(
        path: bytes, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        return really(path.lower(), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    names = {b"CASE", b"Case", b"Other", b"case", b"SUB", b"sub"}
    monkeypatch.setattr(os, "stat", stat)
    found = [name for name, _ in these_in_directory(tmp_path, names)]
    assert found == [b"CASE", b"Other", b"SUB"]
    # Two names of one file are two.
    monkeypatch.undo()
    os.link(tmp_path / "case", tmp_path / "CASE")
    assert len(these_in_directory(tmp_path, {b"CASE", b"case"})) == 2


def these_in_directory(path: Path, names: Set[bytes]) -> list[tuple[bytes, Item]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(these_in(fd, sorted(names)))
    finally:
        os.close(fd)
