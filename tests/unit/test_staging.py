"""Large files come to a directory before the update that they are for."""

import errno
import os
import resource
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.reserved import PARTIAL_NAME
from filesync.disk.updating.early import EarlyFile
from filesync.disk.updating.metadata import DEFAULT_ACL
from filesync.disk.updating.staging import Staging
from filesync.disk.updating.update import TreeUpdate
from filesync.early import stand_in_of
from filesync.errors import StoreError
from filesync.manifest import EMPTY_DIRECTORY, File, Manifest, MemoryNodes, put, with_entries
from filesync.process.descriptors import Quota, may_open

DATA = bytes(range(256)) * 100
TIME_NS = 1_700_000_000_000_000_000


@pytest.fixture
def staging(root: Path) -> Staging:
    root.mkdir()
    os.utime(root, ns=(5, 5))
    one = Staging(root, b"root")
    one.open()
    return one


def come(staging: Staging, data: bytes = DATA, path: bytes = b"f") -> None:
    early = EarlyFile(staging, path, len(data), TIME_NS)
    early.prepare()
    for wanted in early.wanted():
        large = early.open_large(wanted)
        large.write(0, data)
        large.finish()


def update(staging: Staging, root: Path, *files: File, is_last: bool = True) -> TreeUpdate:
    """Return a prepared update of the root, which is empty, to one of ``files``."""
    nodes = MemoryNodes()
    basis, target = (
        Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)
        for entries in ([], list(files))
    )
    one = TreeUpdate(
        root, basis=basis, target=target, is_last=is_last, partials=staging.partials
    )
    one.prepare()
    return one


def entry(name: bytes, data: bytes = DATA) -> File:
    return File(name, 0o640, 0, 0, TIME_NS, len(data), digest_of(data))


def left(root: Path) -> list[str]:
    found = root / PARTIAL_NAME.decode()
    return sorted(os.listdir(found)) if found.exists() else []


def test_what_has_come_is_put_in_place_by_its_digest_and_nothing_is_left(
    staging: Staging, root: Path
) -> None:
    come(staging)
    one = update(staging, root, entry(b"a"))
    assert list(one.wanted()) == []
    one.finish()
    assert not staging.is_open
    staging.close()
    assert os.listdir(root) == ["a"]
    assert (root / "a").read_bytes() == DATA


def test_an_update_that_is_not_the_last_leaves_it_for_the_next(
    staging: Staging, root: Path
) -> None:
    come(staging)
    come(staging, DATA[1:], b"g")
    one = update(staging, root, entry(b"a"), is_last=False)
    one.finish()
    assert (staging.is_open, left(root)) == (True, [digest_of(DATA[1:]).hex()])
    staging.close(keep=False)
    assert os.listdir(root) == ["a"]


def test_what_nothing_comes_of_is_removed_by_the_last(staging: Staging, root: Path) -> None:
    come(staging, DATA[1:])
    one = update(staging, root, entry(b"a"))
    (wanted,) = one.wanted()
    assert wanted.replaces == 0
    one.write_small([(wanted, DATA)])
    one.finish()
    assert os.listdir(root) == ["a"]


@pytest.mark.parametrize("keep", [True, False])
def test_the_times_of_the_directory_stay(staging: Staging, root: Path, keep: bool) -> None:
    assert root.stat().st_mtime_ns == 5
    come(staging)
    staging.close(keep=keep)
    assert root.stat().st_mtime_ns == 5
    assert left(root) == [digest_of(DATA).hex()] * keep
    staging.close()


