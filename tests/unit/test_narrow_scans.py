"""What is noted of what a scan looks at, and of what it leaves out: each stays for who looks next."""

import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.scanning import listing, reading, statcache
from filesync.disk.scanning import scan as scan_module
from filesync.disk.scanning.readfile import Content, read_file
from filesync.disk.scanning.reading import Reader
from filesync.disk.scanning.statcache import Seen, StatCache
from filesync.disk.scanning.statcaches import open_cache
from filesync.disk.scanning.watcher import Watcher
from filesync.manifest import File, Manifest, MemoryNodes
from filesync.sync.filter import Filter
from filesync.sync.places import LocalPlaces, Place
from filesync.sync.scanning import scan_place

FILES = ("one", "two", "three", "sub/in", "sub/deep/in", "other/in")
BIG = b"big enough to be worth it" * (1 << 16)


@pytest.fixture(autouse=True)
def _old_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scans believe in files as young as these are."""
    monkeypatch.setattr(listing, "is_racy", lambda *_, **__: False)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Names of the files that scans read."""
    names: set[bytes] = set()

    def counting(dirfd: int, name: bytes, path: bytes, *rest: object) -> Content:
        names.add(path)
        real: Callable[..., Content] = read_file
        return real(dirfd, name, path, *rest)

    monkeypatch.setattr(reading, "read_file", counting)
    monkeypatch.setattr(reading, "read_small", lambda *_: None)
    return names


Scan = Callable[..., set[bytes]]


@pytest.fixture
def scanned(tmp_path: Path, read: set[bytes]) -> Scan:
    """Scan names of a directory, or all of it, but for what rules leave out; say what was read."""
    root = tmp_path / "tree"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() + BIG)

    def scan(*names: bytes, rules: Sequence[bytes] = ()) -> set[bytes]:
        read.clear()
        path = os.fsencode(root)
        fd = LocalPlaces().open(path)
        place = Place(fd, root, names=frozenset(names) or None, trees=bool(names), label=path)
        found = scan_place(
            place, MemoryNodes(), filter=Filter(rules), caches=tmp_path / "caches"
        )
        place.close()
        tops = set(names) or {os.fsencode(name) for name in os.listdir(root)}
        assert {entry.name for entry in found.manifest.root.entries} <= tops
        return set(read)

    return scan


def test_a_name_more_is_all_that_is_read(scanned: Scan) -> None:
    assert scanned(b"one", b"sub") == {b"one", b"sub/in", b"sub/deep/in"}
    assert scanned(b"one", b"sub", b"two") == {b"two"}
    assert scanned(b"two", b"sub") == set()
    assert scanned(b"one", b"three") == {b"three"}


def test_who_scans_all_of_it_reads_no_name_again_and_the_other_way_round(scanned: Scan) -> None:
    scanned(b"one", b"sub")
    assert scanned() == {b"two", b"three", b"other/in"}
    assert scanned(b"one", b"other") == set()
    assert scanned() == set()


def test_what_has_changed_is_read_whoever_scans_next(scanned: Scan, tmp_path: Path) -> None:
    scanned()
    (tmp_path / "tree/one").write_bytes(b"changed" + BIG)
    assert scanned(b"one", b"two") == {b"one"}
    assert scanned(b"three", b"one") == set()
    assert scanned() == set()


def test_names_whose_order_of_scans_changes_read_nothing(scanned: Scan) -> None:
    scanned(b"one")
    scanned(b"two", b"other")
    for names in ((b"one",), (b"two", b"other"), (b"one", b"other"), ()):
        if names:
            assert scanned(*names) == set()


def noted(tmp_path: Path, directory: bytes) -> Seen | None:
    """Return what is noted of a directory."""
    of = os.fsencode(tmp_path / "tree")
    with open_cache(tmp_path / "caches", of) or pytest.fail("no cache") as cache:
        return cache.load(directory)


def rows(tmp_path: Path) -> set[bytes]:
    """Return the directories of which something is noted."""
    paths = (b"", b"sub", b"sub/deep", b"other")
    return {path for path in paths if noted(tmp_path, path) is not None}


