"""Who takes a large file that has changed cuts what it has while who gives it still reads it."""

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from filesync.digest import EMPTY, Digest, digest_of
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.sync.options import Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote import wire
from filesync.sync.remote.asking import ask
from filesync.sync.remote.client import Remote, sync_from
from filesync.sync.remote.gifts import Gifts
from filesync.sync.remote.server import TreeServer
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.coding import chunking
from filesync.transfer.coding.chunking import Read
from filesync.transfer.coding.cutting import Cutting
from filesync.transfer.coding.recipe import Recipe
from filesync.transfer.connection.calls_zmq import MAX_ANSWERING
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.errors import Refused
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.receive import landing_disk
from filesync.transfer.send.comparisons import CUT_BYTES
from tests.integration.test_sync_plane import LOOPBACK, tree_of
from tests.integration.ways import Way, given, taken

SIZE = 6 << 20
PATIENCE_S = 20.0


def run(
    way: Way, root: Path, name: str = "", to: str = "dest", *, dry: bool = False
) -> SyncStats:
    """Sync ``src/name`` to ``to``; each side has caches of its own."""
    options = Options(caches=root / "client", dry_run=dry)
    return asyncio.run(way(root, options, (name,), to=to, caches=root / "server"))


either = pytest.mark.parametrize("way", [given, taken])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "src/d").mkdir(parents=True)
    for name in ("f", "d/g"):
        (tmp_path / "src" / name).write_bytes(os.urandom(SIZE))
    settle()
    return tmp_path


def settle() -> None:
    time.sleep(1.5e-9 * FINE_SLACK_NS)  # what has just changed is not noted


