"""Contents that are handed to an update, small and large."""

import threading
from pathlib import Path

import msgspec
import pytest

from filesync.disk.updating.update import TreeUpdate
from filesync.errors import (
    ContentCorrupt,
    LocalError,
    MalformedManifest,
)
from tests.unit.update_driver import (
    Contents,
    MakeFile,
    build,
    file,
    scanned,
    tree_of,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def test_small_contents_are_verified_before_any_is_written(root: Path) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of(file(b"a", b"1"), file(b"b", b"2")))
    one.prepare()
    a, b = one.wanted()
    with pytest.raises(ContentCorrupt):
        one.write_small([(a, b"1"), (b, b"x")])
    assert not (root / "a").exists()
    assert [wanted.ticket for wanted in one.wanted()] == [a.ticket, b.ticket]
    one.write_small([(a, b"1"), (b, memoryview(b"2"))])
    assert list(one.wanted()) == []
    one.finish()
    assert (root / "b").read_bytes() == b"2"


def test_a_size_that_the_manifest_lies_about_is_corrupt(root: Path) -> None:
    entry = msgspec.structs.replace(file(b"a", b"data"), size=3)
    one = TreeUpdate(root, basis=None, target=tree_of(entry))
    one.prepare()
    with pytest.raises(ContentCorrupt):
        one.write_small([(next(one.wanted()), b"data")])
    one.abort()


def test_an_empty_file_with_another_files_digest_is_refused(root: Path) -> None:
    entry = msgspec.structs.replace(file(b"a", b"data"), size=0)
    one = TreeUpdate(root, basis=None, target=tree_of(entry))
    one.prepare()
    with pytest.raises(MalformedManifest):
        list(one.wanted())
    one.abort()


DATA = bytes(range(256)) * 1000


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
@pytest.mark.parametrize("replaced", [b"", b"old"])
def test_large_files_come_in_any_order(root: Path, order: list[int], replaced: bytes) -> None:
    root.mkdir()
    if replaced:
        (root / "a").write_bytes(replaced)
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    assert [basis.size for basis in large.bases] == [len(replaced)] * bool(replaced)
    for piece in order:
        large.write(piece * 64_000, DATA[piece * 64_000 :][:64_000])
    if replaced:
        assert (root / "a").read_bytes() == replaced
    large.finish()
    large.abort()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_parts_of_a_large_file_are_copied_from_the_one_it_replaces(root: Path) -> None:
    root.mkdir()
    (root / "a").write_bytes(DATA[100_000:] + DATA[:100_000])
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    large.copy(0, basis=0, basis_offset=len(DATA) - 100_000, length=100_000)
    large.copy(100_000, basis=0, basis_offset=0, length=len(DATA) - 100_000)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("replaced", [b"", b"old"])
def test_a_corrupt_large_file_is_removed_and_still_wanted(
    root: Path, replaced: bytes, in_order: bool
) -> None:
    root.mkdir()
    if replaced:
        (root / "a").write_bytes(replaced)
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    wanted = next(one.wanted())
    large = one.open_large(wanted)
    pieces = [(0, DATA[:1000]), (1000, bytes(len(DATA) - 1000))]
    for offset, data in pieces if in_order else reversed(pieces):
        large.write(offset, data)
    with pytest.raises(ContentCorrupt):
        large.finish()
    assert (root / "a").exists() == bool(replaced)
    with pytest.raises(LocalError):
        one.finish()
    large = one.open_large(wanted)
    large.write(0, DATA)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == DATA


def test_bytes_past_the_end_of_a_large_file_are_refused(root: Path) -> None:
    one = TreeUpdate(root, basis=None, target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    for offset, data in ((len(DATA) - 1, b"12"), (-1, b"12"), (1 << 70, b"1")):
        with pytest.raises(ContentCorrupt):
            large.write(offset, data)
    with pytest.raises(ContentCorrupt):
        large.copy(0, basis=0, basis_offset=0, length=1)
    large.abort()
    one.abort()
    assert list(root.iterdir()) == []


def test_several_threads_write_at_once(root: Path, source: Path) -> None:
    build(source, [MakeFile(f"{n % 7}/{n}", b"%d" % n * 50) for n in range(700)])
    target = scanned(source)
    contents = Contents(source, target)
    one = TreeUpdate(root, basis=None, target=target)
    one.prepare()
    wanted = list(one.wanted())
    failures: list[BaseException] = []

    def write(part: int) -> None:
        try:
            for at in range(part * 10, len(wanted), 40):
                one.write_small([(w, contents[w.digest]) for w in wanted[at : at + 10]])
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    one.finish()
    assert scanned(root).tree == target.tree
