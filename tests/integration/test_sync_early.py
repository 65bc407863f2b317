"""A large file comes while it is still being read, before anybody knows its digest."""

import asyncio
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.digest import Digest, digest_of
from filesync.disk.reserved import PARTIAL_NAME
from filesync.disk.scanning import reading
from filesync.disk.scanning.readfile import Content
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.disk.updating.early import EarlyFile
from filesync.disk.updating.large import LargeFile
from filesync.disk.updating.partial import Partial, Partials
from filesync.disk.updating.write import Data
from filesync.early import stand_in_of
from filesync.errors import StoreError, Unavailable
from filesync.sync.options import Options
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.flow import Flow
from tests.integration.test_sync_plane import tree_of
from tests.integration.ways import Way, given, taken

PATIENCE_S = 20.0
SIZE = 3 << 20
ANY_FLOW = Flow()
either = pytest.mark.parametrize("way", [given, taken])


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is too small."""
    for module in (
        "disk.updating.partial",
        "sync.additions",
        "sync.remote.earlies",
        "transfer.send.fresh",
    ):
        monkeypatch.setattr(f"filesync.{module}.EARLY_BYTES", SIZE)
    for module in ("giving", "taking"):
        monkeypatch.setattr(f"filesync.sync.remote.{module}.ADD_AFTER_S", 0.001)
    monkeypatch.setattr("filesync.sync.remote.telling.PACE_S", 0.001)


Reading = Callable[[Callable[[bytes], None]], None]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reading:
    """Returns what has a function called before a file of the source is read, by the first scan."""
    real: Callable[..., Content] = vars(reading)["read_file"]
    seen: set[bytes] = set()

    def watch(call: Callable[[bytes], None]) -> None:
        def read(fd: int, name: bytes, path: bytes, beside: object) -> Content:
            if path not in seen and "/src" in os.readlink(f"/proc/self/fd/{fd}"):
                seen.add(path)
                call(path)
            return real(fd, name, path, beside)

        monkeypatch.setattr(reading, "read_file", read)

    return watch


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def rest() -> None:
    time.sleep(1.5e-9 * FINE_SLACK_NS)  # what has just changed is not noted


def run(way: Way, root: Path, flow: Flow = ANY_FLOW) -> SyncStats:
    options = Options(caches=root / "client", delete=True, flow=flow)
    return asyncio.run(way(root, options, caches=root / "server"))


def partials(root: Path) -> list[Path]:
    found = root / "dest" / PARTIAL_NAME.decode()
    return list(found.iterdir()) if found.exists() else []


def await_partial(root: Path, content: bytes) -> None:
    name = digest_of(content).hex()
    until = time.monotonic() + PATIENCE_S
    while name not in [path.name for path in partials(root)]:
        assert time.monotonic() < until, "it has not come"
        time.sleep(0.002)


@pytest.fixture(params=["empty", "not empty"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The destination is empty, or is not."""
    write(tmp_path / "src/d/small", b"small")
    if request.param == "not empty":
        for name in ("src", "dest"):
            write(tmp_path / name / "there", b"there")
            os.utime(tmp_path / name / "there", ns=(9, 9))
            os.utime(tmp_path / name, ns=(8, 8))
    rest()
    return tmp_path


@either
def test_a_large_file_has_come_before_it_was_read(way: Way, root: Path, reads: Reading) -> None:
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    rest()
    reads(lambda path: await_partial(root, content) if path == b"d/large" else None)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < 1.5 * SIZE  # it came once
    assert stats.content_bytes >= SIZE
    assert not partials(root)
    again = run(way, root)
    assert (again.files, again.created) == (0, 0)


@either
def test_one_that_changes_while_it_is_read_comes_as_it_is_in_the_end(
    way: Way, root: Path, reads: Reading
) -> None:
    before, after = os.urandom(SIZE), os.urandom(SIZE)
    write(root / "src/d/large", before)
    rest()

    def change(path: bytes) -> None:
        if path == b"d/large":
            await_partial(root, before)
            (root / "src/d/large").write_bytes(after)

    reads(change)
    run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert not partials(root)


@either
def test_of_one_that_grows_before_it_is_read_only_the_rest_comes_then(
    way: Way, root: Path, reads: Reading
) -> None:
    content = os.urandom(SIZE)
    write(root / "src/d/log", content)
    rest()

    def append(path: bytes) -> None:
        if path == b"d/log":
            await_partial(root, content)
            with (root / "src/d/log").open("ab") as log:
                log.write(b"a line")

    reads(append)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < 1.1 * SIZE


@either
def test_of_two_of_one_size_and_time_each_comes(way: Way, root: Path, reads: Reading) -> None:
    for name in ("one", "other"):
        write(root / "src/d" / name, os.urandom(SIZE))
        os.utime(root / "src/d" / name, ns=(5, 5))
    rest()
    reads(lambda _: time.sleep(0.2))
    run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert not partials(root)


