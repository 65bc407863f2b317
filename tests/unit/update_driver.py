"""Trees on disk for tests of updates: made from short descriptions, scanned, updated."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.disk.removing import remove_tree
from filesync.disk.scanning.scan import scan
from filesync.disk.updating.update import LocalTree, TreeUpdate, UpdateStats, WantedFile
from filesync.manifest import (
    EMPTY_DIRECTORY,
    Entry,
    File,
    Manifest,
    MemoryNodes,
    put,
    with_entries,
)

SMALL_BYTES = 64 << 10


@dataclass(frozen=True)
class MakeFile:
    path: str
    data: bytes = b""
    mode: int = 0o644
    mtime_ns: int = 1_000_000_007


@dataclass(frozen=True)
class MakeDirectory:
    path: str
    mode: int = 0o755
    mtime_ns: int = 2_000_000_009


@dataclass(frozen=True)
class MakeSymlink:
    path: str
    target: str
    mtime_ns: int = 3_000_000_011


@dataclass(frozen=True)
class MakeFifo:
    path: str
    mode: int = 0o600
    mtime_ns: int = 4_000_000_013


@dataclass(frozen=True)
class MakeLink:
    path: str
    to: str


Make = MakeFile | MakeDirectory | MakeSymlink | MakeFifo | MakeLink


def build(root: Path, makes: Iterable[Make]) -> None:
    """Make a tree; what cannot be made because of what is there already is left out."""
    root.mkdir(exist_ok=True)
    directories = {root: MakeDirectory("", mtime_ns=5)}
    for make in makes:
        path = root / make.path
        if any(parent.is_symlink() for parent in path.parents):
            continue
        for parent in reversed(path.parents):
            if parent.is_relative_to(root) and not os.path.lexists(parent):
                with suppress(OSError):
                    parent.mkdir()
                    directories[parent] = MakeDirectory("")
        try:
            _make(root, path, make)
        except OSError:
            continue
        if isinstance(make, MakeDirectory):
            directories[path] = make
    for path, directory in reversed(directories.items()):
        path.chmod(directory.mode)
        os.utime(path, ns=(directory.mtime_ns, directory.mtime_ns))


def _make(root: Path, path: Path, make: Make) -> None:
    if os.path.lexists(path):
        raise FileExistsError
    match make:
        case MakeFile():
            path.write_bytes(make.data)
            path.chmod(make.mode)
        case MakeDirectory():
            path.mkdir()
            return
        case MakeSymlink():
            path.symlink_to(make.target)
        case MakeFifo():
            os.mkfifo(path)
            path.chmod(make.mode)
        case MakeLink():
            if not (root / make.to).is_file() or (root / make.to).is_symlink():
                raise FileNotFoundError
            os.link(root / make.to, path)
            return
    os.utime(path, ns=(make.mtime_ns, make.mtime_ns), follow_symlinks=False)


def scanned(root: Path) -> Manifest:
    nodes = MemoryNodes()
    return Manifest(scan(root, nodes).tree, nodes)


@dataclass
class Updated:
    stats: UpdateStats
    fetched: list[WantedFile] = field(default_factory=list)

    @property
    def fetched_bytes(self) -> int:
        return sum(wanted.size for wanted in self.fetched)


class Contents:
    """What a sender has: contents by digest."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._root = root
        self._paths: dict[Digest, bytes] = {
            entry.digest: path for path, entry in manifest.walk() if isinstance(entry, File)
        }

    def __getitem__(self, digest: Digest) -> bytes:
        return Path(
            os.fsdecode(os.path.join(os.fsencode(self._root), self._paths[digest]))
        ).read_bytes()


def hand_in(update: TreeUpdate, wanted: Sequence[WantedFile], contents: Contents) -> None:
    small = [one for one in wanted if one.size <= SMALL_BYTES]
    update.write_small([(one, contents[one.digest]) for one in small])
    for one in wanted:
        if one.size > SMALL_BYTES:
            large = update.open_large(one)
            data = contents[one.digest]
            for at in range(0, len(data), 50_000):
                large.write(at, data[at : at + 50_000])
            large.finish()


def update(
    root: Path,
    source: Path,
    *,
    basis: Manifest | None,
    target: Manifest,
    local: Sequence[LocalTree] = (),
    atomic: bool = False,
    groups: frozenset[int] | None = None,
    goes_on: bool = False,
) -> Updated:
    """Update ``root`` to ``target``, which ``source`` holds."""
    one = TreeUpdate(
        root,
        basis=basis,
        target=target,
        local=local,
        atomic=atomic,
        groups=groups,
        goes_on=goes_on,
    )
    try:
        one.prepare()
        wanted = list(one.wanted())
        hand_in(one, wanted, Contents(source, target))
        return Updated(one.finish(), wanted)
    finally:
        one.abort()


def sync(root: Path, source: Path, *, atomic: bool = False) -> Updated:
    """Update ``root`` to what ``source`` holds and check that it does."""
    basis = scanned(root) if root.exists() else None
    target = scanned(source)
    done = update(root, source, basis=basis, target=target, atomic=atomic)
    assert list(scanned(root).walk()) == list(target.walk())
    assert scanned(root).tree == target.tree
    return done


def tree_of(*entries: Entry) -> Manifest:
    nodes = MemoryNodes()
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, entries)), nodes)


def file(name: bytes, data: bytes, *, mode: int = 0o644, link: bytes = b"") -> File:
    me = os.geteuid()
    return File(name, mode, me, me, 0, len(data), digest_of(data), link)


def any_trees(
    *, modes: Sequence[int], directory_modes: Sequence[int] | None = None
) -> st.SearchStrategy[list[Make]]:
    """Small trees of every kind, with a few names and contents, so that much is alike."""
    paths = st.lists(st.sampled_from("ab0"), min_size=1, max_size=3).map("/".join)
    disk = bytes(9000) + b"end" + bytes(90_000)
    contents = st.sampled_from([b"", b"x", b"some text", b"y" * 20_000, b"z" * 70_000, disk])
    times = st.sampled_from([0, 1_000_000_007, -5, 1_700_000_000_123_456_789])
    mode = st.sampled_from(modes)
    targets = st.sampled_from(["a", "../b", "/etc/passwd"])
    makes: st.SearchStrategy[Make] = st.one_of(
        st.builds(MakeFile, paths, contents, mode, times),
        st.builds(MakeDirectory, paths, st.sampled_from(directory_modes or modes), times),
        st.builds(MakeSymlink, paths, targets, times),
        st.builds(MakeFifo, paths, mode, times),
        st.builds(MakeLink, paths, paths),
    )
    return st.lists(makes, max_size=14)


def check_update(before: list[Make] | None, after: list[Make], *, atomic: bool) -> None:
    """Make two trees, update one to the other, and check that nothing else is left."""
    work = Path(tempfile.mkdtemp(prefix="update-"))
    try:
        root, source = work / "root", work / "source"
        if before is not None:
            build(root, before)
        build(source, after)
        basis = scanned(root) if before is not None else None
        target = scanned(source)
        done = update(root, source, basis=basis, target=target, atomic=atomic)
        assert done.stats.not_kept == {}
        assert list(scanned(root).walk()) == list(target.walk())
        assert scanned(root).tree == target.tree
        assert sorted(path.name for path in work.iterdir()) == ["root", "source"]
    finally:
        handle = os.open(work.parent, os.O_RDONLY)
        try:
            remove_tree(handle, os.fsencode(work.name))
        finally:
            os.close(handle)
