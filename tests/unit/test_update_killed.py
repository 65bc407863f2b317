"""Updates that are killed at every system call, and what others see of an atomic one."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from filesync.disk.updating.update import TreeUpdate
from filesync.manifest import Manifest
from filesync.trees.overlay import overlay
from tests.mounting import tmpfs
from tests.unit.update_driver import (
    Contents,
    Make,
    MakeDirectory,
    MakeFile,
    MakeLink,
    MakeSymlink,
    build,
    hand_in,
    scanned,
    sync,
    update,
)

P = ParamSpec("P")
T = TypeVar("T")

LARGE = os.urandom(1000) * 200
BEFORE: list[Make] = [
    MakeFile("moved/1", b"1"),
    MakeFile("moved/2", b"2"),
    MakeFile("swap/a", b"this"),
    MakeFile("swap/b", b"that"),
    MakeFile("kind", b"a file"),
    MakeFile("gone/f", b"gone"),
    MakeFile("renamed", b"same content"),
    MakeFile("large", LARGE[1000:]),
    MakeFile("group/a", b"one"),
    MakeLink("group/b", "group/a"),
]
AFTER: list[Make] = [
    MakeFile("away/1", b"1"),
    MakeFile("away/2", b"2"),
    MakeFile("swap/a", b"that"),
    MakeFile("swap/b", b"this"),
    MakeDirectory("kind"),
    MakeFile("kind/f", b"now in a directory"),
    MakeSymlink("gone", "kind"),
    MakeFile("other name", b"same content"),
    MakeFile("large", b"first" + LARGE),
    MakeFile("group/a", b"two", mode=0o600),
    MakeLink("group/c", "group/a"),
]
CALLS = ("open", "mkdir", "rename", "unlink", "rmdir", "link", "symlink", "utime", "pwrite")


def run_until(call: int, run: Callable[[], object]) -> bool:
    """Run something in a process that is killed before its ``call``-th change; say if it was."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    status = 1
    try:
        left = call

        def counted(do: Callable[P, T]) -> Callable[P, T]:
            def one(*args: P.args, **kwargs: P.kwargs) -> T:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return do(*args, **kwargs)

            return one

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        run()
        status = 0
    finally:
        os._exit(status)


@pytest.mark.parametrize("atomic", [True, False])
def test_an_update_killed_at_any_call_leaves_what_the_next_one_completes(
    tmp_path: Path, atomic: bool
) -> None:
    source = tmp_path / "source"
    build(source, AFTER)
    target = scanned(source)
    start = tmp_path / "start"
    build(start, BEFORE)
    root = tmp_path / "root"
    call = 1
    while True:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root, symlinks=True)
        basis = scanned(root)

        def run(basis: Manifest = basis) -> None:
            update(root, source, basis=basis, target=target, atomic=atomic)

        if not run_until(call, run):
            break
        sync(root, source, atomic=atomic)
        assert not [name for name in os.listdir(root) if name.startswith(".filesync-")]
        call += 3
    assert call > 50
    assert scanned(root).tree == target.tree


@pytest.mark.needs("mount")
def test_an_update_killed_while_it_copies_over_a_border_is_cleared_away_there(
    tmp_path: Path,
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("disk/d/large", LARGE), MakeSymlink("disk/link", "d")])
    target = scanned(source)
    call, seen, other = 1, 0, ".filesync-0123456789abcdef"
    with tmpfs(root / "disk"):
        while True:
            subprocess.run(["find", root / "disk", "-mindepth", "1", "-delete"], check=True)
            build(root, [MakeFile("disk/d/large", b"old"), MakeSymlink("disk/link", "old")])
            (root / "disk/d" / other).write_bytes(b"not of this update")
            basis = scanned(root)
            deletes = call % 2

            def run(basis: Manifest = basis, *, deletes: int = deletes) -> None:
                wanted = target if deletes else overlay(basis, target)
                update(root, source, basis=basis, target=wanted, atomic=True)

            if not run_until(call, run):
                break
            seen += bool({path.name for path in (root / "disk").rglob(".filesync-*")} - {other})
            run(scanned(root))
            # What nobody has noted is of the tree.
            kept = [path.name for path in root.rglob(".filesync-*")]
            assert kept == [other] * (1 - deletes)
            assert (root / "disk/d/large").read_bytes() == LARGE
            call += 1
    assert seen > 3


def test_a_note_leads_to_no_file_but_one_of_an_updates_own_names_below_the_root(
    tmp_path: Path,
) -> None:
    own, other = ".filesync-00112233445566aa", ".filesync-0123456789abcdef"
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in (root / "d/file", root / "d" / own, root / "d" / other, outside / own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    (root / "link").symlink_to(outside)
    (root / "d" / own).rename(root / "d/.filesync-partial")
    (root / "e" / own).mkdir(parents=True)
    notes = root / ".filesync-ffeeddccbbaa9988"
    notes.mkdir()
    paths = ("d/file", f"../outside/{own}", f"link/{own}", f"{outside}/{own}", f"e/{own}")
    for number, note in enumerate((*paths, f"d/{other}", "d/.filesync-partial", "")):
        (notes / f"note-{number}").symlink_to(note or ".")
    basis = scanned(root)
    update(root, root, basis=basis, target=basis, atomic=True)
    assert not notes.exists()
    assert (outside / own).exists()
    assert sorted(path.name for path in (root / "d").iterdir()) == [".filesync-partial", "file"]
    assert (root / "e" / own).is_dir()


def test_others_see_no_half_file_of_an_atomic_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, source = tmp_path / "root", tmp_path / "source"
    build(root, [MakeFile("old/a", b"1")])
    build(
        source,
        [MakeFile("old/a", b"2"), MakeFile("old/b", b"3")]
        + [MakeFile(f"new/deep/{n}", b"%d" % n) for n in range(50)],
    )
    target = scanned(source)
    one = TreeUpdate(root, basis=scanned(root), target=target, atomic=True)
    one.prepare()
    wanted = list(one.wanted())
    for path in ("new", "new/deep"):
        assert (root / path).stat().st_mode & 0o777 == 0o700
    renamed: list[bytes] = []
    rename = os.rename

    def noting(name: bytes, to: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        renamed.append(to)
        rename(name, to, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", noting)
    hand_in(one, wanted, Contents(source, target))
    # Where nobody can look in, a rename would be for nothing.
    assert renamed == [b"a", b"b"]
    one.finish()
    assert scanned(root).tree == target.tree
