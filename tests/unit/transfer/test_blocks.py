import os
import random
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.transfer.coding import blocks
from filesync.transfer.coding.blocks import (
    LEAST_BLOCK_BYTES,
    MOST_BLOCKS,
    NEEDLE_BYTES,
    WINDOW_BLOCKS,
    Blocking,
    Blocks,
    Follower,
    block_bytes_of,
    seems_in_order,
)
from filesync.transfer.coding.blocks_disk import BlockFiles
from filesync.transfer.coding.remains import MAX_BYTES, Run
from tests.unit.made import reader

KEY = 7
BLOCK_BYTES = LEAST_BLOCK_BYTES
WINDOW_BYTES = WINDOW_BLOCKS * BLOCK_BYTES
RNG = random.Random(1)
OLD = RNG.randbytes(500 * BLOCK_BYTES + 1000)
LINES = b"".join(b"%07d GET /index.html took %d ms\n" % (n, n % 9) for n in range(120_000))


def pieces(content: bytes, size: int) -> Sequence[memoryview]:
    return [memoryview(content)[at : at + size] for at in range(0, len(content), size)]


def marked(content: bytes, *, size: int = 1 << 20, key: int = KEY) -> Blocks:
    blocking = Blocking(key, len(content))
    for piece in pieces(content, size):
        blocking.add(piece)
    return blocking.end()


def followed(old: bytes, new: bytes, *, size: int = 1 << 20) -> list[Run]:
    """Return what ``new`` has of ``old``, which is checked."""
    follower = Follower(marked(old))
    for piece in pieces(new, size):
        follower.add(piece)
    runs, end = follower.end(), 0
    for offset, start, length in runs:
        assert offset >= end
        end = offset + length
        assert new[offset:end] == old[start : start + length]
    return runs


def found(old: bytes, new: bytes) -> float:
    """Return how much of what ``new`` may have of ``old`` was found in it."""
    length = sum(run.length for run in followed(old, new))
    return length / min(len(old), len(new))


def in_order(old: bytes, new: bytes) -> bool:
    return seems_in_order(marked(old), len(new), reader(new))


@given(size=st.sampled_from([1, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 1 << 20]))
@settings(max_examples=6)
def test_blocks_are_the_same_whatever_the_pieces(size: int) -> None:
    content = OLD[: 3 * BLOCK_BYTES + 500]
    made = marked(content, size=size)
    assert made == marked(content)
    assert (made.size, len(made.marks)) == (len(content), 4)
    assert [
        made.needles[number * NEEDLE_BYTES : (number + 1) * NEEDLE_BYTES] for number in range(4)
    ] == [content[at : at + NEEDLE_BYTES] for at in range(0, len(content), BLOCK_BYTES)]


def test_of_another_key_no_mark_is_the_same() -> None:
    assert not set(marked(OLD).marks) & set(marked(OLD, key=KEY + 1).marks)


def change_bytes(old: bytes) -> bytes:
    new = bytearray(old)
    for at in range(5000, len(new), 40 * BLOCK_BYTES):
        new[at] ^= 1
    return bytes(new)


def insert_often(old: bytes) -> bytes:
    return b"".join(
        old[at : at + 301_000] + RNG.randbytes(1000) for at in range(0, len(old), 301_000)
    )


EDITS: Sequence[tuple[str, Callable[[bytes], bytes], float]] = [
    ("nothing", lambda old: old, 1.0),
    ("a byte changed now and then", change_bytes, 0.97),
    ("a byte before all", lambda old: b"x" + old, 0.99),
    ("the first byte gone", lambda old: old[1:], 0.99),
    ("the first blocks gone", lambda old: old[5 * BLOCK_BYTES + 9 :], 0.97),
    ("the last block gone", lambda old: old[:-BLOCK_BYTES], 0.99),
    ("a kilobyte appended", lambda old: old + RNG.randbytes(1000), 0.99),
    ("more appended than there was", lambda old: old + RNG.randbytes(2 * len(old)), 0.99),
    ("a kilobyte inserted now and then", insert_often, 0.96),
    ("much inserted", lambda old: old[:99_999] + bytes(10 << 20) + old[99_999:], 0.99),
    ("much gone", lambda old: old[:99_999] + old[500_001:], 0.9),
    (
        "some of it something else",
        lambda old: old[:99_999] + RNG.randbytes(100_000) + old[199_999:],
        0.94,
    ),
    (
        "some of it something longer",
        lambda old: old[:99_999] + RNG.randbytes(160_000) + old[199_999:],
        0.94,
    ),
]


@pytest.mark.parametrize(("edit", "least"), [pytest.param(*e[1:], id=e[0]) for e in EDITS])
def test_what_is_in_its_order_is_found(edit: Callable[[bytes], bytes], least: float) -> None:
    for old in (OLD, LINES):
        new = edit(old)
        assert found(old, new) >= least


@pytest.mark.parametrize(
    "edit", [pytest.param(e[1], id=e[0]) for e in EDITS if e[0] != "the last block gone"]
)
def test_it_seems_to_be_in_its_order(edit: Callable[[bytes], bytes]) -> None:
    assert in_order(OLD, edit(OLD))


def test_lines_that_begin_alike_are_told_apart() -> None:
    lines = LINES.splitlines(keepends=True)
    assert found(LINES, b"".join(line for n, line in enumerate(lines) if n % 5000)) >= 0.9
    assert found(LINES, LINES.replace(b"0002345 GET", b"0002345 POST")) >= 0.99


