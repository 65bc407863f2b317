"""What a sync has written is proved: the next one does not read it again, whichever way it went."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import Scanned, scan
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.errors import FilesyncError
from filesync.sync import scanning
from filesync.sync.options import Options
from filesync.sync.remote import wire
from filesync.sync.remote.server import TreeServer
from filesync.sync.scanning import NOTED_FILES
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.flow import Flow
from tests.integration.test_sync_plane import tree_of
from tests.integration.ways import Way, given, local, taken
from tests.mounting import tmpfs

YEAR_AGO_NS = time.time_ns() - 365 * 86400 * 10**9
FILES, SMALL_BYTES, LARGE_BYTES = 40, 4000, 3 << 20
MIDDLING_BYTES = 300_000


def make_source(root: Path, *, size: int = SMALL_BYTES) -> None:
    (root / "src/d/e").mkdir(parents=True)
    for number in range(FILES):
        (root / f"src/d/{number}").write_bytes(os.urandom(size))
    (root / "src/d/e/large").write_bytes(os.urandom(LARGE_BYTES))
    for path in (root / "src").rglob("*"):
        os.utime(path, ns=(YEAR_AGO_NS, YEAR_AGO_NS))
    time.sleep(1.5e-9 * FINE_SLACK_NS)  # what has just changed is not noted


class Numbers:
    """Some numbers, noted by this process and its children."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.clear()

    def __iter__(self) -> Iterator[int]:
        return map(int, self._path.read_text().split())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def append(self, number: int) -> None:
        with self._path.open("a") as file:
            file.write(f"{number}\n")

    def clear(self) -> None:
        self._path.write_text("")


