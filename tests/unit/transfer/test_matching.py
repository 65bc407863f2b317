from collections.abc import Iterable
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.transfer.coding import matching, recipe
from filesync.transfer.coding.matching import Copy, Index, Match
from filesync.transfer.coding.recipe import Part, Recipe
from filesync.transfer.wire import Level
from tests.unit.transfer.chunked import CHUNKS, LONG, SEGMENTS, random_bytes, recipe_of


def index_of(*bases: bytes) -> Index:
    return Index([(recipe_of(data), len(data)) for data in bases])


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
    match = matching.match(recipe_of(new), Level.CHUNKS, index_of(old, other))
    assert put_together(match, [old, other], new) == new


def test_an_insertion_costs_the_chunks_around_it() -> None:
    new = LONG[: 4 << 20] + b"inserted" + LONG[4 << 20 :]
    match = matching.match(recipe_of(new), Level.CHUNKS, index_of(LONG))
    assert (
        sum(missing.end - missing.start for missing in match.misses)
        <= 3 * recipe.MAX_CHUNK_BYTES
    )
    assert len(match.copies) == 2


def test_segments_are_found_as_chunks_are() -> None:
    match = matching.match(Recipe(0, SEGMENTS), Level.SEGMENTS, index_of(b"", LONG))
    assert match == Match([Copy(0, 1, 0, len(LONG))], [])


def test_neighbours_are_joined_where_they_are_neighbours_in_one_basis() -> None:
    old = LONG[: sum(chunk.length for chunk in CHUNKS[:4])]
    a, b, c, d = CHUNKS[:4]
    unknown = Part(6000, b"?" * 16)
    parts = Recipe(100, [a, b, d, unknown, unknown, a])
    match = matching.match(parts, Level.CHUNKS, index_of(old))
    ab, abc = a.length + b.length, a.length + b.length + c.length
    assert match.copies == [
        Copy(100, 0, 0, ab),
        Copy(100 + ab, 0, abc, d.length),
        Copy(100 + ab + d.length + 12_000, 0, 0, a.length),
    ]
    (missing,) = match.misses
    assert missing.start == 100 + ab + d.length
    assert list(missing) == [unknown, unknown]


def test_what_the_old_file_repeats_is_copied_from_where_it_is_in_the_new_one() -> None:
    old = LONG[: 1 << 20] + bytes(20 << 20) + LONG[1 << 20 : 2 << 20] + bytes(20 << 20)
    new = bytearray(old)
    new[30 << 20] = 1  # within the second run of zeros
    match = matching.match(recipe_of(bytes(new)), Level.CHUNKS, index_of(old))
    assert len(match.copies) == 2
    assert all(offset == start for offset, _, start, _ in match.copies)
    assert put_together(match, [old], bytes(new)) == new


def test_neighbours_between_which_something_new_stands_are_copied_apart() -> None:
    a, b = CHUNKS[:2]
    new = Part(6000, b"?" * 16)
    match = matching.match(
        Recipe(0, [a, new, b]), Level.CHUNKS, index_of(LONG[: a.length + b.length])
    )
    assert match.copies == [
        Copy(0, 0, 0, a.length),
        Copy(a.length + 6000, 0, a.length, b.length),
    ]


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

    slices = list(matching.sliced(copies, limit))
    assert bytes_of(chain.from_iterable(slices)) == bytes_of(copies)
    sizes = [sum(copy.length for copy in some) for some in slices]
    assert sizes[:-1] == [limit] * len(sizes[:-1])
    assert all(0 < size <= limit for size in sizes)


def test_an_index_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "MAX_CHUNKS", 10)
    index = index_of(LONG)
    assert CHUNKS[9].name in index.places(Level.CHUNKS)
    assert CHUNKS[10].name not in index.places(Level.CHUNKS)