def test_names_that_are_as_they_were_are_noted_once(scanned: Scan, tmp_path: Path) -> None:
    scanned()
    assert scanned(b"one", b"sub") == set()
    before = noted(tmp_path, b"")
    assert scanned(b"one", b"sub") == set()
    assert noted(tmp_path, b"") == before
    (tmp_path / "tree/one").write_bytes(b"changed" + BIG)
    scanned(b"one", b"sub")
    assert noted(tmp_path, b"") != before


@pytest.mark.parametrize(
    "rules", [[b"in"], [b"/sub"], [b"deep/"], [b"+ */", b"+ three", b"- *"]]
)
def test_what_rules_leave_out_is_not_read_again_when_all_is_scanned(
    scanned: Scan, rules: list[bytes]
) -> None:
    scanned()
    for _ in range(2):
        assert scanned(rules=rules) == set()
        assert scanned() == set()


def test_what_is_as_it_was_is_noted_once_also_where_it_cannot_be_marked(
    scanned: Scan, tmp_path: Path
) -> None:
    """Files that may not be on the disk yet are looked at each time."""
    scanned()
    scanned(rules=[b"two"])
    before = noted(tmp_path, b"")
    assert before is not None
    assert (before.mark, before.others != b"") == (b"", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StatCache, "keep", lambda *_: pytest.fail("noted again"))
        assert scanned(rules=[b"two"]) == set()


def test_a_scan_of_the_same_part_looks_into_no_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    for path in ("a/one", "a/two", "b/one"):
        toggle(root, path, 1_000_000_000_123_456_789)
    leave_out = Filter([b"two", b"b"]).excludes
    with StatCache(tmp_path / "cache") as cache:
        scan_module.scan(root, MemoryNodes(), cache=cache)
        part = scan_module.scan(root, MemoryNodes(), cache=cache, leave_out=leave_out)
        monkeypatch.setattr(Reader, "read_changed", lambda *_: pytest.fail("looked into"))
        again = scan_module.scan(root, MemoryNodes(), cache=cache, leave_out=leave_out)
        assert again.tree == part.tree


def test_all_that_is_scanned_after_a_part_is_read_but_for_that(scanned: Scan) -> None:
    assert scanned(rules=[b"deep/", b"two"]) == {b"one", b"three", b"sub/in", b"other/in"}
    assert scanned() == {b"two", b"sub/deep/in"}


def test_what_was_left_out_and_has_changed_is_read(scanned: Scan, tmp_path: Path) -> None:
    scanned()
    scanned(rules=[b"in"])
    (tmp_path / "tree/sub/in").write_bytes(b"changed" + BIG)
    assert scanned(rules=[b"in"]) == set()
    assert scanned() == {b"sub/in"}


class _Changed(Watcher):
    """Says of which directories it was told."""

    def __init__(self) -> None:
        self.told: dict[bytes, bytes | None] = {}

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        self.told[path] = old


def test_who_is_told_of_changes_is_told_how_what_is_looked_at_was(
    scanned: Scan, tmp_path: Path
) -> None:
    """What was left out is no change: who has the same of it need not be told."""
    root = tmp_path / "tree"

    def told(*rules: bytes) -> tuple[Digest, dict[bytes, bytes | None]]:
        changed = _Changed()
        with open_cache(tmp_path / "caches", os.fsencode(root)) or pytest.fail(
            "no cache"
        ) as cache:
            found = scan_module.scan(
                root,
                MemoryNodes(),
                cache=cache,
                leave_out=Filter(rules).excludes,
                watcher=changed,
            )
        return found.tree, changed.told

    told()
    before, changed = told(b"two", b"/sub")
    assert changed == told()[1] == told(b"two", b"/sub")[1] == {}
    assert told()[1] == {}
    (root / "one").write_bytes(b"changed" + BIG)
    _, changed = told(b"two", b"/sub")
    assert {path: digest_of(old or b"") for path, old in changed.items()} == {b"": before}


