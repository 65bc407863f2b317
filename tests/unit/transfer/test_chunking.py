from array import array
from collections.abc import Iterator
from itertools import accumulate
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfastcdc import FastCDC
from xxhash import xxh3_64_intdigest

from filesync.transfer.coding import chunking, recipe
from filesync.transfer.coding.recipe import name_of
from filesync.transfer.coding.remains import Run
from tests.unit.made import reader
from tests.unit.transfer.chunked import CHUNKS, LONG, chunks_of, random_bytes


def test_chunks_are_the_content_in_order_and_within_their_bounds() -> None:
    offset = 0
    for length, name in CHUNKS:
        assert name == recipe.name_of(LONG[offset : offset + length])
        offset += length
    assert offset == len(LONG)
    assert all(chunk.length <= recipe.MAX_CHUNK_BYTES for chunk in CHUNKS)
    assert all(chunk.length >= recipe.MIN_CHUNK_BYTES for chunk in CHUNKS[:-1])


def test_cutting_in_blocks_gives_what_cutting_at_once_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for block in (recipe.MAX_CHUNK_BYTES + 1, 200_000, 1 << 20, len(LONG)):
        monkeypatch.setattr(chunking, "READ_BYTES", block)
        assert chunks_of(LONG) == CHUNKS


def test_cutting_from_any_chunk_on_gives_the_chunks_after_it() -> None:
    offsets = accumulate((chunk.length for chunk in CHUNKS), initial=0)
    for number, offset in list(enumerate(offsets))[:: len(CHUNKS) // 7]:
        assert chunks_of(LONG, offset) == CHUNKS[number:]


def test_the_cuts_are_part_of_the_protocol_and_stay_as_they_are() -> None:
    lengths = [chunk.length for chunk in chunks_of(random_bytes(100_000))]
    assert lengths == EXPECTED_CUTS


EXPECTED_CUTS = [17431, 21718, 17560, 18620, 8833, 15838]


def test_a_file_that_has_become_shorter_ends_the_recipe_early() -> None:
    chunks = list(chunking.cut(reader(LONG[:50_000]), 0, 200_000))
    assert sum(chunk.length for chunk in chunks) == 50_000


@given(st.lists(st.integers(1, 200_000), max_size=20), st.integers(0, 300_000))
def test_blocks_of_any_size_are_cut_alike(sizes: list[int], rest: int) -> None:
    cutter = chunking.Cutter()
    at = 0
    for size in (*sizes, rest):
        block = bytearray(LONG[at : at + size])
        cutter.cut(memoryview(block))
        block[:] = bytes(len(block))  # nobody may look at it any more
        at += size
    cutter.end()
    assert list(cutter.recipe) == chunks_of(LONG[:at])


SHORT = LONG[: 1 << 20]


def marked(content: bytes) -> chunking.MarkedRecipe:
    cutter = chunking.Cutter(old=chunking.MarkedRecipe.empty(0xFEED))
    cutter.cut(content)
    cutter.end()
    return cutter.marked


def marks_of(content: bytes, key: int) -> "array[int]":
    found = array("Q")
    at = 0
    for chunk in chunks_of(content):
        found.append(xxh3_64_intdigest(content[at : at + chunk.length], key))
        at += chunk.length
    return found


SHORT_MARKED = marked(SHORT)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 90_000), st.binary(max_size=9))),
    st.sampled_from([1 << 14, 100_000, 1 << 20]),
    st.integers(0, 1 << 20),
)
def test_with_the_recipe_of_an_old_content_the_cuts_are_the_same(
    edits: list[tuple[int, int, bytes]], block_bytes: int, turned: int
) -> None:
    new = SHORT[turned:] + SHORT[:turned]
    for at, gone, put in edits:
        new = new[:at] + put + new[at + gone :]
    cutter = chunking.Cutter(old=SHORT_MARKED)
    for at in range(0, len(new), block_bytes):
        cutter.cut(new[at : at + block_bytes])
    cutter.end()
    assert list(cutter.recipe) == chunks_of(new)
    end = 0
    for offset, start, length in cutter.remains:
        assert offset >= end
        assert new[offset : offset + length] == SHORT[start : start + length] != b""
        end = offset + length
    again = chunking.Cutter(old=cutter.marked)
    again.cut(new)
    again.end()
    assert again.marked.marks == cutter.marked.marks == marks_of(new, SHORT_MARKED.key)
    assert list(again.recipe) == chunks_of(new)


