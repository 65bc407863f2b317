"""Reading the contents of an offered tree from a disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning.scan import scan
from filesync.errors import SourceChanged
from filesync.manifest import Manifest, MemoryNodes
from filesync.transfer.send.contents import Contents, directories_of
from filesync.transfer.send.recent import Recent
from filesync.transfer.send.source_disk import SourceTree
from filesync.transfer.wire import Level

CONTENT = b"as it was" * 4000
Read = Callable[[SourceTree], object]


def scanned(root: Path, *, is_live: bool, recent: Recent | None = None) -> SourceTree:
    nodes = MemoryNodes()
    manifest = Manifest(scan(root, nodes).tree, nodes)
    return SourceTree(
        root, lambda: Contents(nodes, directories_of(manifest)), recent, is_live=is_live
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "d/f"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


each_read = pytest.mark.parametrize(
    "read",
    [
        lambda source: source.read([(digest_of(CONTENT), 0, 9)]),
        lambda source: source.read([(digest_of(CONTENT), at, 9) for at in (0, 9)]),
        lambda source: source.recipes([(digest_of(CONTENT), 0, len(CONTENT), Level.CHUNKS)]),
    ],
    ids=["one range", "ranges", "recipe"],
)


@each_read
def test_a_file_of_the_same_size_and_another_time_has_changed(path: Path, read: Read) -> None:
    source = scanned(path.parents[1], is_live=True)
    with path.open("r+b") as file:
        file.write(b"AS")
    os.utime(path, ns=(0, 1))
    with pytest.raises(SourceChanged) as caught:
        read(source)
    assert caught.value.path == b"d/f"
    source.close()


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_content_that_was_just_read_is_not_read_again_though_it_has_a_frame_of_its_own(
    path: Path, is_listed: bool
) -> None:
    recent = Recent()
    recent.keep(digest_of(CONTENT), CONTENT)
    source = scanned(path.parents[1], is_live=True, recent=recent)
    if is_listed:
        source.load()
    path.unlink()
    assert source.read([(digest_of(CONTENT), 0, len(CONTENT))]) == CONTENT
    assert not recent.has_all  # and what was kept has given its room back
    source.close()


def test_what_nobody_else_writes_to_may_be_listed_with_other_times(path: Path) -> None:
    source = scanned(path.parents[1], is_live=False)
    os.utime(path, ns=(0, 1))
    assert source.read([(digest_of(CONTENT), 0, 9)]) == CONTENT[:9]
    source.close()


@each_read
def test_what_has_grown_is_there_as_it_was(path: Path, read: Read) -> None:
    source = scanned(path.parents[1], is_live=True)
    before = read(source)
    with path.open("ab") as file:
        file.write(b" and more" * 1000)
    os.utime(path, ns=(0, 1))
    assert read(source) == before
    source.close()


@each_read
@pytest.mark.parametrize(("is_live", "size"), [(True, len(CONTENT) - 1), (False, 1 << 20)])
def test_what_is_shorter_has_changed_and_what_nobody_else_writes_to_does_not_grow(
    path: Path, read: Read, is_live: bool, size: int
) -> None:
    source = scanned(path.parents[1], is_live=is_live)
    os.truncate(path, size)
    with pytest.raises(SourceChanged):
        read(source)
    source.close()
