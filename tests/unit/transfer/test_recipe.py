import random
import struct
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from filesync.errors import MalformedMessage
from filesync.transfer.coding import recipe
from filesync.transfer.coding.recipe import Copy, Index, Match, Part, Recipe
from filesync.transfer.wire import Level
from tests.unit.made import reader


def chunks_of(data: bytes, offset: int = 0) -> list[Part]:
    return list(recipe.cut(reader(data), offset, len(data)))


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


LONG = random_bytes(9 << 20)
CHUNKS = chunks_of(LONG)
SEGMENTS = list(Recipe(0, CHUNKS).segments())


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
        monkeypatch.setattr(recipe, "READ_BYTES", block)
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
    chunks = list(recipe.cut(reader(LONG[:50_000]), 0, 200_000))
    assert sum(chunk.length for chunk in chunks) == 50_000


@given(st.lists(st.integers(1, 200_000), max_size=20), st.integers(0, 300_000))
def test_blocks_of_any_size_are_cut_alike(sizes: list[int], rest: int) -> None:
    cutter = recipe.Cutter()
    at = 0
    for size in (*sizes, rest):
        block = bytearray(LONG[at : at + size])
        cutter.cut(memoryview(block))
        block[:] = bytes(len(block))  # nobody may look at it any more
        at += size
    cutter.end()
    assert list(cutter.recipe) == chunks_of(LONG[:at])


SHORT = LONG[: 1 << 20]


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
    cutter = recipe.Cutter(old=Recipe(0, chunks_of(SHORT)))
    for at in range(0, len(new), block_bytes):
        cutter.cut(new[at : at + block_bytes])
    cutter.end()
    assert list(cutter.recipe) == chunks_of(new)


def test_of_a_content_that_hardly_changed_little_is_looked_through_for_cuts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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

    monkeypatch.setattr(recipe, "FastCDC", Counting)
    edited = bytearray(LONG)
    for at in range(1 << 20, len(edited), 1 << 20):
        edited[at] ^= 1
    new = bytes(edited)
    cutter = recipe.Cutter(old=Recipe(0, CHUNKS))
    cutter.cut(new[: 4 << 20])
    cutter.cut(new[4 << 20 :])
    cutter.end()
    assert list(cutter.recipe) == chunks_of(new)
    del looked[-len(CHUNKS) :]  # what it is compared with
    assert sum(looked) < len(LONG) / 8


def test_reading_ends_with_the_block_that_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "READ_BYTES", 1 << 20)
    read: list[int] = []

    def counting(offset: int, length: int) -> bytes:
        read.append(length)
        return LONG[offset : offset + length]

    offset = CHUNKS[0].length
    found = recipe.cut(counting, offset, len(LONG), enough=3 << 20)
    assert found.start == offset
    assert 3 << 20 <= found.end - offset <= sum(read) <= 5 << 20
    assert list(found) == CHUNKS[1 : len(found) + 1]
    assert not recipe.cut(counting, 0, len(LONG), enough=0)


def between(chunks: Recipe, offset: int, end: int) -> list[Part] | None:
    found = chunks.between(offset, end)
    assert found is None or (found.start, found.end) == (offset, end)
    return None if found is None else list(found)


def test_a_recipe_gives_the_chunks_between_any_two_of_their_borders() -> None:
    made = Recipe(0, CHUNKS[:50])
    made.extend(Recipe(made.end, CHUNKS[50:]))
    borders = [*accumulate((chunk.length for chunk in CHUNKS), initial=0)]
    assert len(made) == len(CHUNKS)
    for first, last in ((0, len(CHUNKS)), (0, 1), (49, 51), (7, 300), (len(CHUNKS) - 1, None)):
        end = borders[last] if last is not None else len(LONG)
        assert between(made, borders[first], end) == CHUNKS[first:last]
    for offset, end in (
        (0, 0),
        (1, borders[3]),
        (0, 5),
        (borders[3], borders[2]),
        (0, 1 << 40),
    ):
        assert between(made, offset, end) is None
    later = Recipe(borders[9], CHUNKS[9:20])
    assert between(later, borders[9], borders[12]) == CHUNKS[9:12]
    assert between(later, 0, borders[12]) is None


def test_chunks_that_stood_elsewhere_follow_as_they_are() -> None:
    made = Recipe(7, CHUNKS[:3])
    made.extend(Recipe(1 << 30, CHUNKS[5:9]))
    made.extend(Recipe(0))
    assert list(made) == [*CHUNKS[:3], *CHUNKS[5:9]]
    assert made.end - 7 == sum(length for length, _ in made)


