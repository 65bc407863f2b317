"""Scanning again: what a warm stat cache saves, and that it never shows in the result."""

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filesync.digest import EMPTY, Digest, digest_of
from filesync.disk.scanning import listing, reading
from filesync.disk.scanning import scan as scan_module
from filesync.disk.scanning import statcache as statcache_module
from filesync.disk.scanning.listing import Stamp, mark
from filesync.disk.scanning.scan import Scanned, scan
from filesync.disk.scanning.statcache import Noted, Seen, StatCache, pack_stamps
from filesync.disk.scanning.wanted import Excludes
from filesync.disk.scanning.watcher import Watcher
from filesync.manifest import (
    EMPTY_DIRECTORY,
    File,
    Manifest,
    MemoryNodes,
    Subdirectory,
    growth,
)
from filesync.manifest import node as node_module

pytestmark = pytest.mark.usefixtures("old_is_safe")


@pytest.fixture
def old_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be as old as the tests' own are not: nobody changes them within a tick."""
    monkeypatch.setattr(listing, "is_racy", lambda *_, **__: False)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StatCache]:
    with StatCache(tmp_path / "stat.db") as opened:
        yield opened


class Counts:
    """How often each of some functions was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.calls: dict[str, int] = {}

    def watch(self, module: object, name: str) -> None:
        real: Callable[..., object] = getattr(module, name)
        self.calls.setdefault(name, 0)

        def counted(*args: object, **kwargs: object) -> object:
            self.calls[name] += 1
            return real(*args, **kwargs)

        self._monkeypatch.setattr(module, name, counted)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Count what is done to entries, files and nodes."""
    found = Counts(monkeypatch)
    for module, names in (
        (growth, ("encode", "put_encoded", "decode_trusted")),
        (statcache_module, ("decode_trusted",)),
        (reading.Reader, ("_file",)),
        (reading, ("read_small", "read_file")),
    ):
        for name in names:
            found.watch(module, name)
    return found


def a_tree(root: Path) -> None:
    """Make four directories of ten files below one another's side: r, r/a, r/a/b, r/c."""
    for path in ("", "a", "a/b", "c"):
        directory = root / path
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(10):
            (directory / f"f{number}").write_text(f"{path} {number}")
    (root / "a/link").symlink_to("f0")


# --- work that is not done ------------------------------------------------------------------


def test_an_unchanged_tree_is_taken_from_the_cache_as_it_was_made(
    tmp_path: Path, cache: StatCache, counts: Counts
) -> None:
    a_tree(tmp_path / "r")
    first, nodes = scan(tmp_path / "r", MemoryNodes(), cache=cache), MemoryNodes()
    counts.calls = dict.fromkeys(counts.calls, 0)
    second = scan(tmp_path / "r", nodes, cache=cache)
    assert not any(counts.calls.values()), counts.calls
    assert second == first._replace(bytes_read=0, files_read=0)
    assert len(nodes) == 4
    assert sum(1 for _ in Manifest(second.tree, nodes).walk()) == 44


def test_a_changed_file_costs_its_directory_and_those_above_it(
    tmp_path: Path, cache: StatCache, counts: Counts
) -> None:
    a_tree(tmp_path / "r")
    scan(tmp_path / "r", MemoryNodes(), cache=cache)
    (tmp_path / "r/a/b/f3").write_text("something else")
    counts.calls = dict.fromkeys(counts.calls, 0)
    again = scan(tmp_path / "r", MemoryNodes(), cache=cache)
    assert (again.files_read, again.bytes_read) == (1, 14)
    assert counts.calls["encode"] == 3
    assert counts.calls["_file"] == 1
    counts.calls = dict.fromkeys(counts.calls, 0)
    assert scan(tmp_path / "r", MemoryNodes(), cache=cache).tree == again.tree
    assert not any(counts.calls.values()), counts.calls


class Watching(Watcher):
    """Is told of directories that have changed, and of who is shown files."""

    def __init__(self) -> None:
        self.changed: list[tuple[bytes, bytes, Digest]] = []
        self.fresh: list[tuple[bytes, Digest]] = []
        self.asked: dict[Digest, int] = {}

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        if old is None:
            self.fresh.append((path, tree))
        else:
            self.changed.append((path, old, tree))

    def beside(self, path: bytes, old: Digest, fd: int, size: int) -> None:
        self.asked[old] = size


