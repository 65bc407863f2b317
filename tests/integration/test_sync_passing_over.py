"""Files that have changed by the time that they are sent: all others arrive, in the same attempt."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from msgspec.structs import replace

from filesync.disk.handles import DirectoryHandles
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.errors import SourceChanged
from filesync.sync.applying import plan_part
from filesync.sync.changing import FEW_WHOLE, MAX_NARROW
from filesync.sync.listed import Listed
from filesync.sync.local import sync_local
from filesync.sync.options import Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote.client import Remote, sync_from, sync_to
from filesync.sync.remote.server import TreeServer
from filesync.sync.run import Listing, run
from filesync.sync.saying.report import is_partial
from filesync.sync.saying.stats import SyncStats
from filesync.sync.union import Union
from filesync.transfer.errors import Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.send import source_disk
from filesync.transfer.send.contents import ListedFile
from filesync.transfer.send.source_disk import SourceTree
from tests.integration import ways
from tests.integration.test_sync_plane import LOOPBACK

P = ParamSpec("P")
T = TypeVar("T")
Lose = Callable[[Path, Callable[[Path], None]], None]
Sync = Callable[[Path, Options], SyncStats]
NAMES = [f"d{number % 5}/f{number}" for number in range(200)]
GONE = NAMES[7::10]
LARGE_BYTES = (3_000_000, 400_000, 200_000)


def write(root: Path, version: str) -> None:
    for name in NAMES:
        path = root / "served/src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{version} of {name}".encode() * 500)
    rest()


def rest() -> None:
    """Have no later scan read files again that were written until now: it may tell what they hold."""
    time.sleep(1.5e-9 * FINE_SLACK_NS)


def options_of(root: Path) -> Options:
    return Options(delete=True, caches=root / "caches")


def over_a_server(root: Path, options: Options, *, is_given: bool) -> SyncStats:
    async def main() -> SyncStats:
        server = TreeServer(
            ServedPlaces(root / "served"), read_only=False, caches=root / "server"
        )
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            if is_given:
                source = os.fsencode(root / "served/src") + b"/"
                return await sync_to([source], Remote(plane.address, b"dest"), options)
            dest = os.fsencode(root / "served/dest")
            return await sync_from([Remote(plane.address, b"src/")], dest, options)

    return asyncio.run(main())


def taken(root: Path, options: Options) -> SyncStats:
    return over_a_server(root, options, is_given=False)


def given(root: Path, options: Options) -> SyncStats:
    return over_a_server(root, options, is_given=True)


def copied(root: Path, options: Options) -> SyncStats:
    source = os.fsencode(root / "served/src") + b"/"
    return sync_local([source], os.fsencode(root / "served/dest"), options)


def followed_by(act: Callable[[], None], call: Callable[P, T]) -> Callable[P, T]:
    def both(*args: P.args, **kwargs: P.kwargs) -> T:
        made = call(*args, **kwargs)
        act()
        return made

    return both


def vanish(path: Path) -> None:
    path.unlink()


def be_rewritten(path: Path) -> None:
    """Change the content, and nothing that a size or a time could show."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def be_changed_and_grow(path: Path) -> None:
    path.write_bytes(b"x" * (path.stat().st_size + 1))


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Have what GONE was be lost, in a source that was scanned, before a file is sent or copied."""
    look = source_disk._open

    def install(src: Path, how: Callable[[Path], None]) -> None:
        left, lock = GONE.copy(), threading.Lock()

        def lose_all() -> None:
            with lock:  # of several threads that read none is to be earlier
                while left:
                    how(src / left.pop())

        def losing(handles: DirectoryHandles, place: ListedFile) -> int:
            lose_all()
            return look(handles, place)

        monkeypatch.setattr(source_disk, "_open", losing)
        monkeypatch.setattr("filesync.sync.local.plan_part", followed_by(lose_all, plan_part))
        # What a scan has just read is sent without being opened.
        monkeypatch.setattr(SourceTree, "_taken", lambda *_: None)

    return install


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("how", [vanish, be_rewritten, be_changed_and_grow])
@pytest.mark.parametrize("sync", [taken, given, copied])
def test_files_that_vanish_or_change_before_they_are_sent_cost_no_other(
    tmp_path: Path, lose: Lose, sync: Sync, how: Callable[[Path], None], is_new: bool
) -> None:
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    options = options_of(tmp_path)
    dest.mkdir(parents=True)
    (dest / "of another time").write_bytes(b"1")
    if not is_new:
        write(tmp_path, "first")
        sync(tmp_path, options)
    write(tmp_path, "second")
    over_a_server(tmp_path, Options(dry_run=True, caches=tmp_path / "caches"), is_given=True)
    over_a_server(tmp_path, Options(dry_run=True), is_given=False)  # none is read again
    lose(src, how)
    stats = sync(tmp_path, options)
    assert sorted(stats.changing) == sorted(GONE)
    for name in NAMES:
        if name not in GONE:
            assert (dest / name).read_bytes() == f"second of {name}".encode() * 500
        elif is_new:
            assert not (dest / name).exists()
        else:
            assert (dest / name).read_bytes() == f"first of {name}".encode() * 500
    assert stats.files == len(NAMES) - len(GONE)
    if how is vanish:
        assert sync(tmp_path, options).changing == []
        assert not (dest / GONE[0]).exists()


@pytest.mark.parametrize("how", [vanish, be_rewritten, be_changed_and_grow])
@pytest.mark.parametrize("sync", [taken, given])
def test_large_files_that_change_before_they_are_edited_cost_no_other(
    tmp_path: Path, lose: Lose, sync: Sync, how: Callable[[Path], None]
) -> None:
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    options = options_of(tmp_path)
    dest.mkdir(parents=True)
    enlarged = GONE[:5] + NAMES[:5]
    for edited in (b"", b"of another time"):
        write(tmp_path, "any time")
        for number, name in enumerate(enlarged):
            old = random.Random(name).randbytes(LARGE_BYTES[number % len(LARGE_BYTES)])
            middle = len(old) // 2
            (src / name).write_bytes(old[:middle] + edited + old[middle:])
        rest()
        if not edited:
            sync(tmp_path, options)
    contents = {name: (src / name).read_bytes() for name in enlarged}
    over_a_server(tmp_path, Options(dry_run=True, caches=tmp_path / "caches"), is_given=True)
    over_a_server(tmp_path, Options(dry_run=True), is_given=False)
    lose(src, how)
    stats = sync(tmp_path, options)
    assert {*GONE[:5]} <= {*stats.changing} <= {*GONE}
    for name in NAMES[:5]:
        assert (dest / name).read_bytes() == contents[name]
    for name in GONE[:5]:
        old = contents[name].replace(b"of another time", b"")
        assert (dest / name).read_bytes() == old


def test_copies_and_names_of_files_that_vanish_are_passed_over_with_them(
    tmp_path: Path, lose: Lose
) -> None:
    write(tmp_path, "first")
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    for name in GONE[:3]:
        (src / name).write_bytes(b"one content" * 10_000)
    for name in GONE[3:6]:
        (src / name).unlink()
        os.link(src / GONE[6], src / name)
    rest()
    dest.mkdir()
    (dest / "of another time").write_bytes(b"1")
    over_a_server(tmp_path, Options(dry_run=True), is_given=False)
    lose(src, vanish)
    stats = taken(tmp_path, options_of(tmp_path))
    assert sorted(stats.changing) == sorted(GONE)
    found = {str(path.relative_to(dest)) for path in dest.rglob("*") if path.is_file()}
    assert found == {*NAMES} - {*GONE}


@pytest.mark.parametrize("how", [vanish, be_rewritten, be_changed_and_grow])
@pytest.mark.parametrize("sync", [ways.local, ways.given, ways.taken])
@pytest.mark.parametrize("names", [("one", "two"), ("in/one", "in/two"), ("one/in", "two/in")])
def test_in_one_of_several_directories_that_go_to_one_place_they_cost_no_other_either(
    tmp_path: Path,
    lose: Lose,
    sync: ways.Way,
    how: Callable[[Path], None],
    names: tuple[str, str],
) -> None:
    """Nor what stands behind them: each file is given by the first that has its name."""
    one, two = (tmp_path / "src" / name for name in names)
    for number, name in enumerate(NAMES):
        for root in (one, two) if number % 2 else (two,):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(f"{name} of {root}".encode() * 500)
    rest()
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "of another time").write_bytes(b"1")
    options = Options(delete=True, caches=tmp_path / "caches")
    said = [f"{name}/" for name in names]
    for back_and_forth in (ways.given, ways.taken):  # none is read again
        asyncio.run(back_and_forth(tmp_path, replace(options, dry_run=True), said))
    lose(one, how)
    stats = asyncio.run(sync(tmp_path, options, said))
    assert sorted(stats.changing) == sorted(GONE)
    for number, name in enumerate(NAMES):
        if name not in GONE:
            owner = one if number % 2 else two
            assert (dest / name).read_bytes() == (owner / name).read_bytes()
    found = {str(path.relative_to(dest)) for path in dest.rglob("*") if path.is_file()}
    assert found == {*NAMES} - {*GONE}


@pytest.mark.parametrize("sync", [ways.local, ways.given, ways.taken])
def test_one_of_several_directories_that_vanishes_before_it_is_scanned_is_not_deleted_where_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: ways.Way
) -> None:
    for name in ("one", "two"):
        (tmp_path / "src" / name).mkdir(parents=True)
        (tmp_path / "src" / name / f"of {name}").touch()
    (tmp_path / "dest").mkdir()
    asyncio.run(sync(tmp_path, names=("one/", "two/")))

    def moved() -> None:
        (tmp_path / "src/two").rename(tmp_path / "src/elsewhere")

    monkeypatch.setattr(Union, "end", followed_by(moved, Union.end))
    with pytest.raises(SourceChanged):  # it is begun again, and finds that it is not there
        asyncio.run(sync(tmp_path, Options(delete=True), ("one/", "two/")))
    assert {path.name for path in (tmp_path / "dest").iterdir()} == {"of one", "of two"}


@pytest.mark.parametrize("how", [vanish, be_rewritten, be_changed_and_grow])
@pytest.mark.parametrize("sync", [taken, given])
def test_what_is_synced_alone_arrives_as_it_was_read_though_it_changes_before_it_is_sent(
    tmp_path: Path, lose: Lose, sync: Sync, how: Callable[[Path], None]
) -> None:
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    write(tmp_path, "first")
    sync(tmp_path, options_of(tmp_path))
    write(tmp_path, "second")
    (src / GONE[0]).write_bytes(b"second" * LARGE_BYTES[0])
    contents = {name: (src / name).read_bytes() for name in NAMES}
    lose(src, how)
    stats = sync(tmp_path, replace(options_of(tmp_path), afresh=True))
    assert stats.changing == []
    assert {name: (dest / name).read_bytes() for name in NAMES} == contents
    assert {path.name for path in (tmp_path / "served").iterdir()} == {"src", "dest"}


def test_a_file_that_changes_again_and_again_is_synced_alone_until_it_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "first")
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    attempts: list[int] = []

    def change() -> None:
        attempts.append(len(attempts) + 1)
        if len(attempts) < FEW_WHOLE + MAX_NARROW:
            (src / NAMES[7]).write_bytes(b"%d" % len(attempts) * LARGE_BYTES[0])
        (dest / "of somebody else").write_bytes(b"1")

    dest.mkdir()
    (dest / "of another time").write_bytes(b"1")
    monkeypatch.setattr("filesync.sync.local.plan_part", followed_by(change, plan_part))
    stats = run(
        [f"{src}/"], str(dest), options_of(tmp_path), Listing(keep=True), progress=False
    )
    assert len(attempts) == FEW_WHOLE + MAX_NARROW
    assert stats.changing == []
    assert (stats.names, stats.files) == (len(NAMES) + 5, len(NAMES))
    for name in NAMES:
        assert (dest / name).read_bytes() == (src / name).read_bytes()
    assert (dest / "of somebody else").exists()
    assert not (dest / "of another time").exists()


@pytest.mark.parametrize("may_go", [True, False])
def test_a_directory_that_becomes_a_link_before_a_file_in_it_is_synced_alone_does_not_stay_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_go: bool
) -> None:
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    for path in (src / "d/f", dest / "of another time"):
        path.parent.mkdir(parents=True)
        path.write_bytes(os.fsencode(path))
    if not may_go:
        (src / "d/g").write_bytes(b"g")
    attempts: list[int] = []

    def change() -> None:
        attempts.append(len(attempts) + 1)
        if len(attempts) <= FEW_WHOLE:
            (src / "d/f").write_bytes(b"%d" % len(attempts) * LARGE_BYTES[0])
        if len(attempts) == FEW_WHOLE:
            (src / "d").rename(src / "e")
            (src / "d").symlink_to("e")

    monkeypatch.setattr("filesync.sync.local.plan_part", followed_by(change, plan_part))
    stats = run([f"{src}/"], str(dest), Options(), Listing(keep=True), progress=False)
    assert len(attempts) == FEW_WHOLE + 1
    if may_go:
        assert (dest / "d").is_symlink()
    else:
        assert stats.left_out_paths == ["d"]
        assert is_partial(stats)


@pytest.mark.parametrize("listed", [None, Listed([b"f"], all_below=True)])
def test_of_a_directory_that_a_file_becomes_before_it_is_synced_alone_comes_nothing_that_is_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: Listed | None
) -> None:
    src, dest = tmp_path / "served/src", tmp_path / "served/dest"
    for path in (src / "f", dest / "f", dest / "of another time"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(path))
    attempts: list[int] = []

    def change() -> None:
        attempts.append(len(attempts) + 1)
        if len(attempts) <= FEW_WHOLE:
            (src / "f").write_bytes(b"%d" % len(attempts) * LARGE_BYTES[0])
        if len(attempts) == FEW_WHOLE:
            (src / "f").unlink()
            (src / "f").mkdir()
            for name in ("secret.key", "g"):
                (src / "f" / name).touch()

    monkeypatch.setattr("filesync.sync.local.plan_part", followed_by(change, plan_part))
    options = Options(rules=(b"- *.key",), listed=listed)
    stats = run([f"{src}/"], str(dest), options, Listing(keep=True), progress=False)
    assert stats.changing == []
    assert [path.name for path in (dest / "f").iterdir()] == ["g"]


@pytest.mark.parametrize("is_given", [True, False, None])
def test_a_file_that_gets_another_name_is_passed_over_by_the_one_that_it_has(
    tmp_path: Path, lose: Lose, is_given: bool | None
) -> None:
    write(tmp_path, "any time")
    source, dest = tmp_path / "served/src" / GONE[0], tmp_path / "served/renamed"
    dest.write_bytes(b"another" * 100_000)
    lose(tmp_path / "served/src", be_changed_and_grow)
    options = options_of(tmp_path)

    async def main() -> SyncStats:
        server = TreeServer(ServedPlaces(tmp_path / "served"), read_only=False, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            if is_given:
                there = Remote(plane.address, b"renamed")
                return await sync_to([os.fsencode(source)], there, options)
            there = Remote(plane.address, b"src/" + GONE[0].encode())
            return await sync_from([there], os.fsencode(dest), options)

    if is_given is None:
        stats = sync_local([os.fsencode(source)], os.fsencode(dest), options)
    else:
        stats = asyncio.run(main())
    assert stats.changing == [source.name]
    assert dest.read_bytes() == b"another" * 100_000


def test_a_sync_that_is_refused_keeps_no_copies(tmp_path: Path) -> None:
    write(tmp_path, "any time")
    caches = tmp_path / "caches"

    async def main() -> None:
        server = TreeServer(ServedPlaces(tmp_path / "served"), read_only=True, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            source = os.fsencode(tmp_path / "served/src") + b"/"
            there = Remote(plane.address, b"dest")
            with pytest.raises(Refused):
                await sync_to([source], there, Options(caches=caches, afresh=True))

    asyncio.run(main())
    opened = [Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    links = [os.readlink(fd) for fd in opened if fd.is_symlink()]
    assert caches.is_dir()
    assert not [link for link in links if link.startswith(str(caches))]