@pytest.mark.parametrize(("limit", "size"), [(1, 1), (3, 1 << 40), (99, 20_000), (99, 1 << 40)])
def test_the_beginning_of_a_recipe_has_so_many_chunks_or_so_many_bytes(
    limit: int, size: int
) -> None:
    some = list(Recipe(5000, CHUNKS[:20]).beginning(limit, size))
    assert some == CHUNKS[: len(some)]
    assert 1 <= len(some) <= limit
    assert sum(length for length, _ in some[:-1]) < size
    if len(some) < min(limit, 20):
        assert sum(length for length, _ in some) >= size


# --- segments -----------------------------------------------------------------------------------


def test_segments_hold_all_chunks_in_order_and_few_of_them_each() -> None:
    assert sum(segment.length for segment in SEGMENTS) == len(LONG)
    assert len(CHUNKS) / 256 <= len(SEGMENTS) <= len(CHUNKS) / 16


def test_a_segment_is_the_same_wherever_it_stands() -> None:
    moved = list(Recipe(0, chunks_of(LONG[4 << 20 :] + LONG[: 4 << 20])).segments())
    known = {segment.name for segment in SEGMENTS}
    same = sum(segment.length for segment in moved if segment.name in known)
    assert same >= len(LONG) - 4 * max(segment.length for segment in SEGMENTS)


