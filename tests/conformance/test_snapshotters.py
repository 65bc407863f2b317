"""What every kind of snapshotter promises, on a disk and in memory."""

import errno
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from filesync.digest import Digest, digest_of
from filesync.disk.scanning.readfile import Content, read_file
from filesync.disk.scanning.scan import scan
from filesync.errors import LocalError, StoreError, UsageError
from filesync.manifest import Manifest, MemoryNodes, empty_manifest, link_groups
from worker.snapshots import (
    Active,
    SnapshotInUse,
    SnapshotMissing,
    Snapshotter,
    mounts,
    open_snapshotter,
    overlay_fails,
)
from worker.snapshots.mounts import mounts_below
from worker.snapshots.records import Records

NOBODY = 65534
Step = Callable[[Path], None]

root = pytest.mark.needs("root")
overlay = pytest.param("overlay", marks=root)
kinds = pytest.mark.parametrize("kind", [overlay, "copy"])


@pytest.fixture(params=["disk", "memory"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path / "state"
        return
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm: mount a tmpfs there")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "state"


@pytest.fixture
def nodes() -> MemoryNodes:
    return MemoryNodes()


@pytest.fixture
def open_kind(state: Path, nodes: MemoryNodes) -> Iterator[Callable[[str], Snapshotter]]:
    opened: list[Snapshotter] = []

    def open_one(kind: str) -> Snapshotter:
        for one in opened:
            one.close()
        opened[:] = [open_snapshotter(state, nodes, kind=kind)]
        return opened[0]

    yield open_one
    for one in opened:
        with suppress(Exception):
            one.close()
    for mount in mounts_below(state.parent):
        os.system(f"umount -l {mount}")


# --- scripts that both kinds run --------------------------------------------------------------


def write(path: Path, text: str = "text", *, mtime_s: int = 1) -> None:
    path.write_text(text)
    os.utime(path, (mtime_s, mtime_s))


def base(at: Path) -> None:
    for name in ("d", "d/sub", "d/sub/deep", "empty"):
        (at / name).mkdir()
    for name in ("f", "g", "d/a", "d/b", "d/sub/x", "d/sub/deep/y"):
        write(at / name, name)
    os.link(at / "f", at / "d/f2")
    (at / "to-f").symlink_to("f")
    (at / "to-d").symlink_to("/d")
    os.mkfifo(at / "pipe")
    (at / os.fsdecode(b"\xff name\n")).touch()


def nothing(at: Path) -> None:
    pass


def modify(at: Path) -> None:
    write(at / "g", "other", mtime_s=2)
    with (at / "d/sub/x").open("a") as file:
        file.write("more")


def only_opened(at: Path) -> None:
    with (at / "d/a").open("r+b"):
        pass


def change_modes(at: Path) -> None:
    (at / "g").chmod(0o4711)
    (at / "d").chmod(0o1777)
    at.chmod(0o750)


def remove(at: Path) -> None:
    (at / "d/a").unlink()
    (at / "to-f").unlink()
    (at / "empty").rmdir()
    shutil.rmtree(at / "d/sub")


def make_again(at: Path) -> None:
    shutil.rmtree(at / "d")
    (at / "d").mkdir(mode=0o700)
    write(at / "d/new")
    (at / "d/sub").mkdir()
    write(at / "d/sub/x", "other")


def move_directory(at: Path) -> None:
    move(at / "d/sub", at / "moved")


def move(old: Path, new: Path) -> None:
    """Do what mv does: where a directory of a lower layer does not move, copy it."""
    try:
        old.rename(new)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        shutil.copytree(old, new, symlinks=True)
        shutil.rmtree(old)


def move_file(at: Path) -> None:
    (at / "d/a").rename(at / "d/sub/a")
    (at / "d/b").rename(at / "g")


def change_kinds(at: Path) -> None:
    shutil.rmtree(at / "d")
    write(at / "d", "a file")
    (at / "g").unlink()
    (at / "g").mkdir()
    write(at / "g/inside")
    (at / "to-d").unlink()
    (at / "to-d").mkdir()
    (at / "pipe").unlink()
    (at / "pipe").symlink_to("f")


def change_kinds_and_back(at: Path) -> None:
    (at / "g").unlink()
    (at / "g").mkdir()
    (at / "g").rmdir()
    write(at / "g", "g")
    move(at / "d", at / "aside")
    write(at / "d")
    (at / "d").unlink()
    move(at / "aside", at / "d")


def link_new_files(at: Path) -> None:
    write(at / "one")
    os.link(at / "one", at / "d/two")
    os.link(at / "one", at / "three")
    (at / "one").unlink()


def link_an_old_file(at: Path) -> None:
    os.link(at / "g", at / "d/g2")


def unlink_one_of_two(at: Path) -> None:
    (at / "d/f2").unlink()


def set_xattrs(at: Path) -> None:
    os.setxattr(at / "g", "user.note", b"\0bytes")
    os.setxattr(at / "d/sub", "user.note", b"of a directory")
    os.setxattr(at, "user.root", b"of the root")


def make_odd_files(at: Path) -> None:
    (at / "g").unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        old = os.getcwd()
        os.chdir(at)
        try:
            sock.bind("g")
        finally:
            os.chdir(old)
    with (at / "holes").open("wb") as file:
        file.truncate(1 << 22)
        file.seek(1 << 21)
        file.write(b"island")
    write(at / os.fsdecode(b"d/\xfe\xff"))
    write(at / ("n" * 255))
    write(at / ".filesync-0123456789abcdef")
    write(at / "d/.filesync-0123456789abcdef")


def age_beyond_measure(at: Path) -> None:
    # After 2262 and before 1677 nanoseconds do not fit; a disk keeps what it can of it.
    for name, time_s in (("f", 1 << 43), ("g", -(1 << 43)), ("pipe", 1 << 43), ("d", 1 << 43)):
        os.utime(at / name, (time_s, time_s))
    os.utime(at / "to-f", (1 << 43, 1 << 43), follow_symlinks=False)


def make_devices(at: Path) -> None:
    os.mknod(at / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(at / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 9))
    os.chown(at / "g", 1, 2)
    os.chown(at / "to-f", 3, 4, follow_symlinks=False)
    os.chown(at, 5, 6)


SCRIPTS: list[Step] = [
    nothing,
    modify,
    only_opened,
    change_modes,
    remove,
    make_again,
    move_directory,
    move_file,
    change_kinds,
    change_kinds_and_back,
    link_new_files,
    link_an_old_file,
    unlink_one_of_two,
    set_xattrs,
    make_odd_files,
    age_beyond_measure,
]
scripts = pytest.mark.parametrize(
    "script", [*SCRIPTS, pytest.param(make_devices, marks=root)], ids=lambda s: s.__name__
)


def make(snapshotter: Snapshotter, parent: str | None, *steps: Step, id: str) -> Digest:
    active = snapshotter.prepare(parent, id=id)
    for step in steps:
        step(active.path)
    return snapshotter.commit(active).tree


def shown(snapshotter: Snapshotter, id: str, nodes: MemoryNodes) -> Digest:
    """Return what reading the whole tree says."""
    with snapshotter.view(id) as view:
        return scan(view.path, nodes).tree


# --- one tree ---------------------------------------------------------------------------------


@kinds
@scripts
def test_the_manifest_is_what_a_reader_of_the_tree_sees(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str, script: Step
) -> None:
    snapshotter = open_kind(kind)
    assert make(snapshotter, None, base, id="base") == shown(snapshotter, "base", nodes)
    tree = make(snapshotter, "base", script, id="next")
    assert shown(snapshotter, "next", nodes) == tree
    again = make(snapshotter, "next", remove_and_add, id="last")
    assert shown(snapshotter, "last", nodes) == again
    assert shown(snapshotter, "next", nodes) == tree


def remove_and_add(at: Path) -> None:
    for path in sorted(at.iterdir())[:3]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    write(at / "added", "added")


@root
@scripts
def test_both_kinds_give_one_content_digest(
    tmp_path: Path, nodes: MemoryNodes, script: Step
) -> None:
    contents = set[Digest]()
    for kind in ("overlay", "copy"):
        snapshotter = open_snapshotter(tmp_path / kind, nodes, kind=kind)
        make(snapshotter, None, base, id="base")
        tree = make(snapshotter, "base", script, id="next")
        contents.add(Manifest(tree, nodes).content)
        snapshotter.close()
    assert len(contents) == 1


@kinds
def test_an_empty_commit_has_its_parents_tree(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str
) -> None:
    snapshotter = open_kind(kind)
    first = make(snapshotter, None, base, change_modes, id="base")
    assert make(snapshotter, "base", id="next") == first
    if os.geteuid() == 0:
        assert make(snapshotter, None, id="nothing") == empty_manifest(nodes).tree


@kinds
def test_a_file_that_was_opened_and_not_changed_keeps_the_tree(
    open_kind: Callable[[str], Snapshotter], kind: str
) -> None:
    snapshotter = open_kind(kind)
    first = make(snapshotter, None, base, id="base")
    assert make(snapshotter, "base", only_opened, id="next") == first


@kinds
def test_hard_links_are_found(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str
) -> None:
    snapshotter = open_kind(kind)
    make(snapshotter, None, base, id="base")
    tree = make(snapshotter, "base", link_new_files, link_an_old_file, id="next")
    groups = sorted(link_groups(Manifest(tree, nodes)).values())
    assert groups == [[b"d/f2", b"f"], [b"d/g2", b"g"], [b"d/two", b"three"]]


@kinds
def test_a_change_within_the_clocks_tick_is_seen(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str
) -> None:
    snapshotter = open_kind(kind)
    make(snapshotter, None, lambda at: write(at / "f", "old"), id="base")
    tree = make(snapshotter, "base", lambda at: write(at / "f", "new"), id="next")
    entry = Manifest(tree, nodes).find(b"f")
    assert getattr(entry, "digest", None) == digest_of(b"new")


@kinds
def test_what_a_hint_knows_is_not_read(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str
) -> None:
    snapshotter = open_kind(kind)
    active = snapshotter.prepare(None)
    write(active.path / "told", "abc")
    write(active.path / "wrong-size", "abcd")
    claim = (3, digest_of(b"claimed"))
    done = snapshotter.commit(active, hints={b"told": claim, b"wrong-size": claim})
    manifest = Manifest(done.tree, nodes)
    assert getattr(manifest.find(b"told"), "digest", None) == claim[1]
    assert getattr(manifest.find(b"wrong-size"), "digest", None) == digest_of(b"abcd")


@root
def test_unchanged_files_of_a_copy_are_not_read(
    tmp_path: Path, nodes: MemoryNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshotter = open_snapshotter(tmp_path, nodes, kind="copy")
    make(snapshotter, None, base, id="base")
    read: list[bytes] = []

    def spy(dirfd: int, name: bytes, path: bytes, beside: None) -> Content:
        read.append(path)
        return read_file(dirfd, name, path, beside)

    monkeypatch.setattr("filesync.disk.scanning.reading.read_file", spy)
    make(snapshotter, "base", modify, id="next")
    snapshotter.close()
    assert sorted(read) == [b"d/sub/x", b"f", b"g"]  # and f because it has two names


@root
def test_an_overlay_breaks_a_parents_hard_link_that_is_written_to(
    tmp_path: Path, nodes: MemoryNodes
) -> None:
    snapshotter = open_snapshotter(tmp_path, nodes, kind="overlay")
    make(snapshotter, None, base, id="base")
    tree = make(snapshotter, "base", lambda at: write(at / "f", "new"), id="next")
    assert link_groups(Manifest(tree, nodes)) == {}
    assert shown(snapshotter, "next", nodes) == tree
    snapshotter.close()


# --- chains -----------------------------------------------------------------------------------


@kinds
def test_a_chain_of_150_shows_all_its_files(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str
) -> None:
    snapshotter = open_kind(kind)
    tree, parent = None, None
    for number in range(150):
        active = snapshotter.prepare(parent, id=f"layer-{number}")
        write(active.path / f"file-{number}")
        tree = snapshotter.commit(active).tree
        parent = active.id
    assert parent is not None
    assert shown(snapshotter, parent, nodes) == tree
    assert [one.parent for one in snapshotter.list()[:2]] == [None, "layer-0"]


@root
def test_layers_whose_paths_are_longer_than_a_page_together_can_be_mounted(
    tmp_path: Path, nodes: MemoryNodes
) -> None:
    snapshotter = open_snapshotter(tmp_path / ("x" * 200), nodes, kind="overlay")
    for number in range(30):
        make(snapshotter, f"{number - 1}" if number else None, id=f"{number}")
    with snapshotter.view("29") as view:
        assert os.listdir(view.path) == []
    snapshotter.close()


@root
def test_old_kernels_mount_the_same_chain_at_once(
    tmp_path: Path, nodes: MemoryNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr("worker.snapshots.mounts._mount_by_steps", fails)
    snapshotter = open_snapshotter(tmp_path, nodes, kind="overlay")
    tree = None
    for number in range(100):
        parent = f"{number - 1}" if number else None
        tree = make(snapshotter, parent, lambda at: write(at / "f", at.name), id=f"{number}")
    assert shown(snapshotter, "99", nodes) == tree
    snapshotter.close()


@kinds
def test_two_children_do_not_see_each_other(
    open_kind: Callable[[str], Snapshotter], nodes: MemoryNodes, kind: str
) -> None:
    snapshotter = open_kind(kind)
    tree = make(snapshotter, None, base, id="base")
    a, b = snapshotter.prepare("base"), snapshotter.prepare("base")
    modify(a.path)
    remove(b.path)
    one, two = snapshotter.commit(a), snapshotter.commit(b)
    assert shown(snapshotter, one.id, nodes) == one.tree
    assert shown(snapshotter, two.id, nodes) == two.tree
    assert shown(snapshotter, "base", nodes) == tree


@kinds
def test_many_threads_may_prepare_and_commit_at_once(
    open_kind: Callable[[str], Snapshotter], kind: str
) -> None:
    snapshotter = open_kind(kind)
    make(snapshotter, None, base, id="base")

    def work(number: int) -> None:
        make(snapshotter, "base", lambda at: write(at / f"{number}"), id=f"n{number}")
        with snapshotter.view("base"), snapshotter.view(f"n{number}") as view:
            assert (view.path / f"{number}").exists()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(snapshotter.list()) == 9


# --- refusals ---------------------------------------------------------------------------------


@kinds
def test_a_snapshot_with_children_or_views_stays(
    open_kind: Callable[[str], Snapshotter], kind: str
) -> None:
    snapshotter = open_kind(kind)
    make(snapshotter, None, base, id="base")
    active = snapshotter.prepare("base")
    with pytest.raises(SnapshotInUse):
        snapshotter.remove("base")
    snapshotter.discard(active)
    with snapshotter.view("base"), snapshotter.view("base") as view:
        with pytest.raises(SnapshotInUse):
            snapshotter.remove("base")
        assert (view.path / "f").exists()
    snapshotter.remove("base")
    snapshotter.remove("base")
    assert snapshotter.list() == []
    assert os.listdir(snapshotter.directory / "trees") in ([], ["0"])


@kinds
def test_an_unknown_parent_and_a_taken_id_are_refused(
    open_kind: Callable[[str], Snapshotter], kind: str
) -> None:
    snapshotter = open_kind(kind)
    active = snapshotter.prepare(None, id="one")
    with pytest.raises(SnapshotMissing):
        snapshotter.prepare("one")
    with pytest.raises(SnapshotMissing):
        snapshotter.view("one")
    with pytest.raises(SnapshotInUse):
        snapshotter.prepare(None, id="one")
    for bad in ("", "../x", "a/b", ".", "x" * 200):
        with pytest.raises(LocalError):
            snapshotter.prepare(None, id=bad)
    snapshotter.commit(active)
    with pytest.raises(SnapshotMissing):
        snapshotter.commit(active)
    snapshotter.discard(active)
    assert snapshotter.get("one").id == "one"


@root
def test_a_tree_with_an_open_file_is_not_committed_until_it_is_closed(
    tmp_path: Path, nodes: MemoryNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "BUSY_PATIENCE_S", 0.05)
    snapshotter = open_snapshotter(tmp_path, nodes, kind="overlay")
    active = snapshotter.prepare(None)
    with (active.path / "f").open("w") as file:
        with pytest.raises(SnapshotInUse):
            snapshotter.commit(active)
        file.write("last words")
    assert snapshotter.commit(active).tree == shown(snapshotter, active.id, nodes)
    snapshotter.close()


@root
def test_a_view_of_an_overlay_is_read_only(tmp_path: Path, nodes: MemoryNodes) -> None:
    snapshotter = open_snapshotter(tmp_path, nodes, kind="overlay")
    make(snapshotter, None, base, id="base")
    with snapshotter.view("base") as view, pytest.raises(OSError, match="Read-only"):
        write(view.path / "f")
    assert not mounts_below(tmp_path)
    snapshotter.close()


def test_there_is_no_third_kind(tmp_path: Path, nodes: MemoryNodes) -> None:
    with pytest.raises(UsageError, match="overlay, copy"):
        open_snapshotter(tmp_path, nodes, kind="btrfs")


@root
def test_a_directory_keeps_the_kind_it_was_used_with(
    tmp_path: Path, nodes: MemoryNodes
) -> None:
    assert overlay_fails(tmp_path) == ""
    open_snapshotter(tmp_path, nodes, kind="copy").close()
    again = open_snapshotter(tmp_path, nodes)
    assert again.kind == "copy"
    again.close()
    with pytest.raises(StoreError, match="copy"):
        open_snapshotter(tmp_path, nodes, kind="overlay")


@root
def test_where_overlay_does_not_work_snapshots_are_copies(
    tmp_path: Path, nodes: MemoryNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.snapshots.choose.overlay_fails", lambda _: "not here")
    with pytest.raises(UsageError, match="not here"):
        open_snapshotter(tmp_path / "a", nodes, kind="overlay")
    snapshotter = open_snapshotter(tmp_path / "b", nodes)
    assert snapshotter.kind == "copy"
    snapshotter.close()


# --- crashes ----------------------------------------------------------------------------------


@root
def test_who_is_killed_as_it_looks_for_overlays_leaves_no_mount(
    tmp_path: Path, nodes: MemoryNodes
) -> None:
    killed = os.fork()
    if not killed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", lambda _: os.kill(os.getpid(), signal.SIGKILL))
            open_snapshotter(tmp_path, nodes)
        os._exit(1)
    assert os.waitpid(killed, 0)[1] == signal.SIGKILL
    assert len(mounts_below(tmp_path)) == 1
    open_snapshotter(tmp_path, nodes).close()
    assert mounts_below(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {"snapshots.db", "trees"}


KILL_POINTS = [
    ("worker.snapshots.records.Records", "add"),
    ("worker.snapshots.records.Records", "commit"),
    ("worker.snapshots.records.Records", "doom"),
    ("worker.snapshots.records.Records", "delete"),
    ("worker.snapshots.snapshotter", "remove_path"),
    ("worker.snapshots.overlays", "mount_overlay"),
    ("worker.snapshots.overlays", "mount_bind"),
    ("worker.snapshots.overlays.OverlayDriver", "_remove"),
    ("worker.snapshots.overlays.OverlayDriver", "seal"),
    ("worker.snapshots.copies.CopyDriver", "make"),
    ("worker.snapshots.copies.CopyDriver", "seal"),
]


def in_child(action: Callable[[], None]) -> int:
    """Run ``action`` in a child process; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) <= 0
    return -os.waitstatus_to_exitcode(status)


def life(snapshotter: Snapshotter) -> None:
    """Make the tree of ``doubled`` again, look at it, discard one, remove two."""
    with snapshotter.view("kept"):
        make(snapshotter, "kept", double, id="new")
        discarded = snapshotter.prepare("new")
        modify(discarded.path)
        snapshotter.discard(discarded)
        snapshotter.remove("new")
    snapshotter.remove("spare")


def double(at: Path) -> None:
    write(at / "second")
    os.utime(at, (3, 3))


@kinds
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", KILL_POINTS, ids=[name for _, name in KILL_POINTS])
def test_a_kill_at_any_point_loses_nothing_committed_and_leaves_nothing_else(
    state: Path, nodes: MemoryNodes, kind: str, point: tuple[str, str], after: bool
) -> None:
    first = open_snapshotter(state, nodes, kind=kind)
    kept = make(first, None, base, id="kept")
    make(first, "kept", double, id="spare")
    first.close()
    times = count()
    while in_child(lambda: killed_life(state, nodes, kind, point, after, next(times))):
        next(times)  # for the child, whose count is its own
        again = open_snapshotter(state, nodes)
        assert not mounts_below(state)
        ids = {one.id for one in again.list()}
        assert "kept" in ids <= {"kept", "spare", "new"}
        assert shown(again, "kept", nodes) == kept
        rows = Records(state / "snapshots.db", kind=kind)
        numbers = {str(row.number) for row in rows.all()}
        rows.close()
        assert set(os.listdir(state / "trees")) - {"0"} == numbers
        for id in ids - {"kept"}:
            assert shown(again, id, nodes) == again.get(id).tree
            again.remove(id)
        make(again, "kept", double, id="spare")
        again.close()
    of_this_kind = {"overlay": "Overlay", "copy": "Copy"}[kind] in point[0]
    assert next(times) > 0 or not of_this_kind


def killed_life(
    state: Path, nodes: MemoryNodes, kind: str, point: tuple[str, str], after: bool, times: int
) -> None:
    """Live, and be killed at the call of ``point`` that follows ``times`` others."""
    snapshotter = open_snapshotter(state, nodes, kind=kind)
    left = [times]

    def die() -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    owner, name = point
    module, _, cls = owner.rpartition(".")
    target = getattr(sys.modules[module], cls)
    real = getattr(target, name)

    def deadly(*args: object, **kwargs: object) -> object:
        if not after:
            die()
        result = real(*args, **kwargs)
        if after:
            die()
        return result

    setattr(target, name, deadly)
    life(snapshotter)
    snapshotter.close()


@kinds
def test_leftovers_without_a_row_are_swept(
    open_kind: Callable[[str], Snapshotter], state: Path, kind: str
) -> None:
    make(open_kind(kind), None, base, id="base")
    (state / "trees" / "777" / "fs").mkdir(parents=True)
    (state / "trees" / "gone-5" / "fs").mkdir(parents=True)
    snapshotter = open_kind(kind)
    assert {"777", "gone-5"}.isdisjoint(os.listdir(state / "trees"))
    assert [one.id for one in snapshotter.list()] == ["base"]


@kinds
def test_after_a_crash_of_the_machine_only_what_was_flushed_is_believed(
    open_kind: Callable[[str], Snapshotter],
    state: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshotter = open_kind(kind)
    make(snapshotter, None, base, id="flushed")
    snapshotter.sync()
    make(snapshotter, "flushed", modify, id="lost")
    make(snapshotter, "lost", remove, id="lost-too")
    monkeypatch.setattr("worker.snapshots.snapshotter.boot_id", lambda: "a later boot")
    assert [one.id for one in open_kind(kind).list()] == ["flushed"]
    assert len(set(os.listdir(state / "trees")) - {"0"}) == 1


@kinds
def test_a_snapshot_whose_manifest_or_tree_is_gone_is_dropped_with_its_children(
    open_kind: Callable[[str], Snapshotter], state: Path, kind: str
) -> None:
    snapshotter = open_kind(kind)
    make(snapshotter, None, base, id="base")
    make(snapshotter, "base", id="child")
    make(snapshotter, None, modify_nothing, id="other")
    shutil.rmtree(state / "trees" / "1")
    assert [one.id for one in open_kind(kind).list()] == ["other"]
    snapshotter.close()
    empty = open_snapshotter(state, MemoryNodes())
    assert empty.list() == []
    empty.close()


def modify_nothing(at: Path) -> None:
    write(at / "alone")


@kinds
def test_another_version_of_the_state_is_refused(
    open_kind: Callable[[str], Snapshotter], state: Path, nodes: MemoryNodes, kind: str
) -> None:
    import sqlite3

    open_kind(kind).close()
    db = sqlite3.connect(state / "snapshots.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="version 99"):
        open_snapshotter(state, nodes)


# --- ordinary users ---------------------------------------------------------------------------


@root
def test_an_ordinary_user_has_copies_that_do_all_but_devices(nodes: MemoryNodes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)

        def live() -> None:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            snapshotter = open_snapshotter(Path(directory) / "state", nodes)
            assert snapshotter.kind == "copy"
            make(snapshotter, None, base, id="base")
            for script in SCRIPTS:
                name = script.__name__
                tree = make(snapshotter, "base", script, id=name)
                assert shown(snapshotter, name, nodes) == tree, name
            make(snapshotter, "base", lambda at: (at / "d").chmod(0o500), id="closed")
            active: Active = snapshotter.prepare("closed")
            assert (active.path / "d/sub/x").read_text() == "d/sub/x"
            snapshotter.commit(active)
            snapshotter.remove(active.id)
            snapshotter.remove("closed")
            snapshotter.close()

        assert in_child(live) == 0
