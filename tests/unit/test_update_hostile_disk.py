"""Updates while somebody else changes what they read from, and where they write to."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.disk.updating.local import LocalTree
from filesync.disk.updating.update import TreeUpdate
from filesync.errors import StoreError
from tests.unit.update_driver import Contents, MakeFile, build, hand_in, scanned, update

LARGE = b"2" * 3_000_000
Clone = Callable[[int, int, int], int]


def clones(monkeypatch: pytest.MonkeyPatch, clone: Clone) -> list[int]:
    """Have the kernel clone files as ``clone`` does; return what it was asked to."""
    asked: list[int] = []

    def ioctl(target: int, request: int, source: int) -> int:
        asked.append(request)
        return clone(target, request, source)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return asked


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A root that is not there, a source, and another tree of this machine that has all of it."""
    for name in ("source", "other"):
        (tmp_path / name).mkdir()
        build(tmp_path / name, [MakeFile("a", LARGE), MakeFile("b", LARGE + b"b")])
    return tmp_path / "root", tmp_path / "source", tmp_path / "other"


@pytest.mark.parametrize(
    "code", ["EOPNOTSUPP", "EXDEV", "EINVAL", "ETXTBSY", "EPERM", "ENOSYS"]
)
def test_where_a_file_cannot_be_cloned_it_is_copied(
    code: str, trees: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source, other = trees

    def refuse(target: int, request: int, source: int) -> int:
        raise OSError(getattr(errno, code), code)

    asked = clones(monkeypatch, refuse)
    target = scanned(source)
    local = [LocalTree(scanned(other), other)]
    assert update(root, source, basis=None, target=target, local=local).fetched == []
    assert scanned(root).tree == target.tree
    assert len(asked) == (2 if code == "EXDEV" else 1)


def nothing(target: int, request: int, source: int) -> int:
    return 0


def half(target: int, request: int, source: int) -> int:
    os.pwrite(target, os.pread(source, len(LARGE) // 2, 0), 0)
    return 0


def longer(target: int, request: int, source: int) -> int:
    os.pwrite(target, os.pread(source, 4 << 20, 0) + b"!", 0)
    return 0


def changed(target: int, request: int, source: int) -> int:
    os.pwrite(target, b"x" + os.pread(source, 4 << 20, 1), 0)
    return 0


@pytest.mark.parametrize("clone", [nothing, half, changed])
def test_a_clone_that_is_not_the_file_is_fetched_instead(
    clone: Clone, trees: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source, other = trees
    clones(monkeypatch, clone)
    target = scanned(source)
    local = [LocalTree(scanned(other), other)]
    done = update(root, source, basis=None, target=target, local=local)
    assert scanned(root).tree == target.tree
    assert [path.read_bytes() for path in sorted(root.iterdir())] == [LARGE, LARGE + b"b"]
    assert len(done.fetched) == 2


def test_a_clone_of_what_has_grown_is_cut(
    trees: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source, other = trees
    clones(monkeypatch, longer)
    target = scanned(source)
    local = [LocalTree(scanned(other), other)]
    assert update(root, source, basis=None, target=target, local=local).fetched == []
    assert scanned(root).tree == target.tree


@pytest.mark.needs("root")
def test_an_update_that_cannot_remove_what_is_gone_closes_what_is_its_own_and_no_more(
    tmp_path: Path,
) -> None:
    root, source = tmp_path / "root", tmp_path / "source"
    build(root, [MakeFile("gone/mnt/f")])
    build(source, [MakeFile("f")])
    if os.system(f"mount --bind {source} {root}/gone/mnt") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        basis, target = scanned(root), scanned(source)
        one = TreeUpdate(root, basis=basis, target=target)
        one.prepare()
        hand_in(one, list(one.wanted()), Contents(source, target))
        with pytest.raises(StoreError, match="mount point"):
            one.finish()
        # These get the numbers of the descriptors that were closed.
        others = [os.open(source, os.O_DIRECTORY) for _ in range(16)]
        one.abort()
        for fd in others:
            os.close(fd)
    finally:
        os.system(f"umount {root}/.filesync-*/*/mnt")
    assert (source / "f").exists()