@either
def test_what_stands_for_another_that_has_come_does_not_come(
    way: Way, root: Path, reads: Reading
) -> None:
    paths = [root / "src" / name / "large" for name in "def"]
    for path in paths:
        write(path, os.urandom(SIZE))
        os.utime(path, ns=(5, 5))
    rest()
    first = paths[0].read_bytes()

    def wait(path: bytes) -> None:
        await_partial(root, first) if path == b"d/large" else time.sleep(0.3)

    reads(wait)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < 3.5 * SIZE


@either
def test_all_of_a_directory_come_before_they_were_read(
    way: Way, root: Path, reads: Reading
) -> None:
    for number in range(5):
        write(root / f"src/d/{number}", os.urandom(SIZE + number))
    rest()
    contents = [(root / f"src/d/{number}").read_bytes() for number in range(5)]

    def wait(_: bytes) -> None:
        for content in contents:
            await_partial(root, content)

    reads(wait)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < 6 * SIZE
    assert (stats.files, stats.created) == (6, 7)
    assert not partials(root)


@either
def test_what_is_a_copy_of_another_does_not_come_once_that_is_known(
    way: Way, root: Path, reads: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, count = os.urandom(SIZE), 12
    for number in range(count):
        write(root / f"src/d/{number}", content)
    write(root / "src/d/other", os.urandom(SIZE))
    rest()
    prepare = EarlyFile.prepare

    def slowly(file: EarlyFile) -> None:
        time.sleep(0.1)
        prepare(file)

    monkeypatch.setattr(EarlyFile, "prepare", slowly)
    reads(lambda path: time.sleep(1.0 if path == b"d/other" else 0))
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < count * SIZE / 2
    assert not partials(root)


@either
@pytest.mark.parametrize("is_read", [True, False])
def test_what_has_come_of_one_before_a_cut_is_gone_on_with(
    way: Way, root: Path, reads: Reading, is_read: bool
) -> None:
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    mtime_ns = (root / "src/d/large").stat().st_mtime_ns
    rest()
    if is_read:  # its digest is known by now
        run(way, root)
        shutil.rmtree(root / "dest")
    left = root / "dest" / PARTIAL_NAME.decode() / stand_in_of(SIZE, mtime_ns).hex()
    write(left, content[: SIZE - 10_000])
    os.truncate(left, SIZE)
    left.chmod(0o600)
    left.parent.chmod(0o700)
    reads(lambda _: time.sleep(0.05))
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < SIZE / 5
    assert not partials(root)


@either
def test_what_had_come_when_a_sync_ended_is_gone_on_with(
    way: Way, root: Path, reads: Reading
) -> None:
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    (root / "src/d/large").touch()
    rest()

    def give_up(_: bytes) -> None:
        await_partial(root, content)
        raise StoreError("the disk is gone")

    reads(give_up)
    with pytest.raises((StoreError, Unavailable)):
        run(way, root)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < SIZE / 5
    assert not partials(root)


@either
def test_who_ends_it_twice_waits_for_what_is_coming(
    way: Way, root: Path, reads: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write(root / f"src/d/{number}", os.urandom(SIZE + number))
    rest()
    reads(lambda _: time.sleep(0.2))
    is_coming, write_piece = threading.Event(), LargeFile.write

    def slowly(large: LargeFile, offset: int, data: Data) -> None:
        is_coming.set()
        time.sleep(0.1)
        write_piece(large, offset, data)

    async def end_twice() -> None:
        options = Options(caches=root / "client", delete=True)
        sync = asyncio.create_task(way(root, options, caches=root / "server"))
        assert await asyncio.to_thread(is_coming.wait, PATIENCE_S)
        for _ in range(2):
            sync.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await sync

    monkeypatch.setattr(LargeFile, "write", slowly)
    asyncio.run(end_twice())
    for path in partials(root):
        with path.open() as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
    monkeypatch.setattr(LargeFile, "write", write_piece)
    run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert not partials(root)


@either
def test_where_a_rate_is_to_be_kept_a_file_waits_for_its_digest(
    way: Way, root: Path, reads: Reading
) -> None:
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    rest()
    seen: list[Path] = []

    def look(_: bytes) -> None:
        time.sleep(0.1)
        seen.extend(partials(root))

    reads(look)
    run(way, root, flow=Flow(bytes_per_s=100 * SIZE))
    assert seen == []
    assert tree_of(root / "dest") == tree_of(root / "src")


@either
@pytest.mark.parametrize("to", ["dest/large", "dest/renamed"])
def test_one_that_is_named_alone_has_come_before_it_was_read(
    way: Way, root: Path, reads: Reading, to: str
) -> None:
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    (root / "dest").mkdir(exist_ok=True)
    mtime_ns = (root / "dest").stat().st_mtime_ns
    rest()
    reads(lambda path: await_partial(root, content) if path == b"large" else None)
    options = Options(caches=root / "client")
    stats = asyncio.run(way(root, options, names=["d/large"], to=to, caches=root / "server"))
    assert (root / to).read_bytes() == content
    assert (root / to).stat().st_mtime_ns == (root / "src/d/large").stat().st_mtime_ns
    assert stats.wire_in + stats.wire_out < 1.5 * SIZE
    assert (stats.files, stats.created) == (1, 1)
    assert not partials(root)
    assert (root / "dest").stat().st_mtime_ns > mtime_ns  # it has a name more


@either
def test_what_may_come_of_something_that_is_there_waits_for_its_digest(
    way: Way, root: Path, reads: Reading
) -> None:
    old = os.urandom(SIZE)
    there = {"d/edited": old, "d/was": old[::-1], "d/dump-monday": old[1:]}
    given = {
        "d/edited": old[:-1] + b"e",
        "d/is": old[::-1],
        "d/dump-tuesday": old[1:] + b"more",
    }
    for name, content in there.items():
        write(root / "dest" / name, content)
    for name, content in given.items():
        write(root / "src" / name, content)
    rest()
    seen: list[Path] = []

    def look(_: bytes) -> None:
        time.sleep(0.1)
        seen.extend(partials(root))

    reads(look)
    stats = run(way, root)
    assert seen == []
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < SIZE / 2


@either
def test_what_one_that_has_come_replaces_is_kept_for_who_needs_it(
    way: Way, root: Path, reads: Reading
) -> None:
    rotated, content = os.urandom(SIZE + 1), os.urandom(SIZE)
    write(root / "dest/d/a.log", rotated)
    write(root / "src/d/a.log", content)
    write(root / "src/d/new", content)
    write(root / "src/d/rotated", rotated)
    rest()
    reads(lambda path: await_partial(root, content) if path == b"d/new" else None)
    stats = run(way, root)
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < 1.5 * SIZE


@either
def test_where_nothing_comes_of_it_in_the_end_the_times_of_the_place_stay(
    way: Way, root: Path, reads: Reading
) -> None:
    write(root / "dest/there", b"there")
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    os.utime(root / "dest", ns=(7, 7))
    rest()

    def give_up(path: bytes) -> None:
        if path == b"d/large":
            await_partial(root, content)
            raise StoreError("the disk is gone")

    reads(give_up)
    with pytest.raises((StoreError, Unavailable)):
        run(way, root)
    assert partials(root)
    assert (root / "dest").stat().st_mtime_ns == 7


@either
def test_what_has_come_and_is_gone_when_all_is_known_goes(
    way: Way, root: Path, reads: Reading
) -> None:
    for name in ("src", "dest"):
        write(root / name / "there", b"there")
        os.utime(root / name / "there", ns=(9, 9))
    shutil.copytree(root / "src/d", root / "dest/d")
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    rest()

    def remove(path: bytes) -> None:
        if path == b"d/large":
            await_partial(root, content)
            (root / "src/d/large").unlink()

    reads(remove)
    run(way, root)
    assert os.listdir(root / "dest/d") == ["small"]
    assert not partials(root)


@either
def test_what_has_come_goes_where_nothing_is_to_be_done_in_the_end(
    way: Way, root: Path, reads: Reading
) -> None:
    write(root / "src/there", b"there")
    content = os.urandom(SIZE)
    write(root / "src/d/large", content)
    shutil.copytree(root / "src", root / "dest", dirs_exist_ok=True)
    (root / "dest/d/large").unlink()
    directories = [root / name for name in ("src/d", "dest/d", "src", "dest")]
    for name in ("d/small", "there"):
        for directory in ("src", "dest"):
            os.utime(root / directory / name, ns=(7, 7))

    def settle() -> None:
        for directory in directories:
            os.utime(directory, ns=(7, 7))

    settle()
    rest()

    def remove(path: bytes) -> None:
        if path == b"d/large":
            await_partial(root, content)
            (root / "src/d/large").unlink()
            settle()

    reads(remove)
    stats = run(way, root)
    assert (stats.created, stats.deleted) == (0, 0)
    assert sorted(os.listdir(root / "dest")) == ["d", "there"]
    assert (root / "dest").stat().st_mtime_ns == 7


@either
def test_one_that_is_like_one_that_is_on_its_way_by_its_digest_leaves_that_alone(
    way: Way, root: Path, reads: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(SIZE)
    write(root / "src/a/known", content)
    (root / "src/a/known").chmod(0o640)
    rest()
    run(way, root)  # its digest is known from now on
    shutil.rmtree(root / "dest")
    write(root / "src/d/new", content)
    os.utime(root / "src/d/new", ns=(5, 5))
    rest()
    has_come = threading.Event()
    set_ready, write_piece = Partials.set_ready, LargeFile.write

    def set_later(partials: Partials, one: Partial, digest: Digest, path: bytes) -> None:
        assert begun.wait(PATIENCE_S)
        set_ready(partials, one, digest, path)
        has_come.set()

    def write_later(large: LargeFile, offset: int, data: Data) -> None:
        if type(large) is LargeFile:  # not an early one
            begun.set()
            assert has_come.wait(PATIENCE_S)
        write_piece(large, offset, data)

    begun = threading.Event()
    monkeypatch.setattr(Partials, "set_ready", set_later)
    monkeypatch.setattr(LargeFile, "write", write_later)

    def wait(path: bytes) -> None:
        if path == b"d/new":
            has_come.wait(PATIENCE_S)

    reads(wait)
    run(way, root)
    assert has_come.is_set()
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert not partials(root)
