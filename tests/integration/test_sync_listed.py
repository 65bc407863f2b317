"""What a list names, given to a server and taken from one: told as it is, and believed no more than it says."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from filesync.errors import FilesyncError, UsageError
from filesync.sync.listed import Listed
from filesync.sync.options import Choice, Options
from filesync.sync.places import ServedPlaces
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import ask
from filesync.sync.remote.lists import pack_list
from filesync.sync.remote.server import TreeServer
from filesync.sync.saying.stats import SyncStats
from filesync.transfer.connection.channel_zmq import Channel
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.wire import Codec
from tests.integration.test_sync_plane import LOOPBACK
from tests.integration.ways import given, taken

MANY: Final = 2000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source with two files in each of many directories, and a destination with something else."""
    for number in range(MANY):
        for name in ("in", "beside"):
            path = tmp_path / f"src/{number}/{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {number}")
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/other").touch()
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def take(root: Path, options: Options) -> SyncStats:
    return asyncio.run(taken(root, options))


def give(root: Path, options: Options) -> SyncStats:
    assert options.listed is not None
    paths, _ = options.listed.of(b"", b"")
    names = [path.removeprefix(b"./").decode() for path in paths]
    return asyncio.run(given(root, options, names))


either: Final = pytest.mark.parametrize("sync", [give, take])
Sync = Callable[[Path, Options], SyncStats]


@either
def test_a_list_may_be_of_thousands(sync: Sync, root: Path) -> None:
    names = [b"%d/in" % number for number in range(MANY)]
    options = Options(listed=Listed(names))
    sync(root, options)
    assert files(root / "dest") == {"other", *map(bytes.decode, names)}
    (root / "src/7/in").write_text("another")
    (root / "src/7/beside").write_text("another")
    assert sync(root, options).files == 1
    assert (root / "dest/7/in").read_text() == "another"


@either
def test_what_rules_let_through_is_no_more_than_is_listed(sync: Sync, root: Path) -> None:
    listed = Listed([b"1/in", b"2/beside", b"3/"])
    sync(root, Options(listed=listed, rules=(b"+ in", b"- beside")))
    assert files(root / "dest") == {"other", "1/in", "3/in"}


def test_more_than_a_thousand_that_are_not_there_cost_no_other(root: Path) -> None:
    gone = [b"gone%d" % number for number in range(MANY)]
    stats = take(root, Options(listed=Listed([*gone, b"5/in"])))
    assert files(root / "dest") == {"other", "5/in"}
    assert set(stats.unreadable.values()) == {os.strerror(errno.ENOENT)}
    assert len(stats.unreadable) + stats.unnamed == MANY


def test_of_more_than_it_can_be_told_a_server_is_not_asked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "MAX_LISTED", 1)
    options = Options(listed=Listed([b"1/in", b"2/in"]))
    with pytest.raises(UsageError, match="more than another machine can be asked for"):
        take(root, options)
    # Given to, it looks at all, and so sees what leads there, whatever else is said of that.
    options = replace(options, rules=(b"- /1", b"- beside"), choice=Choice(only_existing=True))
    (root / "dest/1").mkdir()
    (root / "dest/1/in").write_text("old")
    for _ in range(2):
        give(root, options)
        assert files(root / "dest") == {"other", "1/in"}
    assert (root / "dest/1/in").read_text() == "in 1"


_answer = TreeServer.answer


async def answer_of_before(
    self: TreeServer, channel: Channel, body: bytes
) -> tuple[bytes, bytes]:
    """Answer as a server does that has not heard of lists."""
    request = wire.decode_request(body)
    if isinstance(request, wire.Look | wire.Prepare):
        request = replace(request, listed=None)
    return await _answer(self, channel, wire.encode(request))


@either
def test_a_server_that_does_not_know_of_lists_is_not_asked_for_one(
    sync: Sync, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TreeServer, "answer", answer_of_before)
    options = Options(listed=Listed([b"1/in"]))
    if sync is take:
        with pytest.raises(UsageError, match="does not know --files-from"):
            sync(root, options)
        assert files(root / "dest") == {"other"}
    else:
        sync(root, options)
        assert files(root / "dest") == {"other", "1/in"}


@pytest.mark.parametrize(
    ("paths", "listed", "reason"),
    [
        ((b"src", b"dest"), pack_list(Listed([b"1/in"])), "one directory"),
        ((b"src",), fields.Listed(b"a/./b", 5), "write it without"),
        ((b"src",), fields.Listed(b"a/b", 4), "frame"),
        ((b"src",), fields.Listed(b"a" * 9, 9, Codec.ZSTD), "frame"),
        ((b"src",), fields.Listed(bytes(1 << 15), 1 << 15), "more paths"),
    ],
)
def test_a_list_that_is_none_is_refused(
    paths: tuple[bytes, ...], listed: fields.Listed, reason: str, root: Path
) -> None:
    async def main() -> None:
        server = TreeServer(ServedPlaces(root), read_only=True, caches=None)
        async with DataPlane(LOOPBACK, answer=server.answer) as plane, DataPlane() as client:
            server.use(plane)
            await ask(client.dial(plane.address), wire.Look(paths, listed=listed), wire.Found)

    with pytest.raises(FilesyncError, match=reason):
        asyncio.run(main())