def test_who_watches_is_told_what_directories_and_files_were(
    tmp_path: Path, cache: StatCache
) -> None:
    a_tree(tmp_path / "r")
    nodes = MemoryNodes()
    first = scan(tmp_path / "r", nodes, cache=cache)
    (tmp_path / "r/a/b/f3").write_text("something else")
    (tmp_path / "r/a/b/new").write_text("new")
    watching = Watching()
    again = scan(tmp_path / "r", nodes, cache=cache, watcher=watching)
    assert [path for path, _, _ in watching.changed] == [b"a/b", b"a", b""]
    assert digest_of(watching.changed[-1][1]) == first.tree
    assert watching.changed[-1][2] == again.tree
    old = Manifest(first.tree, nodes).find(b"a/b")
    assert isinstance(old, Subdirectory)
    assert digest_of(watching.changed[0][1]) == old.tree
    assert watching.asked == {digest_of(b"a/b 3"): 14, EMPTY: 3}


@pytest.mark.parametrize("much", ["nothing", "directories", "nodes", "bytes"])
def test_what_has_changed_is_found_so_again_where_it_is_spared_and_little(
    tmp_path: Path, cache: StatCache, much: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if much == "directories":
        monkeypatch.setattr(scan_module, "MAX_SPARED", 2)
    elif much == "nodes":
        monkeypatch.setattr(scan_module, "MAX_SPARED_NODES_BYTES", 500)
    elif much == "bytes":
        monkeypatch.setattr(scan_module, "MAX_SPARED_BYTES", 5)
    root = tmp_path / "r"
    a_tree(root)

    def scanned() -> tuple[Digest, int]:
        found = scan(root, MemoryNodes(), cache=cache, spare_changed=True)
        return found.tree, found.files_read

    assert scanned()[1] == 40
    assert scanned()[1] == 0  # what was not there before is noted
    (root / "a/b/f1").write_text("changed")
    (root / "a/new").mkdir()
    (root / "a/new/f").write_text("f")
    first = scanned()
    assert first[1] == 2
    again = scan(root, MemoryNodes(), cache=cache)
    assert (again.tree, again.files_read) == (first[0], 1 if much == "nothing" else 0)
    assert scanned() == (first[0], 0)


def test_a_file_that_is_read_for_the_first_time_is_not_looked_at_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_tree(tmp_path / "r")
    (tmp_path / "r/a/link").unlink()
    calls: list[str] = []
    for name in ("open", "read", "fstat", "close", "stat"):
        real = getattr(os, name)

        def counted(
            *args: object, name: str = name, real: Callable[..., object] = real, **kw: object
        ) -> object:
            calls.append(name)
            return real(*args, **kw)

        monkeypatch.setattr(os, name, counted)
    scan(tmp_path / "r", MemoryNodes())
    # Four directories are opened and stated as well; the root is opened by its path.
    assert {name: calls.count(name) for name in set(calls)} == {
        "open": 44,
        "read": 40,
        "fstat": 84,
        "close": 44,
    }


def test_a_row_that_says_nothing_new_is_not_written_again(
    tmp_path: Path, cache: StatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_tree(tmp_path / "r")
    os.link(tmp_path / "r/f0", tmp_path / "r/other")  # a directory that is looked at each time
    scan(tmp_path / "r", MemoryNodes(), cache=cache)
    kept: list[bytes] = []
    monkeypatch.setattr(cache, "keep", lambda path, _: kept.append(path))
    assert scan(tmp_path / "r", MemoryNodes(), cache=cache).files_read == 0
    assert kept == []


# --- that it does not show ------------------------------------------------------------------


def both(root: Path, cache: StatCache, *, excludes: Excludes | None = None) -> Scanned:
    """Scan with ``cache``; check the result against a scan without."""
    nodes = MemoryNodes()
    warm = scan(root, nodes, cache=cache, excludes=excludes)
    cold = scan(root, MemoryNodes(), excludes=excludes)
    assert (warm.tree, warm.content, warm.skipped) == (cold.tree, cold.content, cold.skipped)
    for _ in Manifest(warm.tree, nodes).walk():
        pass  # every node is there
    return warm


def test_a_socket_is_counted_by_every_scan(
    tmp_path: Path, cache: StatCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_tree(tmp_path / "r")
    monkeypatch.chdir(tmp_path / "r")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
    for _ in range(2):
        assert both(tmp_path / "r", cache).skipped == {"socket": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a").chmod(0o700),
        lambda root: root.chmod(0o700),
        lambda root: os.utime(root / "a", ns=(5, 5)),
        lambda root: (root / "a/f1").chmod(0o4711),
        lambda root: os.utime(root / "a/f1", ns=(5, 5)),
        lambda root: (root / "a/f1").rename(root / "a/f11"),
        lambda root: shutil.rmtree(root / "a/b"),
        lambda root: (root / "a/b").rename(root / "c/b"),
        lambda root: (root / "a/new").mkdir(),
        lambda root: (root / "a/f1").unlink(),
        lambda root: os.link(root / "a/f1", root / "c/linked"),
    ],
)
def test_whatever_changes_is_seen(
    tmp_path: Path, cache: StatCache, change: Callable[[Path], object]
) -> None:
    root = tmp_path / "r"
    a_tree(root)
    before = both(root, cache)
    change(root)
    assert both(root, cache).tree != before.tree
    assert both(root, cache).files_read == 0


class Without:
    """Leaves out the names that end so, and takes one path in them back."""

    def __init__(self, suffix: str, *, kept: str = "?") -> None:
        self._suffix = suffix
        self._kept = kept

    def excludes(self, path: str) -> bool:
        parts = path.split("/")
        return any(part.endswith(self._suffix) for part in parts) and path != self._kept

    def may_prune(self, directory: str) -> bool:
        return not self._kept.startswith(directory + "/")


def test_one_cache_serves_scans_that_leave_out_different_things(
    tmp_path: Path, cache: StatCache
) -> None:
    root = tmp_path / "r"
    a_tree(root)
    for _ in range(2):
        for excludes in (None, Without("1"), Without("a"), Without("a", kept="a/b")):
            both(root, cache, excludes=excludes)
    (root / "a/b").rename(root / "elsewhere")
    both(root, cache, excludes=Without("a", kept="a/b"))


NAMES = ("a", "b", "c")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
ACTIONS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.binary(max_size=3)),
    st.tuples(st.just("mkdir"), PATHS, st.none()),
    st.tuples(st.just("remove"), PATHS, st.none()),
    st.tuples(st.just("chmod"), PATHS, st.sampled_from([0o700, 0o755])),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
    st.tuples(st.just("symlink"), PATHS, PATHS),
    st.tuples(st.just("fifo"), PATHS, st.none()),
)


