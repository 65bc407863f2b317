"""Trees whose directories come one by one: what is made of them, and what is refused."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given

from filesync.digest import Digest
from filesync.disk.entries import names_of
from filesync.disk.removing import remove_path
from filesync.disk.scanning.scan import scan
from filesync.disk.scanning.watcher import Watcher
from filesync.disk.updating import arriving, visits
from filesync.disk.updating.arriving import ArrivingUpdate
from filesync.disk.updating.incoming import WantedFile
from filesync.disk.updating.layout import RootTimes
from filesync.disk.updating.work import WorkDirectory
from filesync.errors import LocalError, MalformedManifest, StoreError
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    MemoryNodes,
    put,
    subdirectory,
    with_entries,
)
from tests.unit.made import file
from tests.unit.update_driver import (
    Contents,
    Make,
    MakeDirectory,
    MakeFile,
    MakeLink,
    any_trees,
    build,
    hand_in,
    scanned,
    update,
)

Done = tuple[bytes, Digest]


class Watched(Watcher):
    """What a scan says while it goes on."""

    def __init__(self) -> None:
        self.done: list[Done] = []
        self.read: dict[Digest, bytes] = {}

    def directory_changed(self, path: bytes, old: bytes | None, tree: Digest) -> None:
        raise AssertionError("nothing was scanned before")

    def directory_done(self, path: bytes, tree: Digest) -> None:
        self.done.append((path, tree))

    def content_read(self, digest: Digest, content: bytes) -> None:
        self.read[digest] = content


def watched(root: Path) -> tuple[MemoryNodes, Watched]:
    nodes, watcher = MemoryNodes(), Watched()
    scan(root, nodes, watcher=watcher)
    return nodes, watcher


def made(directories: dict[bytes, list[Entry]]) -> tuple[MemoryNodes, list[Done]]:
    """Return nodes of directories, given each after those in it, and (path, digest) of each."""
    nodes = MemoryNodes()
    done: list[Done] = []
    for path, entries in directories.items():
        inside = [
            subdirectory(nodes, at.rpartition(b"/")[2], tree)
            for at, tree in done
            if at and at.rpartition(b"/")[0] == path
        ]
        ordered: list[Entry] = sorted([*entries, *inside], key=lambda entry: entry.name)
        done.append((path, put(nodes, with_entries(EMPTY_DIRECTORY, ordered))))
    return nodes, done


def add_all(update: ArrivingUpdate, done: Iterable[Done], contents: Contents) -> None:
    for one in done:
        hand_in(update, update.add([one]), contents)


@given(any_trees(modes=[0o644, 0o400, 0o4755], directory_modes=[0o755, 0o500, 0o1777]))
def test_a_tree_that_arrives_is_the_same_whatever_is_in_it(makes: list[Make]) -> None:
    work = Path(tempfile.mkdtemp(prefix="arriving-"))
    try:
        root, source = work / "root", work / "source"
        build(source, makes)
        nodes, watcher = watched(source)
        root.mkdir()
        update = ArrivingUpdate(root, nodes)
        update.prepare()
        add_all(update, watcher.done, Contents(source, scanned(source)))
        update.finish()
        assert list(scanned(root).walk()) == list(scanned(source).walk())
        assert scanned(root).tree == scanned(source).tree
        assert sorted(path.name for path in work.iterdir()) == ["root", "source"]
    finally:
        remove_path(work)


def test_files_are_in_place_before_the_root_is_known(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("a/b/deep", b"first"), MakeFile("z", b"last")])
    nodes, watcher = watched(source)
    assert [path for path, _ in watcher.done] == [b"a/b", b"a", b""]
    root.mkdir()
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    contents = Contents(source, scanned(source))
    add_all(update, watcher.done[:1], contents)
    assert (root / "a/b/deep").read_bytes() == b"first"
    add_all(update, watcher.done[1:], contents)
    update.finish()
    assert scanned(root).tree == scanned(source).tree


@pytest.mark.parametrize("times", [RootTimes.KEPT, RootTimes.TOUCHED])
def test_where_names_arrive_the_directory_that_they_come_to_stays_as_it_is(
    tmp_path: Path, times: RootTimes
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("a/b/deep", b"first"), MakeFile("z", b"last")])
    source.chmod(0o700)
    nodes, watcher = watched(source)
    root.mkdir()
    root.chmod(0o2750)
    os.setxattr(root, "user.own", b"value")
    os.utime(root, ns=(0, 10**18))
    update = ArrivingUpdate(root, nodes, names=frozenset((b"a", b"z")), root_times=times)
    update.prepare()
    add_all(update, watcher.done, Contents(source, scanned(source)))
    update.finish()
    assert update.came == scanned(source).tree
    assert scanned(root).root.entries == scanned(source).root.entries
    assert root.stat().st_mode & 0o7777 == 0o2750
    assert os.getxattr(root, "user.own") == b"value"
    assert (root.stat().st_mtime_ns == 10**18) == (times is RootTimes.KEPT)


@pytest.mark.parametrize("name", ["a/b/deep", "z"])
def test_a_name_that_was_not_announced_is_refused(tmp_path: Path, name: str) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("known", b""), MakeFile(name, b"")])
    nodes, watcher = watched(source)
    root.mkdir()
    update = ArrivingUpdate(root, nodes, names=frozenset((b"known",)))
    update.prepare()
    with pytest.raises(MalformedManifest, match="which was not announced"):
        update.add(watcher.done)
    update.abort()
    assert list(root.iterdir()) == []


def test_of_names_that_are_one_on_this_file_system_the_first_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkDirectory, "folds_case", lambda _: True)
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile(name, name.encode()) for name in ("d/A", "d/a", "d/b", "x", "X")])
    nodes, watcher = watched(source)
    root.mkdir()
    update = ArrivingUpdate(root, nodes, goes_on=True)
    update.prepare()
    add_all(update, watcher.done, Contents(source, scanned(source)))
    assert update.finish().not_kept == {"differently cased name": 2}
    assert sorted(path.name for path in root.rglob("*")) == ["A", "X", "b", "d"]


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have directories whose names differ in case alone be one."""
    mkdir = os.mkdir

    def fold(path: str | bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        name = os.fsdecode(path).lower()
        if dir_fd is not None and name.encode() in map(bytes.lower, names_of(dir_fd)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        mkdir(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(WorkDirectory, "folds_case", lambda _: True)
    monkeypatch.setattr(os, "mkdir", fold)


TWINS: list[Make] = [
    MakeFile("D/a", b"1"),
    MakeFile("D/x/in", b"2"),
    MakeFile("d/A", b"3"),
    MakeFile("d/a", b"4"),
    MakeFile("d/X/in", b"5"),
    MakeFile("d/x/in", b"6"),
    MakeFile("e/F/g/in", b"7"),
    MakeFile("e/f/G/in", b"8"),
    MakeDirectory("e/f/empty"),
    MakeLink("link", "d/A"),
    MakeFile("z", b"9"),
]


@pytest.mark.usefixtures("folding")
def test_of_directories_that_are_one_the_first_arrives_as_it_does_in_any_update(
    tmp_path: Path,
) -> None:
    source, root, other = (tmp_path / name for name in ("source", "root", "other"))
    build(source, TWINS)
    nodes, watcher = watched(source)
    target = scanned(source)
    root.mkdir()
    arriving = ArrivingUpdate(root, nodes, goes_on=True)
    arriving.prepare()
    add_all(arriving, watcher.done, Contents(source, target))
    done = arriving.finish()
    known = update(other, source, basis=None, target=target, goes_on=True)
    assert done.not_kept == known.stats.not_kept == {"differently cased name": 2}
    assert list(scanned(root).walk()) == list(scanned(other).walk())
    assert done.created == len(list(root.rglob("*"))) == 10
    assert (root / "link").read_bytes() == b"3"


@pytest.mark.usefixtures("folding")
def test_a_directory_that_has_arrived_keeps_its_name_from_a_file(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("A", b"1"), MakeFile("a/in", b"2"), MakeFile("b", b"3")])
    nodes, watcher = watched(source)
    root.mkdir()
    update = ArrivingUpdate(root, nodes, goes_on=True)
    update.prepare()
    add_all(update, watcher.done, Contents(source, scanned(source)))
    assert update.finish().not_kept == {"differently cased name": 1}
    assert sorted(path.name for path in root.rglob("*")) == ["a", "b", "in"]


def test_a_directory_that_somebody_made_meanwhile_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "root"
    nodes, done = made({b"d": [], b"": []})
    root.mkdir()
    update = ArrivingUpdate(root, nodes, goes_on=True)
    update.prepare()
    (root / "d").mkdir()
    with pytest.raises(StoreError, match="somebody made it just now"):
        update.add(done)
    update.abort()


def test_what_small_files_hold_is_told_once_and_with_its_digest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    build(source, [MakeFile("a", b"one"), MakeFile("d/b", b"two")])
    _, watcher = watched(source)
    assert sorted(watcher.read.values()) == [b"one", b"two"]
    assert watcher.read.keys() == {file(b"", data).digest for data in (b"one", b"two")}


@pytest.mark.parametrize("path", [b"/".join([b"d"] * 4000), b"/".join([b"d" * 255] * 3999)])
def test_a_path_that_goes_too_deep_makes_no_directory(tmp_path: Path, path: bytes) -> None:
    root = tmp_path / "root"
    root.mkdir()
    nodes = MemoryNodes()
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    with pytest.raises(MalformedManifest, match="paths of directories"):
        update.add([(path, put(nodes, EMPTY_DIRECTORY))])
    update.abort()
    assert not list(root.iterdir())


def test_names_below_a_directory_that_cannot_be_made_do_not_count_as_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def refusing(name: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if name == b"no":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        mkdir(name, mode, dir_fd=dir_fd)

    root, source = tmp_path / "root", tmp_path / "source"
    root.mkdir()
    build(source, [MakeFile("no/a", b"1"), MakeFile("no/d/b", b"2"), MakeFile("yes/c", b"3")])
    nodes, watcher = watched(source)
    update = ArrivingUpdate(root, nodes, goes_on=True)
    monkeypatch.setattr(os, "mkdir", refusing)
    update.prepare()
    wanted = update.add(watcher.done)
    hand_in(update, wanted, Contents(source, scanned(source)))
    assert update.finish().created == len(["yes", "yes/c"])
    assert update.refused.named == {b"no": errno.EPERM}


@pytest.mark.parametrize("module", [arriving, visits])
def test_paths_are_too_long_all_together_beyond_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    nodes = MemoryNodes()
    tree = put(nodes, EMPTY_DIRECTORY)
    monkeypatch.setattr(module, "MAX_PATH_BYTES", 1000)
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    for number in range(10):
        update.add([(b"%0100d" % number, tree)])
    with pytest.raises(MalformedManifest, match="paths of directories"):
        update.add([(b"d", tree)])
    update.abort()
    assert len(list(root.iterdir())) == 10


@pytest.mark.parametrize(
    "path",
    [b"..", b"a/..", b"/a", b"a/", b"a//b", b".", b"a\0b", b"x" * 256],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: bytes) -> None:
    root = tmp_path / "root"
    root.mkdir()
    nodes, [(_, tree)] = made({b"": []})
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    with pytest.raises(MalformedManifest, match="is no path"):
        update.add([(path, tree)])
    update.abort()
    assert sorted(os.listdir(tmp_path)) == ["root"]


@pytest.mark.parametrize(
    "directories",
    [
        {b"a": [], b"": [], b"b": []},  # one after the root
        {b"": [], b"x": []},
        {b"a/b": [], b"a": [], b"c/d": [], b"": []},  # one whose parent never came
    ],
)
def test_directories_that_are_no_one_tree_are_refused(
    tmp_path: Path, directories: dict[bytes, list[Entry]]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    nodes, done = made(directories)
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    with pytest.raises(MalformedManifest, match="does not hold"):
        update.add(done)
    update.abort()


def test_a_root_that_holds_another_directory_than_came_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    nodes, done = made({b"a": [file(b"f", b"1")], b"": []})
    other = put(nodes, with_entries(EMPTY_DIRECTORY, [file(b"f", b"2")]))
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    with pytest.raises(MalformedManifest, match="does not hold"):
        update.add([(b"a", other), done[-1]])
    update.abort()


def test_our_own_names_are_reserved(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    nodes, done = made({b"": [file(b".filesync-0123456789abcdef", b"1")]})
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    with pytest.raises(MalformedManifest, match="reserved"):
        update.add(done)
    update.abort()


def test_without_its_root_a_tree_is_not_finished_and_what_came_is_found(
    tmp_path: Path,
) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("a/f", b"data"), MakeFile("b/g", b"more")])
    nodes, watcher = watched(source)
    root.mkdir()
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    add_all(update, watcher.done[:1], Contents(source, scanned(source)))
    with pytest.raises(LocalError):
        update.finish()
    update.abort()
    found = scanned(root).find(b"a/f")
    assert found == scanned(source).find(b"a/f")
    assert os.listdir(root) == ["a"]


def test_a_large_content_that_is_there_twice_is_wanted_once(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    build(source, [MakeFile("a/f", b"x" * 50_000), MakeFile("b/f", b"x" * 50_000)])
    nodes, watcher = watched(source)
    root.mkdir()
    update = ArrivingUpdate(root, nodes)
    update.prepare()
    wanted: list[WantedFile] = []
    for one in watcher.done:
        more = update.add([one])
        hand_in(update, more, Contents(source, scanned(source)))
        wanted += more
    update.finish()
    assert [one.size for one in wanted] == [50_000]
    assert scanned(root).tree == scanned(source).tree
