"""Directory descriptors below a root, and removing trees."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from filesync.disk import removing
from filesync.disk.handles import DirectoryHandles, shown
from filesync.disk.removing import remove_tree
from filesync.errors import LocalError, StoreError


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """Let this process have a few more files open than it has; give its limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def dig(top: Path, depth: int) -> bytes:
    """Make ``depth`` directories inside each other; return the path of the deepest."""
    fd = os.open(top, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(b"d", dir_fd=fd)
        below = os.open(b"d", os.O_DIRECTORY, dir_fd=fd)
        os.close(os.open(b"f", os.O_CREAT, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)
    return b"/".join([b"d"] * depth)


def test_a_path_is_opened_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with DirectoryHandles(tmp_path) as handles:
        assert os.fstat(handles.open(b"a/b")).st_ino == (tmp_path / "a/b").stat().st_ino
        assert os.fstat(handles.open(b"")).st_ino == tmp_path.stat().st_ino
        assert handles.open(b"a/b") == handles.open(b"a/b")


@pytest.mark.parametrize("target", ["/etc", "real", ".", "../.."])
def test_a_link_is_never_passed_through(tmp_path: Path, target: str) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(target)
    with DirectoryHandles(tmp_path) as handles:
        for path in (b"link", b"link/below"):
            with pytest.raises(StoreError, match="'link' is not a directory"):
                handles.open(path)


def test_what_is_no_directory_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file\n").touch()
    with DirectoryHandles(tmp_path) as handles:
        with pytest.raises(StoreError, match=r"'file\\n' is not a directory"):
            handles.open(b"file\n/x")
        with pytest.raises(StoreError, match="'gone': No such file"):
            handles.open(b"gone/x")


@pytest.mark.parametrize("path", [b"..", b"a/../..", b".", b"/a", b"a//b", b"a/"])
def test_a_path_that_is_not_in_normal_form_is_our_own_bug(tmp_path: Path, path: bytes) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with DirectoryHandles(tmp_path) as handles, pytest.raises(LocalError):
        handles.open(path)


def test_many_hold_no_more_than_half_of_all_descriptors_together(
    tmp_path: Path, few_descriptors: int
) -> None:
    deepest = dig(tmp_path, few_descriptors)
    before = open_descriptors()
    with ExitStack() as stack:
        many = [stack.enter_context(DirectoryHandles(tmp_path)) for _ in range(20)]
        for _ in range(2):
            for handles in many:
                handles.open(deepest)
        assert open_descriptors() - before <= few_descriptors // 2 + len(many)
        alone = many.pop()
        for handles in many:
            handles.close()
        before = open_descriptors()
        alone.forget(b"d")
        alone.open(deepest)
        assert open_descriptors() - before > few_descriptors // 2 // 20


def test_what_is_held_is_given_back_where_no_more_files_may_be_opened(
    tmp_path: Path, few_descriptors: int
) -> None:
    dig(tmp_path, 60)
    for name in ("a", "b"):
        (tmp_path / name / "c").mkdir(parents=True)
    with DirectoryHandles(tmp_path) as handles, ExitStack() as stack:
        handles.open(b"/".join([b"d"] * 10))
        handles.open(b"a")
        while True:
            try:
                stack.callback(os.close, os.dup(0))
            except OSError:
                break
        assert os.fstat(handles.open(b"b/c")).st_ino == (tmp_path / "b/c").stat().st_ino
        assert os.fstat(handles.open(b"a/c")).st_ino == (tmp_path / "a/c").stat().st_ino


def test_a_tree_deeper_than_the_limit_is_walked_with_few_descriptors(
    tmp_path: Path, here: int
) -> None:
    deepest = dig(tmp_path, 1500)
    before = open_descriptors()
    with DirectoryHandles(tmp_path, limit=16) as handles:
        fd = handles.open(deepest)
        assert os.listdir(fd) == ["f"]
        assert open_descriptors() - before <= 18
        handles.open(deepest[: 2 * 700 - 1])
        handles.open(deepest)
        assert open_descriptors() - before <= 18
    assert open_descriptors() == before
    remove_tree(here, b"d")


def test_a_forgotten_directory_is_opened_anew(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    with DirectoryHandles(tmp_path) as handles:
        handles.open(b"a/b")
        beside = handles.open(b"ab")
        (tmp_path / "a").rename(tmp_path / "old")
        (tmp_path / "a/b").mkdir(parents=True)
        handles.forget(b"a")
        assert handles.open(b"ab") == beside
        assert os.fstat(handles.open(b"a/b")).st_ino == (tmp_path / "a/b").stat().st_ino


def test_a_pinned_descriptor_outlives_later_calls(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b/c/d").mkdir(parents=True)
    with DirectoryHandles(tmp_path, limit=2) as handles, handles.pinned(b"a") as fd:
        handles.open(b"b/c/d")
        handles.forget(b"a")
        assert os.fstat(fd).st_ino == (tmp_path / "a").stat().st_ino


def test_a_descriptor_given_as_root_stays_the_callers(tmp_path: Path, here: int) -> None:
    DirectoryHandles(here).close()
    assert os.fstat(here).st_ino == tmp_path.stat().st_ino


def test_a_root_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        DirectoryHandles(tmp_path / "file")


def test_names_are_shown_without_control_characters() -> None:
    assert shown(b"a\n\x1b[1m\xff\xc2\x9b") == r"'a\n\x1b[1m\udcff\x9b'"
    shown(b"\xff").encode()


def test_a_tree_is_removed_and_what_its_links_name_is_not(tmp_path: Path, here: int) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    (tmp_path / "t/a/b").mkdir(parents=True)
    (tmp_path / "t/a/link").symlink_to(tmp_path / "kept")
    (tmp_path / "t/a/file").write_text("x")
    os.mkfifo(tmp_path / "t/fifo")
    remove_tree(here, b"t")
    assert os.listdir(tmp_path) == ["kept"]
    assert (tmp_path / "kept/file").read_text() == "x"


def test_removing_a_link_a_file_or_nothing_is_fine(tmp_path: Path, here: int) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    for name in (b"link", b"file", b"nothing"):
        remove_tree(here, name)
    assert os.listdir(tmp_path) == ["kept"]


def test_a_very_deep_tree_is_removed_with_few_descriptors(tmp_path: Path, here: int) -> None:
    (tmp_path / "t").mkdir()
    dig(tmp_path / "t", 1500)
    before = open_descriptors()
    remove_tree(here, b"t")
    assert not os.listdir(tmp_path)
    assert open_descriptors() == before


@pytest.mark.parametrize("name", [b"t", b"in"])
@pytest.mark.parametrize("when", ["before it is opened", "after"])
def test_what_somebody_else_removes_meanwhile_need_not_be_removed(
    tmp_path: Path, here: int, monkeypatch: pytest.MonkeyPatch, name: bytes, when: str
) -> None:
    (tmp_path / "t/in").mkdir(parents=True)
    (tmp_path / "t/in/f").touch()
    open_it = removing._open_to_remove

    def opening(parent: int, one: bytes, mount: bytes) -> int:
        fd = open_it(parent, one, mount) if when == "after" else -1
        if one == name:
            shutil.rmtree(one, dir_fd=parent)
        return fd if when == "after" else open_it(parent, one, mount)

    monkeypatch.setattr(removing, "_open_to_remove", opening)
    before = open_descriptors()
    remove_tree(here, b"t")
    assert not os.listdir(tmp_path)
    assert open_descriptors() == before


def filled_again(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have somebody put something into a directory each time that it was emptied."""
    rmdir, names = os.rmdir, iter(range(times))

    def filling(name: bytes, *, dir_fd: int) -> None:
        for number in names:
            os.mkdir(name + b"/%d" % number, dir_fd=dir_fd)
            break
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", filling)


def test_what_somebody_puts_into_a_tree_while_it_is_removed_goes_too(
    tmp_path: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    filled_again(monkeypatch, 3)
    remove_tree(here, b"t")
    assert not os.listdir(tmp_path)


def test_who_never_ends_to_fill_a_tree_ends_its_removal(
    tmp_path: Path, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    filled_again(monkeypatch, 1_000_000)
    with pytest.raises(StoreError, match=r"'t' cannot be removed: .*not empty"):
        remove_tree(here, b"t")


def test_directories_that_may_not_be_read_or_written_are_removed(
    tmp_path: Path, here: int
) -> None:
    (tmp_path / "t/closed/below").mkdir(parents=True)
    (tmp_path / "t/closed/below/f").touch()
    (tmp_path / "t/closed/below").chmod(0o500)
    (tmp_path / "t/closed").chmod(0)
    remove_tree(here, b"t")
    assert not os.listdir(tmp_path)


@pytest.mark.needs("root")
def test_a_user_removes_their_own_closed_directories(tmp_path: Path) -> None:
    (tmp_path / "t/closed/below").mkdir(parents=True)
    (tmp_path / "t/closed/below/f").touch()
    for path in (tmp_path, tmp_path / "t", tmp_path / "t/closed", tmp_path / "t/closed/below"):
        os.chown(path, 4321, 4321)
    (tmp_path / "t/closed/below").chmod(0o500)
    (tmp_path / "t/closed").chmod(0)
    here = os.open(tmp_path, os.O_DIRECTORY)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setresgid(4321, 4321, 4321)
            os.setresuid(4321, 4321, 4321)
            remove_tree(here, b"t")
            code = 0
        finally:
            os._exit(code)
    os.close(here)
    assert os.waitpid(child, 0)[1] == 0
    assert not os.listdir(tmp_path)


@pytest.mark.needs("root")
def test_what_is_mounted_below_a_tree_is_left_alone(tmp_path: Path, here: int) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "t/mnt").mkdir(parents=True)
    mount = f"mount --bind {tmp_path}/kept {tmp_path}/t/mnt"
    if os.system(mount) != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StoreError, match="mount point"):
            remove_tree(here, b"t")
    finally:
        os.system(f"umount {tmp_path}/t/mnt")
    assert (tmp_path / "kept/file").exists()


@pytest.mark.needs("root")
def test_what_is_mounted_below_a_tree_keeps_its_mode(tmp_path: Path, here: int) -> None:
    (tmp_path / "kept").mkdir(mode=0o555)
    (tmp_path / "t/mnt").mkdir(parents=True)
    if os.system(f"mount --bind {tmp_path}/kept {tmp_path}/t/mnt") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StoreError, match="mount point"):
            remove_tree(here, b"t")
    finally:
        os.system(f"umount {tmp_path}/t/mnt")
    assert (tmp_path / "kept").stat().st_mode & 0o7777 == 0o555
