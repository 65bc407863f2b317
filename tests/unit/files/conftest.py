"""Trees as dictionaries, planted on disk and read back."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.manifest import Directory, LayeredNodes, Manifest, MemoryNodes, Subdirectory
from filesync.trees.select import select
from worker.files import InputTree, perform
from worker.wire.ops import Action, Copy, FileOp, selector_of

Listing = Mapping[str, str]
"""Paths to contents; '-> text' is a link, a path that ends in '/' a directory (with 'mode')."""
NOW_NS = 1_000_000_000_000_000_000
_numbers = count()


def plant(root: Path, tree: Listing) -> None:
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    for name, value in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
            path.chmod(int(value or "755", 8))
        elif value.startswith("-> "):
            path.symlink_to(value[3:])
        else:
            path.write_text(value)
            path.chmod(0o644)


def listed(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
        elif not any(path.iterdir()):
            found[name + "/"] = ""
    return found


def manifest_of(root: Path) -> Manifest:
    nodes = MemoryNodes()
    return Manifest(scan(root, nodes).tree, nodes)


def subset_of(full: InputTree, op: FileOp, number: int, where: Path) -> InputTree:
    """Put on disk just what the op's selector leaves of an input."""
    selector = selector_of(op, number)
    assert selector is not None
    nodes = LayeredNodes(MemoryNodes(), full.manifest.nodes)
    subset = select(full.manifest, selector, nodes)
    where.mkdir()
    for path, entry in subset.walk():
        target = where / os.fsdecode(path)
        if isinstance(entry, Subdirectory):
            target.mkdir()
        else:
            os.link(full.root / os.fsdecode(path), target, follow_symlinks=False)
    # The deepest first: what is finished must not change any more.
    for path, entry in reversed(list(subset.walk())):
        if isinstance(entry, Subdirectory):
            _finish(where / os.fsdecode(path), subset.directory(entry.tree))
    _finish(where, subset.root)
    assert manifest_of(where).tree == subset.tree
    return InputTree(where, subset)


def _finish(path: Path, directory: Directory) -> None:
    os.chown(path, directory.uid, directory.gid)
    for name, value in directory.xattrs:
        os.setxattr(path, name, value)
    path.chmod(directory.mode)
    os.utime(path, ns=(directory.mtime_ns, directory.mtime_ns))


@pytest.fixture
def lay(tmp_path: Path) -> Callable[[Listing], Path]:
    def make(tree: Listing) -> Path:
        root = tmp_path / f"tree-{next(_numbers)}"
        plant(root, tree)
        return root

    return make


@pytest.fixture
def read() -> Callable[[Path], dict[str, str]]:
    return listed


@pytest.fixture
def run() -> Callable[..., Mapping[bytes, tuple[int, bytes]]]:
    """Perform actions with input 0, and check the hints against what was written."""

    def do(
        root: Path, *actions: Action, source: Path | None = None, now_ns: int | None = NOW_NS
    ) -> Mapping[bytes, tuple[int, bytes]]:
        inputs = {} if source is None else {0: InputTree(source, manifest_of(source))}
        op = FileOp(actions, scratch=True)
        hints = perform(op, root=root, inputs=inputs, now_ns=now_ns).hints
        nodes = MemoryNodes()
        with_hints, without = scan(root, nodes, hints=hints), scan(root, nodes)
        assert with_hints.tree == without.tree
        assert all(stat.S_ISREG(os.lstat(root / os.fsdecode(path)).st_mode) for path in hints)
        return hints

    return do


@pytest.fixture
def copy_both(tmp_path: Path) -> Callable[..., Path]:
    """Run copies from the whole of ``source`` and from their subset of it: one result."""

    def do(source: Path, base: Listing, *copies: Copy) -> Path:
        op = FileOp(copies, scratch=True)
        whole = InputTree(source, manifest_of(source))
        number = next(_numbers)
        part = subset_of(whole, op, 0, tmp_path / f"subset-{number}")
        results = []
        for name, tree in (("whole", whole), ("part", part)):
            root = tmp_path / f"{name}-{number}"
            plant(root, base)
            for path in sorted(root.rglob("*"), reverse=True):
                os.utime(path, ns=(NOW_NS, NOW_NS), follow_symlinks=False)
            os.utime(root, ns=(NOW_NS, NOW_NS))
            perform(op, root=root, inputs={0: tree}, now_ns=NOW_NS)
            results.append(root)
        first, second = results
        assert manifest_of(first).tree == manifest_of(second).tree
        return first

    return do


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that nothing may read or write, checked at the end."""
    secret = tmp_path / "outside"
    plant(secret, {"passwd": "secret", "dir/file": "secret"})
    before = manifest_of(secret).tree
    yield secret
    assert manifest_of(secret).tree == before
