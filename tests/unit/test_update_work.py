"""Where an update works, when the process may open no more files, or is ended."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.disk.handles import DirectoryHandles
from filesync.disk.updating.update import TreeUpdate
from filesync.disk.updating.work import Directories, WorkDirectory
from filesync.errors import StoreError
from filesync.process.descriptors import are_used_up
from tests.unit.update_driver import scanned


def no_room(_: int) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def pinned(root: Path) -> None:
    with DirectoryHandles(root) as handles, handles.pinned(b"a"):
        pass


def held(root: Path) -> None:
    directories = Directories(root)
    try:
        with directories.held(b"a"):
            pass
    finally:
        directories.close()


@pytest.mark.parametrize("use", [pinned, held])
def test_a_directory_for_which_no_descriptor_is_left_is_named(
    use: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "dup", no_room)
    with pytest.raises(StoreError, match="'a': Too many open files") as caught:
        use(tmp_path)
    assert are_used_up(caught.value)


def test_a_work_directory_that_cannot_be_made_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr(os, "dup", no_room)
    with pytest.raises(OSError, match="Too many open files"):
        WorkDirectory(parent)
    assert os.listdir("/proc/self/fd") == before
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("call", ["mkdir", "open", "fstat"])
def test_an_update_that_is_ended_as_it_makes_its_work_directory_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    made = getattr(os, call)

    def ended(*arguments: object, **keywords: object) -> object:
        found = made(*arguments, **keywords)
        if os.listdir(tmp_path):
            monkeypatch.setattr(os, call, made)
            raise KeyboardInterrupt
        return found

    update = TreeUpdate(tmp_path, basis=scanned(tmp_path), target=scanned(tmp_path))
    monkeypatch.setattr(os, call, ended)
    with pytest.raises(KeyboardInterrupt):
        update.prepare()
    update.abort()
    assert not os.listdir(tmp_path)
