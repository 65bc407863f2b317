"""Contents that are handed to an update, small and large."""

import errno
import os
import random
import threading
from pathlib import Path

import msgspec
import pytest

from filesync.disk.updating.large import LargeFile
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


LARGE = random.Random(5).randbytes(9 << 20)


def copied(root: Path, length: int, content: bytes = LARGE) -> os.stat_result:
    """Have ``root``/a come to hold ``content``, by copies of what it holds behind a page."""
    target = tree_of(file(b"a", content))
    one = TreeUpdate(root, basis=scanned(root), target=target)
    one.prepare()
    large = one.open_large(next(one.wanted()))
    for at in range(0, len(content), length):
        count = min(length, len(content) - at)
        large.copy(at, basis=0, basis_offset=at + 4096, length=count)
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == content
    return (root / "a").stat()


@pytest.mark.parametrize("length", [len(LARGE), 5 << 20, 77_824])
def test_what_the_kernel_copies_never_comes_into_this_process(
    root: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    root.mkdir()
    (root / "a").write_bytes(bytes(4096) + LARGE)
    monkeypatch.setattr(LargeFile, "_read", None)
    copied(root, length)


def test_what_the_kernel_copies_begins_and_ends_with_a_block_so_that_files_can_share_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied_ranges: list[tuple[int, int]] = []

    def copy(source: int, target: int, count: int, start: int, offset: int) -> int:
        done = kernels(source, target, count, start, offset)
        copied_ranges.append((offset, offset + done))
        return done

    kernels = os.copy_file_range
    root.mkdir()
    (root / "a").write_bytes(bytes(4096) + LARGE)
    monkeypatch.setattr(os, "copy_file_range", copy)
    copied(root, 77_777)
    whole = [(start, end) for start, end in copied_ranges if start % 4096 == end % 4096 == 0]
    assert sum(end - start for start, end in whole) > len(LARGE) * 9 // 10


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.ENOSYS, errno.EPERM])
def test_where_the_kernel_does_not_copy_the_bytes_are_read_and_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(reason, "no")

    root.mkdir()
    (root / "a").write_bytes(bytes(4096) + LARGE)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    copied(root, 5 << 20)


def test_holes_of_an_old_file_are_not_filled(root: Path) -> None:
    root.mkdir()
    with (root / "a").open("wb") as old:
        old.truncate((9 << 20) + 4096)
        old.seek(4096)
        old.write(LARGE[: 1 << 20])
    content = LARGE[: 1 << 20] + bytes(8 << 20)
    status = copied(root, 5 << 20, content)
    assert status.st_blocks * 512 < 2 << 20


@pytest.mark.parametrize("length", [5 << 20, 64 << 10, 77_777])
def test_zeros_that_an_old_file_has_written_become_holes(root: Path, length: int) -> None:
    content = LARGE[:1_000_000] + bytes(7 << 20) + LARGE[:1_000_000]
    root.mkdir()
    (root / "a").write_bytes(bytes(4096) + content)
    status = copied(root, length, content)
    assert status.st_blocks * 512 < 2_500_000


@pytest.mark.parametrize("length", [999, 4095, 4097, 77_777])
def test_a_hole_that_comes_in_chunks_stays_one_at_their_borders(
    root: Path, length: int
) -> None:
    content = bytes(1 << 20) + b"end"
    target = tree_of(file(b"a", content))
    one = TreeUpdate(root, basis=None, target=target)
    one.prepare()
    large = one.open_large(next(one.wanted()))
    for at in range(0, len(content), length):
        large.write(at, content[at : at + length])
    large.finish()
    one.finish()
    assert (root / "a").read_bytes() == content
    assert (root / "a").stat().st_blocks * 512 <= 8192


def test_an_old_file_that_ends_before_its_copy_is_refused(root: Path) -> None:
    root.mkdir()
    (root / "a").write_bytes(LARGE[:-1])
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", LARGE)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    with pytest.raises(ContentCorrupt, match="ends before"):
        large.copy(0, basis=0, basis_offset=0, length=len(LARGE))
    large.abort()
    one.abort()


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


@pytest.mark.parametrize(
    ("offset", "basis", "basis_offset", "length"),
    [
        (0, 1, 0, 1),
        (0, -1, 0, 1),
        (0, 0, -1, 1),
        (-1, 0, 0, 1),
        (0, 0, 0, -1),
        (1, 0, 0, len(DATA)),
    ],
)
def test_a_copy_from_or_to_what_is_not_in_a_large_file_is_refused(
    root: Path, offset: int, basis: int, basis_offset: int, length: int
) -> None:
    root.mkdir()
    (root / "a").write_bytes(DATA[::-1])
    one = TreeUpdate(root, basis=scanned(root), target=tree_of(file(b"a", DATA)))
    one.prepare()
    large = one.open_large(next(one.wanted()))
    with pytest.raises(ContentCorrupt):
        large.copy(offset, basis=basis, basis_offset=basis_offset, length=length)
    large.abort()
    one.abort()
    assert (root / "a").read_bytes() == DATA[::-1]


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
