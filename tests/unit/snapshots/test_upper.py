import os
import stat
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.handles import DirectoryHandles
from filesync.disk.removing import remove_tree
from filesync.manifest import File, Special, Symlink
from filesync.manifest.patch import Change
from worker.snapshots.upper import read_upper

pytestmark = pytest.mark.needs("root")


def read(at: Path) -> Change:
    with DirectoryHandles(at) as handles:
        return read_upper(handles, {}).change


def names(change: Change) -> set[bytes]:
    return {entry.name for entry in change.entries}


def test_a_device_of_no_number_is_a_whiteout(tmp_path: Path) -> None:
    os.mknod(tmp_path / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(tmp_path / "null", stat.S_IFCHR, os.makedev(1, 3))
    change = read(tmp_path)
    assert (change.removed, names(change)) == ({b"gone"}, {b"null"})
    assert isinstance(change.entries[0], Special)


def test_an_empty_file_is_a_whiteout_where_the_directory_says_so(tmp_path: Path) -> None:
    for name in ("d", "e"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plain").touch()
        (tmp_path / name / "marked").touch()
        os.setxattr(tmp_path / name / "marked", "trusted.overlay.whiteout", b"")
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"x")
    change = read(tmp_path)
    assert change.children[b"d"].removed == {b"marked"}
    assert names(change.children[b"d"]) == {b"plain"}
    assert not change.children[b"d"].opaque
    assert change.children[b"e"].removed == set()
    assert names(change.children[b"e"]) == {b"plain", b"marked"}


def test_an_opaque_directory_is_told_from_a_merged_one(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    change = read(tmp_path)
    assert [change.opaque, change.children[b"d"].opaque] == [False, True]
    assert not change.children[b"d"].children[b"e"].opaque


def test_the_kernels_own_xattrs_are_not_the_trees(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    os.setxattr(tmp_path / "f", "trusted.overlay.origin", b"handle")
    os.setxattr(tmp_path / "f", "user.a", b"kept")
    os.setxattr(tmp_path, "trusted.overlay.impure", b"y")
    change = read(tmp_path)
    (entry,) = change.entries
    assert isinstance(entry, File)
    assert (entry.xattrs, entry.digest) == (((b"user.a", b"kept"),), digest_of(b"text"))
    assert change.header is not None
    assert change.header.xattrs == ()


def test_deep_trees_and_links_are_read(tmp_path: Path) -> None:
    at = tmp_path
    for _ in range(1200):
        os.chdir(at)
        os.mkdir("d")
        at = Path("d")
    os.symlink("target", "d/l")
    os.chdir("/")
    change = read(tmp_path)
    with DirectoryHandles(tmp_path) as handles:
        remove_tree(handles.open(b""), b"d")  # pytest's own takes seconds
    for _ in range(1200):
        change = change.children[b"d"]
    assert isinstance(change.entries[0], Symlink)
    assert change.entries[0].target == b"target"