def move(path: Path, seed: int) -> None:
    """Have a file that has to be cut: nothing of it stands in the order that it had."""
    data = path.read_bytes()
    path.write_bytes(data[SIZE // 3 :] + b"%d" % seed + data[: SIZE // 3])
    settle()


class Cut:
    """What was cut of what was there, by its bytes; ``come`` counts what was cut ahead."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.come = threading.Semaphore(0)


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    found, real, ahead = Cut(), chunking.cut, landing_disk.cut_ahead

    def cutting(read: Read, offset: int, end: int, *, enough: int | None = None) -> Recipe:
        found.sizes.append(end)
        return real(read, offset, end, enough=enough)

    def cutting_ahead(*arguments: object) -> None:
        ahead(*arguments)  # type: ignore[arg-type]
        found.come.release()

    monkeypatch.setattr(landing_disk, "cut", cutting)
    monkeypatch.setattr("filesync.transfer.receive.incoming_zmq.cut_ahead", cutting_ahead)
    return found


@pytest.fixture
def patient(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives a file has read all of it only when who takes it has cut what is there."""
    real = Cutting.end

    def end(self: Cutting, digest: Digest | None) -> None:
        assert cut.come.acquire(timeout=PATIENCE_S)
        real(self, digest)

    monkeypatch.setattr(Cutting, "end", end)


@either
@pytest.mark.usefixtures("patient")
def test_an_old_file_is_cut_while_the_new_one_is_read(way: Way, root: Path, cut: Cut) -> None:
    run(way, root)
    for name in ("f", "d/g"):
        move(root / "src" / name, 1)
    stats = run(way, root)
    assert cut.sizes == [SIZE, SIZE]  # and nothing again when it was needed
    assert tree_of(root / "dest") == tree_of(root / "src")
    assert stats.wire_in + stats.wire_out < SIZE / 10


@either
@pytest.mark.usefixtures("patient")
def test_so_is_one_that_has_another_name_there(way: Way, root: Path, cut: Cut) -> None:
    run(way, root, "f", "other")
    move(root / "src/f", 1)
    run(way, root, "f", "other")
    assert cut.sizes == [SIZE]
    assert (root / "other").read_bytes() == (root / "src/f").read_bytes()


@either
def test_of_one_that_changes_again_it_is_known_what_remains(
    way: Way, root: Path, cut: Cut
) -> None:
    run(way, root)
    for number in (1, 2, 3):
        move(root / "src/f", number)
        run(way, root)
    assert cut.sizes == [SIZE]
    assert tree_of(root / "dest") == tree_of(root / "src")


@either
def test_nothing_is_cut_for_who_only_looks_what_would_be_done(
    way: Way, root: Path, cut: Cut
) -> None:
    run(way, root)
    move(root / "src/f", 1)
    run(way, root, dry=True)
    assert not cut.sizes


@either
def test_what_is_there_and_something_else_is_not_cut_ahead(
    way: Way, root: Path, cut: Cut
) -> None:
    run(way, root)
    (root / "dest/f").write_bytes(os.urandom(SIZE))
    move(root / "src/f", 1)
    run(way, root)
    assert not cut.come.acquire(blocking=False)
    assert tree_of(root / "dest") == tree_of(root / "src")


def test_who_cuts_slowly_is_asked_for_all_else_meanwhile(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [root / f"src/{number}" for number in range(MAX_ANSWERING + 1)]
    for attempt in range(2):
        for file in files:
            file.write_bytes(os.urandom(2 * CUT_BYTES))
        settle()
        if not attempt:
            run(given, root)
    is_given = threading.Event()
    cut, take = landing_disk.cut_ahead, Gifts.take

    def cutting(*arguments: object) -> None:
        assert is_given.wait(PATIENCE_S)
        cut(*arguments)  # type: ignore[arg-type]

    async def taking(self: Gifts, channel: Channel, request: wire.Give) -> wire.Given:
        is_given.set()
        return await take(self, channel, request)

    monkeypatch.setattr("filesync.transfer.receive.incoming_zmq.cut_ahead", cutting)
    monkeypatch.setattr(Gifts, "take", taking)
    run(given, root)
    assert tree_of(root / "dest") == tree_of(root / "src")


async def told(root: Path, request: wire.Changing, *, scan: bool = True) -> wire.Answer:
    """Return what a server says that is told of a change in ``dest``, for the token that it gave."""
    server = TreeServer(ServedPlaces(root), read_only=False, caches=None)
    async with DataPlane(LOOPBACK, answer=server.answer) as plane, DataPlane() as client:
        server.use(plane)
        channel = await client.connect(plane.address)
        prepare = wire.Prepare(b"dest", scan=scan)
        prepared, _ = await ask(channel, prepare, wire.Prepared)
        request = wire.Changing(prepared.token, request.path, request.content)
        done, _ = await ask(channel, request, wire.Done)
        return done


@pytest.mark.parametrize(
    "path", [b"../src/f", b"/etc/passwd", b"", b".", b"d", b"d//g", b"link/g", b"fifo", b"no"]
)
def test_who_is_told_of_what_is_not_there_cuts_nothing(
    path: bytes, root: Path, cut: Cut
) -> None:
    run(given, root)
    (root / "dest/link").symlink_to("../src/d")
    os.mkfifo(root / "dest/fifo")
    content = digest_of((root / "src/f").read_bytes())
    asyncio.run(told(root, wire.Changing(bytes(16), path, content)))
    assert not cut.sizes


def test_who_is_told_before_it_has_looked_refuses(root: Path, cut: Cut) -> None:
    run(given, root)
    content = digest_of((root / "src/f").read_bytes())
    with pytest.raises(Refused, match="before anything was scanned"):
        asyncio.run(told(root, wire.Changing(bytes(16), b"f", content), scan=False))
    assert not cut.sizes


def test_a_client_that_takes_answers_nothing_else(root: Path) -> None:
    refused: list[str] = []

    class Asking(TreeServer):
        async def answer(self, channel: Channel, body: bytes) -> tuple[bytes, bytes]:
            if isinstance(wire.decode_request(body), wire.Look):
                for request in (wire.Changing(bytes(16), b"f", EMPTY), wire.Drop(bytes(16))):
                    with pytest.raises(Refused) as caught:
                        await ask(channel, request, wire.Done)
                    refused.append(str(caught.value))
            return await super().answer(channel, body)

    async def main() -> None:
        server = Asking(ServedPlaces(root), read_only=True, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane:
            server.use(plane)
            remote = Remote(plane.address, b"src/")
            await sync_from([remote], os.fsencode(root / "to"), Options())

    asyncio.run(main())
    assert [said.partition(": ")[2] for said in refused] == [
        "nothing is taken by this token",
        "a client that takes answers no such request",
    ]
    assert tree_of(root / "to") == tree_of(root / "src")
