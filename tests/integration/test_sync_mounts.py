"""Syncs that stay on one file system, with a server: what is told, what comes early, who does not know of it."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from filesync.disk.scanning.mounts import Mounts
from filesync.disk.scanning.statcache import FINE_SLACK_NS
from filesync.errors import UsageError
from filesync.sync.options import Options
from filesync.sync.remote import wire
from filesync.sync.remote.server import TreeServer
from filesync.transfer.connection.channel_zmq import Channel
from tests.integration.ways import Way, given, local, taken
from tests.mounting import tmpfs

pytestmark = pytest.mark.needs("root", "mount")
any_way = pytest.mark.parametrize("way", [local, given, taken])
either = pytest.mark.parametrize("way", [given, taken])


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A source with another file system at ``a/disk``, and a destination with one at ``on/disk``."""
    write(tmp_path, "src/a/f", "src/old/f", "dest/old/f", "dest/on/gone", "dest/extra")
    with tmpfs(tmp_path / "src/a/disk"), tmpfs(tmp_path / "dest/on/disk"):
        write(tmp_path, "src/a/disk/in", "src/a/disk/deep/in", "dest/on/disk/kept")
        yield tmp_path


def run(
    way: Way, root: Path, mounts: Mounts, *, delete: bool = True, dry: bool = False
) -> None:
    options = Options(delete=delete, mounts=mounts, dry_run=dry, caches=root / "cache")
    stats = asyncio.run(way(root, options))
    assert stats.unreadable == {}


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


OWN = {"a", "a/f", "old", "old/f", "on", "on/disk", "on/disk/kept"}
ON_DISK = {"a/disk/in", "a/disk/deep", "a/disk/deep/in"}


@any_way
def test_what_comes_and_goes_is_by_this_run_alone_whatever_the_ones_before_have_noted(
    way: Way, root: Path
) -> None:
    dest = root / "dest"
    time.sleep(1.5e-9 * FINE_SLACK_NS)  # what has just changed is not noted
    for _ in range(2):
        run(way, root, Mounts.LEFT_OUT)
        assert names(dest) == OWN
        run(way, root, Mounts.EMPTY)
        assert names(dest) == OWN | {"a/disk"}
        run(way, root, Mounts.ENTERED, delete=False)
        assert names(dest) == OWN | {"a/disk"} | ON_DISK
        write(dest, "a/disk/more", "gone/f")
        run(way, root, Mounts.EMPTY, dry=True)
        run(way, root, Mounts.EMPTY)
        assert names(dest) == OWN | {"a/disk", "a/disk/more"} | ON_DISK


@either
def test_what_is_new_comes_early_without_what_is_mounted_in_it(
    way: Way, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("giving", "taking"):
        monkeypatch.setattr(f"filesync.sync.remote.{module}.ADD_AFTER_S", 0.001)
    monkeypatch.setattr("filesync.sync.remote.telling.PACE_S", 0.001)
    write(root / "src", *(f"{top}/{at}/f" for top in "bcd" for at in range(100)))
    run(way, root, Mounts.EMPTY)
    found = names(root / "dest")
    assert {"a/disk", "b/99/f", "d/0/f", "on/disk/kept"} < found
    assert not found & (ON_DISK | {"extra", "on/gone"})


@any_way
def test_an_empty_destination_gets_nothing_of_what_is_mounted(way: Way, root: Path) -> None:
    subprocess.run(["umount", root / "dest/on/disk"], check=True)
    subprocess.run(["rm", "-r", root / "dest"], check=True)
    run(way, root, Mounts.EMPTY)
    assert names(root / "dest") == {"a", "a/f", "a/disk", "old", "old/f"}
    (root / "dest/on/disk").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", root / "dest/on/disk"], check=True)


@pytest.mark.parametrize(
    ("way", "limit"),
    [
        (given, "named.MAX_MOUNTS_BYTES"),
        (given, "sourcetrees.MAX_RULES"),
        (taken, "named.MAX_MOUNTS_BYTES"),
        (taken, "named.MAX_PATH_BYTES"),
    ],
)
def test_where_not_all_that_is_mounted_can_be_told_nothing_is_deleted(
    way: Way, limit: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"filesync.sync.remote.{limit}", 1)
    before = names(root / "dest")
    with pytest.raises(UsageError, match="too much mounted"):
        run(way, root, Mounts.EMPTY)
    assert names(root / "dest") == before
    run(way, root, Mounts.EMPTY, delete=False)
    assert "a/disk" in names(root / "dest")


_answer = TreeServer.answer


async def answer_of_before(
    self: TreeServer, channel: Channel, body: bytes
) -> tuple[bytes, bytes]:
    """Answer as a server does that has not heard of other file systems."""
    request = wire.decode_request(body)
    if isinstance(request, wire.Look):
        request = replace(request, one_file_system=0)
    if isinstance(request, wire.Prepare):
        request = replace(request, mounts=False)
    return await _answer(self, channel, wire.encode(request))


@either
def test_a_server_that_does_not_know_of_it_is_not_asked_for_more_than_it_knows(
    way: Way, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TreeServer, "answer", answer_of_before)
    before = names(root / "dest")
    with pytest.raises(UsageError, match="does not know --one-file-system"):
        run(way, root, Mounts.EMPTY)
    assert names(root / "dest") == before
    if way is given:  # what is not there need not be told of, unless it is to go
        run(way, root, Mounts.EMPTY, delete=False)
        assert names(root / "dest") == before | {"a", "a/f", "a/disk"}
    run(way, root, Mounts.ENTERED, delete=False)
    assert names(root / "dest") > ON_DISK