def test_a_run_of_chunks_that_never_end_a_segment_is_cut_anyway() -> None:
    endless = [Part(5000, b"\x01" * 16)] * 1000
    lengths = [segment.length // 5000 for segment in Recipe(0, endless).segments()]
    assert lengths == [256, 256, 256, 232]


# --- on the wire --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, len(CHUNKS) - 1), min_size=1, max_size=4))
def test_unpack_inverts_pack(starts: list[int]) -> None:
    items = [Recipe(start * 999, CHUNKS[start : start + 3]) for start in starts]
    # The last chunk of a content may be short, and only that.
    asked = [(item.start, item.end, Level.CHUNKS) for item in items]
    found = recipe.unpack(b"".join(map(recipe.pack, items)), asked)
    assert [item.start for item in found] == [item.start for item in items]
    assert list(map(list, found)) == list(map(list, items))


def test_an_answer_may_leave_out_the_last_items() -> None:
    asked = [(0, len(LONG), Level.SEGMENTS), (0, len(LONG), Level.CHUNKS)]
    (found,) = recipe.unpack(recipe.pack(Recipe(0, SEGMENTS)), asked)
    assert list(found) == SEGMENTS


def packed(parts: Iterable[Part]) -> bytes:
    return recipe.pack(Recipe(0, parts))


NAME = bytes(16)
ONE = [Part(5000, NAME)]


@pytest.mark.parametrize(
    ("payload", "room", "level"),
    [
        (b"", 10, Level.CHUNKS),
        (packed([]), 10, Level.CHUNKS),
        (packed([Part(0, NAME)]), 10, Level.CHUNKS),
        (packed([Part(recipe.MAX_CHUNK_BYTES + 1, NAME)]), 10**9, Level.CHUNKS),
        (packed([Part(recipe.MAX_SEGMENT_BYTES + 1, NAME)]), 10**9, Level.SEGMENTS),
        (packed([Part(2**32 - 1, NAME)]), 10**12, Level.SEGMENTS),
        (packed([*ONE, Part(5001, NAME)]), 10_000, Level.CHUNKS),
        (packed([Part(10, NAME)]), 10_000, Level.CHUNKS),
        (packed([Part(10, NAME), Part(9990, NAME)]), 10_000, Level.CHUNKS),
        (packed(ONE * (recipe.PAGE_PARTS + 1)), 10**12, Level.CHUNKS),
        (packed(ONE)[:-1], 5000, Level.CHUNKS),
        (packed(ONE) + b"x", 5000, Level.CHUNKS),
        (packed(ONE) * 2, 5000, Level.CHUNKS),
        (struct.pack(">I", 2**32 - 1) + bytes(20), 5000, Level.CHUNKS),
    ],
    ids=[
        "nothing",
        "no parts",
        "empty chunk",
        "large chunk",
        "large segment",
        "huge segment",
        "past the end",
        "short and not last",
        "short before another",
        "too many",
        "cut",
        "garbage after",
        "an item too many",
        "a count of billions",
    ],
)
def test_recipes_that_lie_are_refused(payload: bytes, room: int, level: Level) -> None:
    with pytest.raises(MalformedMessage):
        recipe.unpack(payload, [(0, room, level)])


@given(st.binary(max_size=200))
def test_any_payload_is_recipes_or_malformed(payload: bytes) -> None:
    try:
        recipe.unpack(payload, [(0, 10**6, Level.CHUNKS), (5, 10**6, Level.SEGMENTS)])
    except MalformedMessage:
        pass


# --- matching -----------------------------------------------------------------------------------


def index_of(*bases: bytes) -> Index:
    return Index([(recipe.cut(reader(data), 0, len(data)), len(data)) for data in bases])


def put_together(match: Match, bases: list[bytes], new: bytes) -> bytes:
    made = bytearray(len(new))
    for offset, basis, start, length in match.copies:
        made[offset : offset + length] = bases[basis][start : start + length]
    for missing in match.misses:
        made[missing.start : missing.end] = new[missing.start : missing.end]
    return bytes(made)


@given(st.data())
def test_what_is_copied_and_what_is_missing_are_the_new_content(data: st.DataObject) -> None:
    old = random_bytes(400_000, data.draw(st.integers(0, 3)))
    other = random_bytes(100_000, 9)
    at = data.draw(st.integers(0, len(old)))
    gone = data.draw(st.integers(0, 100_000))
    new = old[:at] + data.draw(st.binary(max_size=5000)) + old[at + gone :] + other + b"x"
    match = recipe.match(Recipe(0, chunks_of(new)), Level.CHUNKS, index_of(old, other))
    assert put_together(match, [old, other], new) == new


def test_an_insertion_costs_the_chunks_around_it() -> None:
    new = LONG[: 4 << 20] + b"inserted" + LONG[4 << 20 :]
    match = recipe.match(Recipe(0, chunks_of(new)), Level.CHUNKS, index_of(LONG))
    assert (
        sum(missing.end - missing.start for missing in match.misses)
        <= 3 * recipe.MAX_CHUNK_BYTES
    )
    assert len(match.copies) == 2


def test_segments_are_found_as_chunks_are() -> None:
    match = recipe.match(Recipe(0, SEGMENTS), Level.SEGMENTS, index_of(b"", LONG))
    assert match == Match([Copy(0, 1, 0, len(LONG))], [])


def test_neighbours_are_joined_where_they_are_neighbours_in_one_basis() -> None:
    old = LONG[: sum(chunk.length for chunk in CHUNKS[:4])]
    a, b, c, d = CHUNKS[:4]
    unknown = Part(6000, b"?" * 16)
    parts = Recipe(100, [a, b, d, unknown, unknown, a])
    match = recipe.match(parts, Level.CHUNKS, index_of(old))
    ab, abc = a.length + b.length, a.length + b.length + c.length
    assert match.copies == [
        Copy(100, 0, 0, ab),
        Copy(100 + ab, 0, abc, d.length),
        Copy(100 + ab + d.length + 12_000, 0, 0, a.length),
    ]
    (missing,) = match.misses
    assert missing.start == 100 + ab + d.length
    assert list(missing) == [unknown, unknown]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 10**6), st.integers(1, 50)), max_size=9
    ),
    st.integers(1, 60),
)
def test_copies_are_sliced_without_losing_a_byte(
    shapes: list[tuple[int, int, int]], limit: int
) -> None:
    copies: list[Copy] = []
    offset = 0
    for basis, start, length in shapes:
        copies.append(Copy(offset, basis, start, length))
        offset += length + 1

    def bytes_of(copies: Iterable[Copy]) -> list[tuple[int, int, int]]:
        return [(c.offset + n, c.basis, c.start + n) for c in copies for n in range(c.length)]

    slices = list(recipe.sliced(copies, limit))
    assert bytes_of(chain.from_iterable(slices)) == bytes_of(copies)
    sizes = [sum(copy.length for copy in some) for some in slices]
    assert sizes[:-1] == [limit] * len(sizes[:-1])
    assert all(0 < size <= limit for size in sizes)


def test_an_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "MAX_CHUNKS", 10)
    index = index_of(LONG)
    assert CHUNKS[9].name in index.places(Level.CHUNKS)
    assert CHUNKS[10].name not in index.places(Level.CHUNKS)
