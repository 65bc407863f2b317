"""What a scan makes of directories on which another file system is mounted."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from filesync.digest import Digest
from filesync.disk.handles import DirectoryHandles
from filesync.disk.scanning.mounts import Mounts
from filesync.disk.scanning.scan import Scanned, scan
from filesync.disk.scanning.statcache import FINE_SLACK_NS, StatCache
from filesync.disk.scanning.watcher import Watcher
from filesync.manifest import Manifest, MemoryNodes, Subdirectory
from tests.mounting import mount, tmpfs

pytestmark = pytest.mark.needs("root", "mount")
LONG_AGO_NS = 1_000_000_000_123_456_789


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, ns=(0, LONG_AGO_NS))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system at ``a/disk``, and one more in that."""
    root = tmp_path / "root"
    write(root, "a/disk/hidden", "a/f", "b/f")
    with ExitStack() as stack:
        for path in (root / "a/disk", root / "a/disk/inner/disk"):
            stack.enter_context(tmpfs(path))
        write(root, "a/disk/in", "a/disk/inner/f", "a/disk/inner/disk/in")
        yield root


def walk(nodes: MemoryNodes, scanned: Scanned) -> set[str]:
    return {os.fsdecode(path) for path, _ in Manifest(scanned.tree, nodes).walk()}


def names_found(root: Path, mounts: Mounts, *names: bytes) -> set[str]:
    nodes = MemoryNodes()
    return walk(nodes, scan(root, nodes, mounts=mounts, names=set(names) or None))


OWN = {"a", "a/f", "b", "b/f"}
ON_DISK = {"a/disk/in", "a/disk/inner", "a/disk/inner/f", "a/disk/inner/disk"}


@pytest.mark.parametrize(
    ("mounts", "found", "told"),
    [
        (Mounts.ENTERED, OWN | ON_DISK | {"a/disk", "a/disk/inner/disk/in"}, []),
        (Mounts.EMPTY, OWN | {"a/disk"}, [b"a/disk"]),
        (Mounts.LEFT_OUT, OWN, []),
        (
            Mounts.NOTED,
            OWN | ON_DISK | {"a/disk", "a/disk/inner/disk/in"},
            [b"a/disk", b"a/disk/inner/disk"],
        ),
    ],
)
def test_a_mount_point_is_as_any_directory_or_empty_or_not_there_or_told_of(
    root: Path, mounts: Mounts, found: set[str], told: list[bytes]
) -> None:
    nodes = MemoryNodes()
    scanned = scan(root, nodes, mounts=mounts)
    assert walk(nodes, scanned) == found
    assert scanned.mounts == told


def test_an_empty_one_has_the_attributes_of_what_is_mounted(root: Path) -> None:
    disk = root / "a/disk"
    disk.chmod(0o1751)
    os.chown(disk, 12, 34)
    os.setxattr(disk, "trusted.kept", b"so")
    os.utime(disk, ns=(0, LONG_AGO_NS))
    nodes = MemoryNodes()
    found = dict(Manifest(scan(root, nodes, mounts=Mounts.EMPTY).tree, nodes).walk())[b"a/disk"]
    assert isinstance(found, Subdirectory)
    alone = scan(disk, nodes, mounts=Mounts.EMPTY, names={b"nothing"}).tree
    assert found.tree == alone
    made = Manifest(found.tree, nodes).root
    assert (made.mode, made.uid, made.gid, made.mtime_ns) == (0o1751, 12, 34, LONG_AGO_NS)


def test_the_root_is_on_whichever_file_system_it_is(root: Path) -> None:
    assert names_found(root / "a/disk", Mounts.LEFT_OUT) == {"in", "inner", "inner/f"}
    (root / "link").symlink_to("a/disk")
    assert names_found(root / "link", Mounts.LEFT_OUT) == {"in", "inner", "inner/f"}


def test_each_of_several_names_is_on_whichever_it_is(root: Path) -> None:
    found = names_found(root / "a", Mounts.EMPTY, b"disk", b"f")
    assert found == {"f", "disk", "disk/in", "disk/inner", "disk/inner/f", "disk/inner/disk"}
    nodes = MemoryNodes()
    told = scan(root / "a", nodes, mounts=Mounts.NOTED, names={b"disk"}).mounts
    assert told == [b"disk", b"disk/inner/disk"]


def test_what_is_bound_is_looked_into_on_the_same_file_system_and_is_a_file_from_another(
    root: Path,
) -> None:
    (root / "same").mkdir()
    (root / "file").touch()
    with (
        mount("--bind", root / "b", root / "same"),
        mount("--bind", root / "a/disk/in", root / "file"),
    ):
        nodes = MemoryNodes()
        scanned = scan(root, nodes, mounts=Mounts.LEFT_OUT)
        assert walk(nodes, scanned) == OWN | {"same", "same/f", "file"}
        assert dict(Manifest(scanned.tree, nodes).walk())[b"file"].name == b"file"


def test_what_is_not_entered_is_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[bytes] = []
    real = DirectoryHandles.open

    def note(self: DirectoryHandles, path: bytes) -> int:
        opened.append(path)
        return real(self, path)

    monkeypatch.setattr(DirectoryHandles, "open", note)
    for mounts in (Mounts.EMPTY, Mounts.LEFT_OUT):
        names_found(root, mounts)
    assert set(opened) == {b"", b"a", b"b"}


class Told(Watcher):
    """Keeps which directories were done."""

    def __init__(self) -> None:
        self.done: dict[bytes, Digest] = {}

    def directory_done(self, path: bytes, tree: Digest) -> None:
        self.done[path] = tree


def test_who_watches_is_told_of_an_empty_one(root: Path) -> None:
    told, nodes = Told(), MemoryNodes()
    scan(root, nodes, mounts=Mounts.EMPTY, watcher=told)
    assert set(told.done) == {b"", b"a", b"a/disk", b"b"}
    assert Manifest(told.done[b"a/disk"], nodes).root.entries == ()


@pytest.mark.parametrize("is_of_names", [False, True])
def test_scans_that_enter_and_do_not_share_a_cache_and_each_sees_its_own(
    root: Path, tmp_path: Path, is_of_names: bool
) -> None:
    for path in (root / "a/disk/inner/disk", root / "a/disk", root / "a", root):
        os.utime(path, ns=(0, LONG_AGO_NS))
    names = {b"a", b"b"} if is_of_names else None
    alone = {one: scan(root, MemoryNodes(), mounts=one, names=names).tree for one in Mounts}
    assert len(set(alone.values())) == 3
    time.sleep(1.5e-9 * FINE_SLACK_NS)  # what has just changed is not noted
    enter = {Mounts.ENTERED, Mounts.NOTED}
    for number, (first, second) in enumerate(product(Mounts, Mounts)):
        read = []
        with StatCache(tmp_path / str(number)) as cache:
            for mounts in (first, second, first, second):
                found = scan(root, MemoryNodes(), mounts=mounts, names=names, cache=cache)
                assert found.tree == alone[mounts]
                read.append(found.files_read)
        # The files on the other disks are read by the first that enters them.
        assert read[1:] == [3 if second in enter and first not in enter else 0, 0, 0]
