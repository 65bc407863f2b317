"""Renames onto another file system, which are copies there."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filesync.disk.updating import crossing
from tests.mounting import tmpfs

OWNER = (7, 8)
TIMES_NS = (1_000_000_007, 2_000_000_009)
DATA = b"data" * 5000

pytestmark = pytest.mark.needs("mount")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "there") as path:
        umask = os.umask(0o077)
        yield path
        os.umask(umask)


class Recorder:
    """What ``rename`` notes and loses."""

    def __init__(self) -> None:
        self.noted: list[bytes] = []
        self.lost: list[str] = []

    @contextmanager
    def note(self, path: bytes) -> Iterator[None]:
        self.noted.append(path)
        yield

    @contextmanager
    def lose(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.lost.append(what)


def rename(here: Path, there: Path, name: str, recorder: Recorder) -> bool:
    source, target = os.open(here, os.O_RDONLY), os.open(there, os.O_RDONLY)
    try:
        return crossing.rename(
            name.encode(),
            name.encode(),
            src_dir_fd=source,
            dst_dir_fd=target,
            path=b"d",
            noted=recorder.note,
            losing=recorder.lose,
        )
    finally:
        os.close(source)
        os.close(target)


def make_all(root: Path) -> None:
    (root / "file").write_bytes(DATA)
    os.truncate(root / "file", 1_000_000)
    os.setxattr(root / "file", "user.what", b"this")
    (root / "link").symlink_to("nowhere")
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", stat.S_IFCHR, os.makedev(1, 3))
    for path in root.iterdir():
        os.chown(path, *OWNER, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o4711)
        os.utime(path, ns=TIMES_NS, follow_symlinks=False)


def test_over_a_border_each_kind_arrives_with_all_that_it_has(here: Path, there: Path) -> None:
    make_all(here)
    for name in ("file", "link", "fifo", "device"):
        recorder, was = Recorder(), (here / name).lstat()
        assert rename(here, there, name, recorder)
        now = (there / name).lstat()
        assert now.st_mode == was.st_mode
        assert (now.st_uid, now.st_gid) == OWNER
        assert now.st_mtime_ns == TIMES_NS[1]
        assert (now.st_size, now.st_rdev) == (was.st_size, was.st_rdev)
        assert not os.path.lexists(here / name)
        assert [path.rpartition(b"/")[0] for path in recorder.noted] == [b"d"]
        assert recorder.lost == []
    assert (there / "file").read_bytes() == DATA + bytes(1_000_000 - len(DATA))
    assert os.getxattr(there / "file", "user.what") == b"this"
    assert (there / "link").readlink() == Path("nowhere")
    assert len(os.listdir(there)) == 4


def test_within_one_file_system_nothing_is_copied(here: Path, tmp_path: Path) -> None:
    make_all(here)
    recorder, inode = Recorder(), (here / "file").stat().st_ino
    assert not rename(here, tmp_path, "file", recorder)
    assert (tmp_path / "file").stat().st_ino == inode
    assert recorder.noted == []


def test_what_fails_for_another_reason_is_not_tried_as_a_copy(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    make_all(here)
    recorder = Recorder()
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="Read-only"):
        rename(here, there, "file", recorder)
    assert recorder.noted == []
    assert os.listdir(there) == []


@pytest.mark.parametrize("name", ["file", "link"])
def test_a_copy_that_cannot_get_its_name_leaves_nothing(
    here: Path, there: Path, name: str
) -> None:
    make_all(here)
    (there / name / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"directory"):
        rename(here, there, name, Recorder())
    assert os.listdir(there) == [name]
    assert os.path.lexists(here / name)


def test_a_link_that_cannot_be_there_is_not_made_and_is_counted(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    make_all(here)
    for name, call in (("link", "symlink"), ("fifo", "mknod")):
        recorder = Recorder()
        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            rename(here, there, name, recorder)
        assert recorder.lost == [{"link": "symbolic link", "fifo": "device"}[name]]
    assert os.listdir(there) == []