@pytest.fixture
def read(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """How many files each scan has read."""
    numbers = Numbers(tmp_path_factory.mktemp("read") / "numbers")

    def counting(*arguments: object, **more: object) -> Scanned:
        real: Callable[..., Scanned] = scan
        found = real(*arguments, **more)
        numbers.append(found.files_read)
        return found

    monkeypatch.setattr(scanning, "scan", counting)
    return numbers


@pytest.mark.parametrize("there", ["nothing", "something"])
@pytest.mark.parametrize("sync", [local, given, taken])
def test_a_second_sync_reads_nothing(
    sync: Way, there: str, tmp_path: Path, read: Numbers
) -> None:
    make_source(tmp_path)
    if there == "something":
        (tmp_path / "dest").mkdir()
        (tmp_path / "dest/other").write_bytes(b"other")
    options = Options(caches=tmp_path / "caches", delete=True)
    first = asyncio.run(sync(tmp_path, options))
    assert first.files == FILES + 1
    assert sum(read) >= FILES + 1
    read.clear()
    second = asyncio.run(sync(tmp_path, options))
    assert (second.files, sum(read)) == (0, 0)
    assert tree_of(tmp_path / "src") == tree_of(tmp_path / "dest")


@pytest.mark.parametrize(("files", "are_read"), [(NOTED_FILES, False), (NOTED_FILES - 1, True)])
@pytest.mark.parametrize("sync", [local, given, taken])
def test_nor_does_it_read_the_small_files_of_a_new_directory_that_has_some(
    sync: Way, files: int, are_read: bool, tmp_path: Path, read: Numbers
) -> None:
    for directory in range(10):
        (tmp_path / f"src/{directory}").mkdir(parents=True)
        for name in range(files):
            path = tmp_path / f"src/{directory}/{name}"
            path.write_bytes(b"%d" % (directory * files + name))
            os.utime(path, ns=(YEAR_AGO_NS, YEAR_AGO_NS))
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    options = Options(caches=tmp_path / "caches")
    asyncio.run(sync(tmp_path, options))
    read.clear()
    second = asyncio.run(sync(tmp_path, options))
    assert (second.files, sum(read)) == (0, 10 * files if are_read else 0)
    assert tree_of(tmp_path / "src") == tree_of(tmp_path / "dest")


@pytest.mark.needs("mount")
@pytest.mark.parametrize("sync", [local, given, taken])
def test_what_a_sync_wrote_before_it_failed_is_not_read_again(
    sync: Way, tmp_path: Path, read: Numbers
) -> None:
    make_source(tmp_path, size=MIDDLING_BYTES)
    # Slowly: what is written in the clock tick in which it fails is read again.
    slowly = Flow(bytes_per_s=20 * MIDDLING_BYTES)
    options = Options(caches=tmp_path / "caches", delete=True, flow=slowly)
    with tmpfs(tmp_path / "dest", f"size={FILES * MIDDLING_BYTES // 2}") as disk:
        with pytest.raises(FilesyncError, match="No space left"):
            asyncio.run(sync(tmp_path, options))
        there = sum(path.is_file() for path in disk.glob("d/**/*"))
        subprocess.run(["mount", "-o", "remount,size=0", str(disk)], check=True)
        read.clear()
        second = asyncio.run(sync(tmp_path, options))
        assert 0 < second.files == FILES + 1 - there
        assert sum(read) < there / 2
        assert tree_of(tmp_path / "src") == tree_of(disk)


@pytest.mark.parametrize("sync", [local, given, taken])
def test_what_has_changed_since_is_read_and_mended(
    sync: Way, tmp_path: Path, read: Numbers
) -> None:
    make_source(tmp_path)
    options = Options(caches=tmp_path / "caches", delete=True)
    asyncio.run(sync(tmp_path, options))
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    for path in ("dest/d/7", "dest/d/e/large"):
        size = (tmp_path / path).stat().st_size
        (tmp_path / path).write_bytes(os.urandom(size))
        os.utime(tmp_path / path, ns=(YEAR_AGO_NS, YEAR_AGO_NS))
    read.clear()
    second = asyncio.run(sync(tmp_path, options))
    assert (second.files, sum(read)) == (2, 2)
    assert tree_of(tmp_path / "src") == tree_of(tmp_path / "dest")


@pytest.mark.parametrize("sync", [local, given, taken])
def test_directories_that_are_named_are_scanned_at_once_and_of_one_more_only_that_is_read(
    sync: Way, tmp_path: Path, read: Numbers
) -> None:
    make_source(tmp_path)
    names = ["d", "e", "file"]
    for name in ("e", "f", "others"):
        (tmp_path / "src" / name).mkdir()
        (tmp_path / "src" / name / "file").write_bytes(os.urandom(LARGE_BYTES))
    (tmp_path / "src/file").write_bytes(os.urandom(LARGE_BYTES))
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    options = Options(caches=tmp_path / "caches", delete=True)
    first = asyncio.run(sync(tmp_path, options, names))
    assert len(read) <= 2  # a scan of each side
    assert first.files == FILES + 3
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    asyncio.run(
        sync(tmp_path, options, names)
    )  # what was written in the last tick is read again
    read.clear()
    second = asyncio.run(sync(tmp_path, options, [*names, "f"]))
    assert (second.files, sum(read)) == (1, 1)
    assert sorted(os.listdir(tmp_path / "dest")) == sorted([*names, "f"])
    for name in "def":
        assert tree_of(tmp_path / "src" / name) == tree_of(tmp_path / "dest" / name)


def make_many(root: Path, name: str) -> list[str]:
    """Make directories with a file each; return what names what is in them, ``name`` being theirs."""
    for number in range(FILES):
        path = root / "src" / name.format(number) / f"d{number % 3}/{number}"
        path.parent.mkdir(parents=True)
        path.write_bytes(os.urandom(LARGE_BYTES // FILES))
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    return [f"{name.format(number)}/" for number in range(FILES)]


@pytest.mark.parametrize("name", ["{}", "{}/in", "all/{}"])
@pytest.mark.parametrize("sync", [local, given, taken])
def test_directories_that_go_to_one_place_are_scanned_at_once_and_of_one_more_only_that_is_read(
    sync: Way, name: str, tmp_path: Path, read: Numbers
) -> None:
    names = make_many(tmp_path, name)
    options = Options(caches=tmp_path / "caches", delete=True)
    first = asyncio.run(sync(tmp_path, options, names[1:]))
    assert len(read) <= 2  # a scan of each side
    assert first.files == FILES - 1
    time.sleep(1.5e-9 * FINE_SLACK_NS)
    asyncio.run(sync(tmp_path, options, names[1:]))
    read.clear()
    second = asyncio.run(sync(tmp_path, options, names))
    assert (second.files, sum(read), len(read)) == (1, 1, 2)
    assert sorted(os.listdir(tmp_path / "dest")) == ["d0", "d1", "d2"]
    assert sum(1 for path in (tmp_path / "dest").rglob("*") if path.is_file()) == FILES


@pytest.mark.parametrize("sync", [local, given, taken])
def test_what_is_known_of_directories_stays_known_when_others_beside_them_are_synced(
    sync: Way, tmp_path: Path, read: Numbers
) -> None:
    some, others = make_many(tmp_path, "{}/a"), make_many(tmp_path, "{}/b")
    options = Options(caches=tmp_path / "caches")
    for names in (some, others, some, others):
        read.clear()
        asyncio.run(sync(tmp_path, options, names, to="dest" if names is some else "other"))
    assert sum(read) == 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[type[wire.Request]]:
    """What servers are asked."""
    requests: list[type[wire.Request]] = []
    really = TreeServer.answer

    async def answer(server: TreeServer, channel: Channel, body: bytes) -> tuple[bytes, bytes]:
        requests.append(type(wire.decode_request(body)))
        return await really(server, channel, body)

    monkeypatch.setattr(TreeServer, "answer", answer)
    return requests


@pytest.mark.parametrize(
    ("sync", "needed"),
    [(given, [wire.Prepare]), (taken, [wire.Look, wire.Scan])],
)
@pytest.mark.parametrize("names", [["d", "file"], ["file", "other"]])
def test_names_that_are_the_same_on_both_sides_are_known_to_be(
    tmp_path: Path,
    sync: Way,
    needed: list[type[wire.Request]],
    names: list[str],
    asked: list[type[wire.Request]],
) -> None:
    make_source(tmp_path)
    for name in ("file", "other"):
        (tmp_path / "src" / name).write_bytes(name.encode())
    (tmp_path / "src").chmod(0o700)  # it is no part of what is synced
    options = Options(caches=tmp_path / "caches")
    asyncio.run(sync(tmp_path, options, names))
    asked.clear()
    done = asyncio.run(sync(tmp_path, options, names))
    assert done.files == 0
    # What is dropped nobody waits for.
    assert [request for request in asked if request is not wire.Drop] == needed


@pytest.mark.parametrize(
    ("sync", "needed"),
    [(given, [wire.Prepare]), (taken, [wire.Look, wire.Scan])],
)
def test_what_is_in_several_directories_is_asked_about_once(
    tmp_path: Path, sync: Way, needed: list[type[wire.Request]], asked: list[type[wire.Request]]
) -> None:
    names = make_many(tmp_path, "{}")
    options = Options(caches=tmp_path / "caches")
    asyncio.run(sync(tmp_path, options, names))
    asked.clear()
    assert asyncio.run(sync(tmp_path, options, names)).files == 0
    assert [request for request in asked if request is not wire.Drop] == needed