def test_what_is_noted_of_directories_that_are_gone_goes(scanned: Scan, tmp_path: Path) -> None:
    scanned()
    assert rows(tmp_path) == {b"", b"sub", b"sub/deep", b"other"}
    os.rename(tmp_path / "tree/sub/deep", tmp_path / "deep")
    scanned(b"one", b"sub")  # the other one is none of the names, and is there
    assert rows(tmp_path) == {b"", b"sub", b"other"}
    os.rename(tmp_path / "tree/other", tmp_path / "other")
    scanned(b"one", b"sub")  # nor is that one of the names, but it is gone
    assert rows(tmp_path) == {b"", b"sub"}


def test_what_is_noted_of_directories_that_are_gone_goes_however_many_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More would come each time than go, where each part that is scanned has others in it."""
    monkeypatch.setattr(statcache, "random_bits", lambda _: 0)
    names = [b"%d" % number for number in range(1000)]
    with StatCache(tmp_path / "cache") as cache:
        for name in names:
            cache.store(name, {})
        cache.end(complete=False)
        cache.begin()
        cache.end(complete=True, is_there=lambda name: name in (b"7", b"999"))
        assert [name for name in names if cache.load(name)] == [b"7", b"999"]


def test_what_is_noted_of_files_that_are_gone_goes_when_anything_changes(
    scanned: Scan, tmp_path: Path
) -> None:
    scanned(b"one", b"two", b"three")
    os.unlink(tmp_path / "tree/two")
    (tmp_path / "tree/one").write_bytes(b"changed" + BIG)
    scanned(b"one")
    seen = noted(tmp_path, b"")
    assert seen is not None
    assert seen.noted().keys() == {b"one", b"three"}


changes = st.sampled_from(["a/a", "a/b", "a/c", "b", "c/b/a", "c/a"])
of = st.none() | st.sets(st.sampled_from([b"a", b"b", b"c"]), min_size=1)
rules = st.lists(st.sampled_from([b"a", b"b", b"/a", b"a/b", b"a/"]), max_size=2)
ways = st.sets(st.sampled_from([b"a", b"c", b"c/b"]))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.lists(changes, max_size=4), of, rules, ways), max_size=6))
def test_scans_of_any_parts_see_what_is_there_and_read_nothing_twice(
    scans: list[tuple[list[str], set[bytes] | None, list[bytes], set[bytes]]],
) -> None:
    times = itertools.count(1_000_000_000_123_456_789, 1_000_000_000)
    read: set[tuple[bytes, int]] = set()
    with tempfile.TemporaryDirectory() as top, StatCache(Path(top, "cache")) as cache:
        root = Path(top, "root")
        root.mkdir()
        for changed, names, left_out, on_the_way in scans:
            for path in changed:
                toggle(root, path, next(times))
            nodes = MemoryNodes()
            scan = partial(
                scan_module.scan,
                root,
                names=names,
                leave_out=Filter(left_out).excludes,
                ways=on_the_way.__contains__,
            )
            found, afresh = scan(nodes, cache=cache), scan(MemoryNodes())
            assert found.tree == afresh.tree
            there = {
                (path, entry.mtime_ns)
                for path, entry in Manifest(found.tree, nodes).walk()
                if isinstance(entry, File)
            }
            assert found.files_read == len(there - read)
            read |= there


def test_what_is_only_on_the_way_comes_with_what_is_to_come_even_if_that_cannot(
    tmp_path: Path,
) -> None:
    for name in ("empty/way", "way/way", "way/itself", "to-socket"):
        (tmp_path / name).mkdir(parents=True)
    os.mknod(tmp_path / "to-socket/socket", stat.S_IFSOCK)
    nodes = MemoryNodes()
    ways = {b"empty", b"empty/way", b"way", b"way/way", b"to-socket"}
    found = scan_module.scan(tmp_path, nodes, ways=ways.__contains__)
    come = {path for path, _ in Manifest(found.tree, nodes).walk()}
    assert come == {b"way", b"way/itself", b"to-socket"}


def toggle(root: Path, path: str, time_ns: int) -> None:
    """Write a file at ``path``, or remove the one that is there; leave no directory empty."""
    file = root / path
    if file.exists():
        file.unlink()
        for directory in file.parents:
            if directory == root or any(directory.iterdir()):
                break
            directory.rmdir()
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        os.utime(file, ns=(0, time_ns))