def write(path: Path, data: object) -> None:
    # Not to wait for a reader where there is a FIFO.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)
    os.write(fd, str(data).encode())
    os.close(fd)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


ACTIONS_BY_NAME: dict[str, Callable[[Path, Path, object], object]] = {
    "write": lambda _, path, data: write(path, data),
    "mkdir": lambda _, path, __: path.mkdir(),
    "remove": lambda _, path, __: remove(path),
    "chmod": lambda _, path, mode: path.chmod(int(str(mode))),
    "link": lambda root, path, other: os.link(root / str(other), path, follow_symlinks=False),
    "rename": lambda root, path, other: (root / str(other)).rename(path),
    "symlink": lambda _, path, other: path.symlink_to(str(other)),
    "fifo": lambda _, path, __: os.mkfifo(path),
}


def act(root: Path, what: str, path: str, argument: object, when: int) -> None:
    """Do one thing to the tree; ``when`` differs each time, as the clock's tick may not."""
    with suppress(OSError):  # nothing there, or something else
        ACTIONS_BY_NAME[what](root, root / path, argument)
        if not (root / path).is_symlink():
            os.utime(root / path, ns=(when, when))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(st.lists(st.lists(ACTIONS, max_size=6), min_size=1, max_size=4))
def test_a_warm_scan_finds_what_a_cold_one_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[tuple[str, str, object]]]
) -> None:
    top = tmp_path_factory.mktemp("any")
    root, when = top / "r", 0
    root.mkdir()
    with StatCache(top / "stat.db") as cache:
        for step in steps:
            for what, path, argument in step:
                when += 1
                act(root, what, path, argument, when)
            both(root, cache)
            both(root, cache, excludes=Without("b"))
    shutil.rmtree(top)


# --- marks and rows -------------------------------------------------------------------------

STAMP: Stamp = (5, 10, 10, 1, 1, stat.S_IFREG | 0o644, 0, 0, 1)


def test_the_mark_of_a_listing_tells_all_that_a_stat_tells() -> None:
    header = EMPTY_DIRECTORY
    marks = [
        mark(header, [], {b"a": STAMP}),
        mark(header, [b"a"], {}),
        mark(header, [], {b"b": STAMP}),
        mark(header, [], {b"a": STAMP, b"b": STAMP}),
        mark(header, [b"b"], {b"a": STAMP}),
    ]
    for place in range(8):
        other = (*STAMP[:place], STAMP[place] + 1, *STAMP[place + 1 :])
        marks.append(mark(header, [], {b"a": other}))  # type: ignore[dict-item]
    assert len({*marks}) == len(marks)
    assert b"" not in marks


