import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.disk.removing import remove_path
from tests.deep import dig
from worker.exec.errors import BadExec
from worker.exec.mountpoints import MAX_MADE, MountPoints
from worker.exec.rooted import Location, locate, make_directories, open_root

OLD_NS = 1_000_000_000_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    (path / "a/b").mkdir(parents=True)
    (path / "file").write_text("x")
    return path


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = open_root(root)
    yield fd
    os.close(fd)


def test_links_are_resolved_inside_the_root(root: Path, root_fd: int) -> None:
    (root / "absolute").symlink_to("/a")
    (root / "a/up").symlink_to("../../../../a/b")
    assert locate(root_fd, "/absolute/up") == Location(("a", "b"))
    assert locate(root_fd, "../../..") == Location(())


def test_link_to_what_is_missing_leads_to_where_it_would_be(root: Path, root_fd: int) -> None:
    (root / "link").symlink_to("/run/x/y")
    assert locate(root_fd, "link/z").path == "/run/x/y/z"
    assert locate(root_fd, "link/z") == Location((), ("run", "x", "y", "z"))


def test_going_up_from_what_is_missing_is_refused(root_fd: int) -> None:
    with pytest.raises(FileNotFoundError):
        locate(root_fd, "a/none/../b")


def test_path_through_a_file_is_refused(root_fd: int) -> None:
    with pytest.raises(NotADirectoryError):
        locate(root_fd, "file/x")


def test_links_in_a_circle_are_refused(root: Path, root_fd: int) -> None:
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    with pytest.raises(OSError, match="Too many levels"):
        locate(root_fd, "x")


def test_walk_leaves_no_descriptor_open(root: Path, root_fd: int) -> None:
    (root / "l").symlink_to("a/../a")
    before = len(os.listdir("/proc/self/fd"))
    locate(root_fd, "l/b/../b/none")
    with pytest.raises(NotADirectoryError):
        locate(root_fd, "l/../file/x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_directories_are_made_whatever_the_umask(root: Path, root_fd: int) -> None:
    old = os.umask(0o077)
    try:
        make_directories(root_fd, locate(root_fd, "/a/c/d"))
    finally:
        os.umask(old)
    assert (root / "a/c/d").stat().st_mode & 0o7777 == 0o755
    assert (root / "a/c").stat().st_mode & 0o7777 == 0o755


def test_links_that_lead_up_and_down_without_end_are_an_error(root: Path, root_fd: int) -> None:
    deep = "/".join(["d"] * 500)
    (root / deep).mkdir(parents=True)
    for number in range(200):
        (root / f"l{number}").symlink_to(f"l{number + 1}/" + "../d/" * 600)
    (root / "l200").symlink_to(deep)
    started = time.monotonic()
    with pytest.raises(OSError, match="l0") as caught:
        locate(root_fd, "l0")
    assert caught.value.errno == errno.ELOOP
    assert time.monotonic() - started < 5


def listing(root: Path) -> list[tuple[str, int]]:
    paths = [root, *sorted(root.rglob("*"))]
    return [(str(path.relative_to(root)), path.lstat().st_mtime_ns) for path in paths]


def test_mount_points_leave_no_trace(root: Path, root_fd: int) -> None:
    for path in (root / "a", root):
        os.utime(path, ns=(OLD_NS, OLD_NS))
    before = listing(root)
    points = MountPoints(root_fd)
    points.make(locate(root_fd, "/proc"), directory=True)
    points.make(locate(root_fd, "/a/x/y"), directory=True)
    points.make(locate(root_fd, "/a/x/f"), directory=False)
    points.make(locate(root_fd, "/a/b"), directory=True)
    assert (root / "a/x/f").is_file()
    assert (root / "a/x/y").is_dir()
    points.remove()
    assert listing(root) == before
    points.remove()


def test_mount_point_that_was_there_stays(root: Path, root_fd: int) -> None:
    points = MountPoints(root_fd)
    points.make(locate(root_fd, "/file"), directory=False)
    points.make(locate(root_fd, "/a/b"), directory=True)
    points.remove()
    assert (root / "file").read_text() == "x"
    assert (root / "a/b").is_dir()


def test_mount_point_of_the_other_kind_is_refused(root_fd: int) -> None:
    points = MountPoints(root_fd)
    with pytest.raises(NotADirectoryError):
        points.make(locate(root_fd, "/file"), directory=True)
    with pytest.raises(IsADirectoryError):
        points.make(locate(root_fd, "/a"), directory=False)


def test_mount_points_that_lack_too_many_directories_are_refused(
    root: Path, root_fd: int
) -> None:
    before = listing(root)
    points = MountPoints(root_fd)
    half = "/d" * (MAX_MADE // 2)
    points.make(locate(root_fd, "/1" + half), directory=True)
    with pytest.raises(BadExec, match=str(MAX_MADE)):
        points.make(locate(root_fd, "/2" + half), directory=True)
    points.remove()
    assert [name for name, _ in listing(root)] == [name for name, _ in before]


def test_what_the_command_put_into_a_mount_points_parent_stays(
    root: Path, root_fd: int
) -> None:
    points = MountPoints(root_fd)
    points.make(locate(root_fd, "/x/y"), directory=True)
    (root / "x/kept").touch()
    os.utime(root / "x", ns=(OLD_NS, OLD_NS))
    points.remove()
    assert [path.name for path in (root / "x").iterdir()] == ["kept"]
    assert (root / "x").stat().st_mtime_ns == OLD_NS


def test_parent_that_the_command_changed_keeps_its_new_mtime(root: Path, root_fd: int) -> None:
    points = MountPoints(root_fd)
    points.make(locate(root_fd, "/a/x"), directory=True)
    (root / "a/new").touch()
    os.utime(root / "a", ns=(OLD_NS, OLD_NS))
    points.remove()
    assert (root / "a").stat().st_mtime_ns == OLD_NS


def test_link_in_the_place_of_a_mount_point_is_not_followed(
    root: Path, root_fd: int, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "y").mkdir(parents=True)
    points = MountPoints(root_fd)
    points.make(locate(root_fd, "/x/y"), directory=True)
    points.make(locate(root_fd, "/f"), directory=False)
    (root / "x").rename(root / "moved")
    (root / "x").symlink_to(outside)
    (root / "f").unlink()
    (root / "f").symlink_to(outside / "y")
    points.remove()
    assert (outside / "y").is_dir()
    assert (root / "f").is_symlink()
    assert (root / "x").is_symlink()
    assert not (root / "moved/y").exists()


def test_other_directory_in_the_place_of_a_mount_point_stays(root: Path, root_fd: int) -> None:
    points = MountPoints(root_fd)
    points.make(locate(root_fd, "/x"), directory=True)
    (root / "x").rename(root / "old")
    (root / "x").mkdir()
    points.remove()
    assert (root / "x").is_dir()


def test_tree_deeper_than_any_stack_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (tmp_path / "outside").mkdir()
    fd = dig(top, 3000)
    os.symlink(tmp_path / "outside", "link", dir_fd=fd)
    os.close(fd)
    remove_path(top)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    remove_path(top)