def test_the_time_at_which_others_write_to_the_directory_stays(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def slowly(name: bytes, *, dir_fd: int) -> None:
        (root / "of others").touch()  # large files take seconds to go
        unlink(name, dir_fd=dir_fd)

    come(staging)
    monkeypatch.setattr(os, "unlink", slowly)
    staging.close(keep=False)
    assert os.listdir(root) == ["of others"]
    assert root.stat().st_mtime_ns > 5


def test_what_may_have_come_before_does_not_come_again(root: Path) -> None:
    root.mkdir()
    for _ in range(2):
        staging = Staging(root, b"root")
        staging.open()
        come(staging)
        assert left(root) == [digest_of(DATA).hex()]
        staging.close()
    staging = Staging(root, b"root")
    staging.open()
    early = EarlyFile(staging, b"f", len(DATA), TIME_NS + 1)
    early.prepare()
    assert list(early.wanted()) == []
    assert stand_in_of(len(DATA), TIME_NS + 1).hex() not in left(root)
    staging.close()


def test_what_is_made_in_it_has_no_default_acl(root: Path) -> None:
    root.mkdir()
    acl = bytes.fromhex("0200000001000700ffffffff04000700ffffffff20000700ffffffff")
    os.setxattr(root, DEFAULT_ACL, acl)
    staging = Staging(root, b"root")
    staging.open()
    assert DEFAULT_ACL.decode() not in os.listxattr(root / PARTIAL_NAME.decode())
    assert DEFAULT_ACL.decode() in os.listxattr(root)
    staging.close()


def test_without_room_it_is_not_open_and_holds_nothing(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    staging = Staging(tmp_path / "nowhere", b"nowhere")
    with pytest.raises(StoreError, match="nowhere"):
        staging.open()
    assert not staging.is_open
    staging.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_is_too_large_for_the_disk_leaves_nothing(
    staging: Staging, root: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) - 1, limits[1]))
    try:
        with pytest.raises(StoreError, match="too large"):
            come(staging)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    staging.close()
    assert os.listdir(root) == []


def test_what_has_come_is_not_held_open_where_that_takes_too_many_descriptors(
    staging: Staging, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filesync.disk.updating.partial._OPEN", Quota(may_open()))  # one
    before = len(os.listdir("/proc/self/fd"))
    for number in range(4):
        come(staging, DATA[number:])
    assert len(os.listdir("/proc/self/fd")) == before + 1
    one = update(staging, root, entry(b"held"), entry(b"let go of", DATA[1:]))
    (wanted,) = one.wanted()
    assert wanted.replaces
    large = one.open_large(wanted)
    large.copy(0, basis=0, basis_offset=0, length=len(DATA) - 1)
    large.finish()
    one.finish()
    assert sorted(os.listdir(root)) == ["held", "let go of"]
    again = Staging(root, b"root")  # there is room for another now
    again.open()
    come(again)
    assert len(again.partials.ready) == 1
    again.close(keep=False)


def test_where_the_disk_has_become_read_only_nothing_is_held(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for keep in (True, False):
        staging = Staging(root, b"root")
        staging.open()
        come(staging, DATA[keep:])
        with monkeypatch.context() as patched:
            for call in ("utime", "unlink", "rmdir"):
                patched.setattr(os, call, refuse)
            with nullcontext() if keep else pytest.raises(StoreError, match="Read-only"):
                staging.close(keep=keep)
        staging.close()
        assert len(os.listdir("/proc/self/fd")) == before


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_without_a_descriptor_for_it_nothing_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    os.utime(root, ns=(5, 5))
    os_open = os.open

    def refuse_ours(path: str | bytes | Path, flags: int, **at: int) -> int:
        if path == PARTIAL_NAME and PARTIAL_NAME.decode() in os.listdir(root):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return os_open(path, flags, **at)

    monkeypatch.setattr(os, "open", refuse_ours)
    with pytest.raises(StoreError, match="open files"):
        Staging(root, b"root").open()
    assert os.listdir(root) == []
    assert root.stat().st_mtime_ns == 5


@pytest.mark.needs("chattr")
def test_in_a_directory_that_is_append_only_nothing_is_made(root: Path) -> None:
    root.mkdir()
    if subprocess.run(["chattr", "+a", root], check=False).returncode:
        pytest.skip("this file system has no such directories")
    try:
        with pytest.raises(StoreError, match="root"):
            Staging(root, b"root").open()
        assert os.listdir(root) == []
    finally:
        subprocess.run(["chattr", "-a", root], check=True)