def test_zeros_are_followed_and_what_stands_between_them() -> None:
    zeros = bytes(100 * BLOCK_BYTES)
    assert found(zeros, zeros[:1000] + b"1" + zeros[1000:]) >= 0.99
    assert found(zeros + OLD, zeros + b"1" + OLD) >= 0.99


def test_writes_to_what_is_mostly_zeros_leave_the_rest_where_it_is() -> None:
    rng = random.Random(2)

    def written(content: bytes) -> bytes:
        new = bytearray(content)
        for _ in range(60):
            at = rng.randrange(len(new) - 30_000)
            new[at : at + 30_000] = rng.randbytes(30_000)
        return bytes(new)

    old = written(bytes(40 << 20))
    runs = followed(old, written(old))
    assert sum(run.length for run in runs) >= 0.93 * len(old)
    assert all(run.offset == run.start for run in runs)


def test_what_was_moved_is_not_said_to_be_gone() -> None:
    middle = len(OLD) // 2
    moved = OLD[middle:] + OLD[:middle]
    assert not in_order(OLD, moved)
    assert not followed(OLD, moved)


def test_a_part_that_was_moved_is_not_said_to_be_gone_and_one_written_in_place_is() -> None:
    first, end = 400_000, 400_000 + 3 * WINDOW_BYTES  # less than a sixteenth of it
    moved = OLD[:first] + OLD[end:3_000_000] + OLD[first:end] + OLD[3_000_000:]
    assert in_order(OLD, moved)
    assert not followed(OLD, moved)
    assert found(OLD, OLD[:first] + RNG.randbytes(end - first) + OLD[end:]) >= 0.94


def test_what_is_something_else_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = Blocks.is_block

    def is_block(self: Blocks, number: int, data: bytes) -> bool:
        tried.append(number)
        return real(self, number, data)

    monkeypatch.setattr(Blocks, "is_block", is_block)
    monkeypatch.setattr(blocks, "_TRIES", 5000)
    for old, other in ((OLD, RNG.randbytes(3 * len(OLD))), (LINES, LINES.swapcase())):
        tried.clear()
        assert not followed(old, other)
        assert len(tried) <= 5000
        assert not in_order(old, other)


def test_more_runs_than_can_be_told_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    new = change_bytes(OLD)
    number = len(followed(OLD, new))
    for most, kept in ((number, number), (number - 1, 0)):
        monkeypatch.setattr(blocks, "MAX_RUNS", most)
        assert len(followed(OLD, new)) == kept


def test_of_a_large_content_the_blocks_are_longer_and_not_more() -> None:
    assert block_bytes_of(MOST_BLOCKS * BLOCK_BYTES) == BLOCK_BYTES
    assert block_bytes_of(MOST_BLOCKS * BLOCK_BYTES + 1) == 2 * BLOCK_BYTES
    assert block_bytes_of(64 << 30) * MOST_BLOCKS == 64 << 30


@pytest.mark.parametrize("edit", [pytest.param(e[1], id=e[0]) for e in EDITS])
def test_it_is_followed_by_longer_blocks_too(
    edit: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MOST_BLOCKS", 130)  # of 32 KiB
    new = edit(OLD)
    assert found(OLD, new) >= 0.6
    assert in_order(OLD, new)


Edit = tuple[int, int, int]


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(OLD)),
            st.sampled_from([0, 1, 100, BLOCK_BYTES, WINDOW_BYTES + 3]),
            st.sampled_from([0, 1, 100, BLOCK_BYTES, WINDOW_BYTES + 3]),
        ),
        max_size=8,
    ),
    size=st.sampled_from([100_000, 1 << 20, 4 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_was_edited_what_is_said_is_so(edits: list[Edit], size: int) -> None:
    new = OLD
    for at, gone, come in edits:
        new = new[:at] + RNG.randbytes(come) + new[at + gone :]
    runs = followed(OLD, new, size=size)
    lost = sum(gone + come + 3 * BLOCK_BYTES + WINDOW_BYTES for _, gone, come in edits)
    assert sum(run.length for run in runs) >= len(OLD) - lost or len(edits) > 1


def test_an_empty_content_has_no_blocks() -> None:
    assert marked(b"") == Blocks(KEY, 0, array("Q"), b"")
    assert not followed(b"", OLD)
    assert not followed(OLD, b"")
    assert not seems_in_order(marked(b""), 0, reader(b""))


def test_what_was_saved_is_loaded_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    files, made, digest = BlockFiles(tmp_path / "d"), marked(OLD), digest_of(OLD)
    files.save(digest, made)
    assert BlockFiles(tmp_path / "d").load(digest) == made
    assert files.load(digest_of(b"")) is None
    path = tmp_path / "d" / digest.hex()
    data = path.read_bytes()
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert files.load(digest) is None
    assert os.listdir(tmp_path / "d") == [digest.hex()]


@pytest.mark.parametrize("size", [0, len(OLD) + BLOCK_BYTES, 1 << 62])
def test_blocks_that_cannot_be_of_their_size_are_none(tmp_path: Path, size: int) -> None:
    files, digest = BlockFiles(tmp_path), digest_of(OLD)
    files.save(digest, marked(OLD)._replace(size=size))
    assert files.load(digest) is None


def test_blocks_of_more_than_is_compared_are_none(tmp_path: Path) -> None:
    files, digest, number = BlockFiles(tmp_path), digest_of(OLD), MOST_BLOCKS
    made = Blocks(KEY, MAX_BYTES, array("Q", bytes(8 * number)), bytes(NEEDLE_BYTES * number))
    for size, known in ((MAX_BYTES, True), (2 * MAX_BYTES, False), (1 << 62, False)):
        files.save(digest, made._replace(size=size))
        assert (files.load(digest) is not None) == known