def test_a_directory_that_was_renamed_is_not_read_again(
    tmp_path: Path, cache: StatCache
) -> None:
    root = tmp_path / "r"
    a_tree(root)
    scan(root, MemoryNodes(), cache=cache)
    (root / "a").rename(root / "c/moved")
    found = scan(root, MemoryNodes(), cache=cache)
    assert found.files_read == 0
    assert found == scan(root, MemoryNodes())._replace(files_read=0, bytes_read=0)
    # It is known by its new name from now on, and what has the old one is another directory.
    shutil.copytree(root / "c/moved", root / "a", symlinks=True)
    again = scan(root, MemoryNodes(), cache=cache)
    assert again.files_read == 20
    assert again == scan(root, MemoryNodes())._replace(
        files_read=again.files_read, bytes_read=again.bytes_read
    )


def test_another_directory_with_the_inode_of_one_that_is_gone_is_read(
    tmp_path: Path, cache: StatCache
) -> None:
    root = tmp_path / "r"
    (root / "old").mkdir(parents=True)
    (root / "old/f").write_text("old")
    scan(root, MemoryNodes(), cache=cache)
    inode = (root / "old").stat().st_ino
    (root / "old").rename(root / "new")
    (root / "new/f").unlink()
    (root / "new/f").write_text("new")
    assert (root / "new").stat().st_ino == inode
    found = scan(root, MemoryNodes(), cache=cache)
    assert found == scan(root, MemoryNodes())


@pytest.mark.parametrize("inode", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_directory_is_found_by_an_inode_of_all_64_bits(cache: StatCache, inode: int) -> None:
    seen = Seen(b"", pack_stamps([]))
    cache.begin()
    cache.keep(b"old", seen, inode)
    cache.end(complete=True)
    assert cache.load(b"new", inode) == seen
    assert cache.load(b"other", inode ^ (1 << 63)) is None


@pytest.mark.parametrize("late", [1 << 64, 1 << 70, -(1 << 63) - 1])
def test_a_file_changed_at_a_time_beyond_64_bits_is_noted_as_another(
    cache: StatCache, late: int
) -> None:
    found = Noted(5, 6, late, 7, 8, EMPTY)
    cache.begin()
    cache.store(b"", {b"f": found})
    cache.end(complete=True)
    seen = cache.load(b"", 0)
    assert seen is not None
    assert seen.with_files([]).noted() == seen.noted() != {b"f": found}


def test_names_of_one_file_and_times_beyond_64_bits_give_no_mark() -> None:
    linked: Stamp = (*STAMP[:8], 2)
    late: Stamp = (5, 1 << 70, *STAMP[2:])
    assert mark(EMPTY_DIRECTORY, [], {b"a": linked}) == b""
    assert mark(EMPTY_DIRECTORY, [], {b"a": late}) == b""


def test_what_a_copy_stores_is_noted_and_marks_nothing(cache: StatCache) -> None:
    noted = {
        b"b": Noted(1, 2, 3, 4, 5, digest_of(b"b"), ((b"user.x", b"y"),)),
        b"a": Noted(0, -1, 3, 4, 5, digest_of(b"a")),
    }
    cache.begin()
    cache.store(b"d", noted)
    cache.end(complete=True)
    seen = cache.load(b"d")
    assert seen is not None
    assert seen.noted() == noted
    assert seen.mark == b""


def test_a_file_that_is_not_noted_is_left_out_of_what_a_row_knows() -> None:
    file = File(b"f", 0o644, 0, 0, 0, 1, digest_of(b"x"))
    directory = node_module.Directory(0o755, 0, 0, 0, (), (file,))
    seen = Seen(node_module.encode(directory), statcache_module.pack_stamps([0, 0, 0]))
    assert seen.noted() == {}


def test_names_are_listed_as_bytes_whatever_they_are(tmp_path: Path) -> None:
    names = {
        b"plain",
        b"\xff\xfe",
        b"new\nline",
        "é".encode(),
        *(b"%05d" % i for i in range(3000)),
    }
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        found = [name for name, _ in listing.names_in(fd)]
    finally:
        os.close(fd)
    assert len(found) == len(names)
    assert set(found) == names
