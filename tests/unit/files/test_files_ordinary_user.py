"""What a worker that does not run as root makes of a copy."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from tests.unit.ordinary import NOBODY, as_nobody
from worker.files import InputTree, perform
from worker.files.errors import BadMode
from worker.wire.ops import Copy, FileOp

pytestmark = pytest.mark.needs("root")


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that an ordinary user owns and can reach, with a tree to copy from."""
    path = Path(tempfile.mkdtemp(prefix="copy-"))
    (path / "source").mkdir()
    (path / "source/f").write_text("f")
    for one in (path, path / "source", path / "source/f"):
        os.chown(one, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def copied(work: Path, mode: str) -> Path:
    """Copy the file into a directory that is made on the way; return the tree."""
    nodes, root = MemoryNodes(), work / mode
    source = InputTree(work / "source", Manifest(scan(work / "source", nodes).tree, nodes))
    root.mkdir()
    op = FileOp(
        (Copy(0, "f", "/new/below/", owner=f"{NOBODY}:{NOBODY}", mode=mode),), scratch=True
    )
    perform(op, root=root, inputs={0: source}, now_ns=0)
    return root


def test_directories_on_the_way_may_be_closed_to_writers(work: Path) -> None:
    def check() -> None:
        root = copied(work, "555")
        modes = [
            (root / name).stat().st_mode & 0o7777
            for name in ("new", "new/below", "new/below/f")
        ]
        assert modes == [0o555, 0o555, 0o555]

    as_nobody(check)


@pytest.mark.parametrize("mode", ["644", "333", "0"])
def test_directories_that_only_root_could_enter_are_refused_in_plain_words(
    work: Path, mode: str
) -> None:
    def check() -> None:
        with pytest.raises(
            BadMode, match="new: a directory that is made on the way would be 0"
        ):
            copied(work, mode)

    as_nobody(check)