def test_what_stands_at_the_end_remains_too() -> None:
    cutter = chunking.Cutter(old=SHORT_MARKED)
    first = SHORT_MARKED.recipe.ends[0]
    cutter.cut(SHORT[first:])
    cutter.end()
    assert cutter.remains == [Run(0, first, len(SHORT) - first)]


def test_marks_that_fit_nothing_cost_time_and_nothing_else() -> None:
    others = chunking.MarkedRecipe(
        SHORT_MARKED.recipe, SHORT_MARKED.key, array("Q", [0] * len(SHORT_MARKED.marks))
    )
    cutter = chunking.Cutter(old=others)
    cutter.cut(SHORT)
    cutter.end()
    assert list(cutter.recipe) == chunks_of(SHORT)


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Return the lengths of what is cut from now on, and of what is named."""
    looked: list[int] = []

    class Counting:
        def __init__(
            self, average: int, *, min_size: int, max_size: int, normalized_chunking: Literal[2]
        ) -> None:
            self.real = FastCDC(
                average,
                min_size=min_size,
                max_size=max_size,
                normalized_chunking=normalized_chunking,
            )

        def cut_buf(self, data: memoryview) -> Iterator[object]:
            for piece in self.real.cut_buf(data):
                looked.append(piece.length)
                yield piece

    monkeypatch.setattr(chunking, "FastCDC", Counting)
    named: list[int] = []

    def counting(data: memoryview) -> bytes:
        named.append(len(data))
        return name_of(data)

    monkeypatch.setattr(chunking, "name_of", counting)
    return looked, named


def test_of_a_content_that_hardly_changed_little_is_cut_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = marked(LONG)
    looked, named = counted(monkeypatch)
    edited = bytearray(LONG)
    for at in range(1 << 20, len(edited), 1 << 20):
        edited[at] ^= 1
    new = bytes(edited)
    cutter = chunking.Cutter(old=old)
    cutter.cut(new[: 4 << 20])
    cutter.cut(new[4 << 20 :])
    cutter.end()
    # Of each edit the one chunk that it is in, and what stands at the ends of blocks.
    assert sum(looked) < len(LONG) / 16
    assert sum(named) < len(LONG) / 16
    assert list(cutter.recipe) == chunks_of(new)
    assert sum(run.length for run in cutter.remains) > len(LONG) * 15 // 16
    assert len(cutter.remains) <= len(LONG) >> 20


def test_zeros_are_neither_cut_nor_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = SHORT + bytes(8 << 20) + SHORT + bytes((8 << 20) + 5)
    fast = FastCDC(16 << 10, min_size=4 << 10, max_size=64 << 10, normalized_chunking=2)
    pieces = [memoryview(piece.data) for piece in fast.cut_buf(sparse)]
    looked, named = counted(monkeypatch)
    cutter = chunking.Cutter()
    for at in range(0, len(sparse), 3 << 20):
        cutter.cut(sparse[at : at + (3 << 20)])
    cutter.end()
    assert list(cutter.recipe) == [(len(piece), name_of(piece)) for piece in pieces]
    assert max(sum(looked), sum(named)) < 3 * len(SHORT)


def test_of_a_run_of_zeros_all_remains_in_few_runs() -> None:
    old = SHORT + bytes(4 << 20) + SHORT[::-1] + bytes(4 << 20)
    new = bytearray(old)
    new[3 << 20 : (3 << 20) + 100_000] = LONG[-100_000:]  # zeros are cut elsewhere behind it
    cutter = chunking.Cutter(old=marked(old))
    cutter.cut(bytes(new))
    cutter.end()
    assert len(cutter.remains) < 5


def test_reading_ends_with_the_block_that_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "READ_BYTES", 1 << 20)
    read: list[int] = []

    def counting(offset: int, length: int) -> bytes:
        read.append(length)
        return LONG[offset : offset + length]

    offset = CHUNKS[0].length
    found = chunking.cut(counting, offset, len(LONG), enough=3 << 20)
    assert found.start == offset
    assert 3 << 20 <= found.end - offset <= sum(read) <= 5 << 20
    assert list(found) == CHUNKS[1 : len(found) + 1]
    assert not chunking.cut(counting, 0, len(LONG), enough=0)
