import struct
from collections.abc import Iterable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import MalformedMessage
from filesync.transfer.coding import recipe
from filesync.transfer.coding.recipe import Part, Recipe
from filesync.transfer.wire import Level
from tests.unit.transfer.chunked import CHUNKS, LONG, SEGMENTS, chunks_of


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
    at = 4 << 20
    moved = list(Recipe(0, chunks_of(LONG[at:] + LONG[:at])).segments())
    ends = list(accumulate(segment.length for segment in SEGMENTS))
    # All but the first, the last and the one that was cut in two.
    whole = [n for n in range(1, len(ends) - 1) if not ends[n - 1] < at < ends[n]]
    assert len(whole) >= 3
    assert {SEGMENTS[n].name for n in whole} <= {segment.name for segment in moved}


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
