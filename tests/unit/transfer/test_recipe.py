import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.errors import MalformedMessage
from filesync.transfer import recipe
from filesync.transfer.recipe import Basis, Chunk, CopyRange


def reader(data: bytes) -> recipe.Read:
    return lambda offset, length: data[offset : offset + length]


def chunks_of(data: bytes, offset: int = 0, limit: int = 10**6) -> list[Chunk]:
    return list(recipe.cut(reader(data), offset, len(data), limit=limit))


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


LONG = random_bytes(9 << 20)


def test_chunks_are_the_content_in_order_and_within_their_bounds() -> None:
    chunks = chunks_of(LONG)
    offset = 0
    for length, digest in chunks:
        assert digest == digest_of(LONG[offset : offset + length])
        offset += length
    assert offset == len(LONG)
    assert all(chunk.length <= recipe.MAX_CHUNK_BYTES for chunk in chunks)
    assert all(chunk.length >= recipe.MIN_CHUNK_BYTES for chunk in chunks[:-1])


def test_cutting_in_blocks_gives_what_cutting_at_once_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipe, "_READ_BYTES", len(LONG))
    at_once = chunks_of(LONG)
    for block in (recipe.MAX_CHUNK_BYTES + 1, 200_000, 1 << 20):
        monkeypatch.setattr(recipe, "_READ_BYTES", block)
        assert chunks_of(LONG) == at_once


def test_pages_that_begin_where_the_last_ended_are_the_whole_recipe() -> None:
    whole = chunks_of(LONG)
    paged: list[Chunk] = []
    while len(paged) < len(whole):
        paged += chunks_of(LONG, sum(chunk.length for chunk in paged), limit=7)
    assert paged == whole


def test_the_cuts_are_part_of_the_protocol_and_stay_as_they_are() -> None:
    lengths = [chunk.length for chunk in chunks_of(random_bytes(100_000))]
    assert lengths == EXPECTED_CUTS


EXPECTED_CUTS = [17431, 21718, 17560, 18620, 8833, 15838]


def test_a_file_that_has_become_shorter_ends_the_recipe_early() -> None:
    chunks = list(recipe.cut(reader(LONG[:50_000]), 0, 200_000))
    assert sum(chunk.length for chunk in chunks) == 50_000


@given(st.binary(min_size=1, max_size=200_000))
def test_unpack_inverts_pack(data: bytes) -> None:
    chunks = chunks_of(data)
    assert recipe.unpack(recipe.pack(chunks), room=len(data)) == chunks


NAME = Digest(bytes(32))


@pytest.mark.parametrize(
    ("chunks", "room"),
    [
        ([], 0),
        ([Chunk(0, NAME)], 10),
        ([Chunk(recipe.MAX_CHUNK_BYTES + 1, NAME)], 10**9),
        ([Chunk(2**32 - 1, NAME)], 10**12),
        ([Chunk(5000, NAME), Chunk(5001, NAME)], 10_000),
        ([Chunk(10, NAME)], 10_000),
        ([Chunk(10, NAME), Chunk(9990, NAME)], 10_000),
        ([Chunk(5000, NAME)] * (recipe.PAGE_CHUNKS + 1), 10**12),
    ],
    ids=[
        "none",
        "empty chunk",
        "large chunk",
        "huge chunk",
        "past the end",
        "short and not last",
        "short before another",
        "too many",
    ],
)
def test_a_recipe_that_lies_is_refused(chunks: list[Chunk], room: int) -> None:
    with pytest.raises(MalformedMessage):
        recipe.unpack(recipe.pack(chunks), room=room)


def test_a_recipe_that_ends_within_an_item_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        recipe.unpack(recipe.pack([Chunk(5000, NAME)])[:-1], room=5000)


def apply(plan: recipe.Plan, start: int, old: bytes, new: bytes) -> bytes:
    result = bytearray(plan.end - start)
    for offset, basis_offset, length in plan.copies:
        result[offset - start : offset - start + length] = old[
            basis_offset : basis_offset + length
        ]
    for offset, length in plan.fetches:
        result[offset - start : offset - start + length] = new[offset : offset + length]
    return bytes(result)


@given(st.data())
def test_what_a_plan_copies_and_fetches_is_the_new_content(data: st.DataObject) -> None:
    old = random_bytes(400_000, data.draw(st.integers(0, 3)))
    at = data.draw(st.integers(0, len(old)))
    gone = data.draw(st.integers(0, 100_000))
    new = old[:at] + data.draw(st.binary(max_size=5000)) + old[at + gone :] + b"x"
    basis = Basis(reader(old), len(old))
    plan = recipe.plan(chunks_of(new), 0, basis.find)
    assert plan.end == len(new)
    assert apply(plan, 0, old, new) == new


def test_an_insertion_costs_the_chunks_around_it() -> None:
    new = LONG[: 4 << 20] + b"inserted" + LONG[4 << 20 :]
    plan = recipe.plan(chunks_of(new), 0, Basis(reader(LONG), len(LONG)).find)
    assert sum(length for _, length in plan.fetches) <= 3 * recipe.MAX_CHUNK_BYTES
    assert len(plan.copies) == 2


def test_neighbours_are_joined() -> None:
    places = {1: 0, 2: 5, 3: 100}
    chunks = [Chunk(5, Digest(bytes([n]) * 32)) for n in (1, 2, 3, 8, 9, 1)]
    plan = recipe.plan(chunks, 1000, lambda chunk: places.get(chunk.digest[0]))
    assert plan.copies == [
        CopyRange(1000, 0, 10),
        CopyRange(1010, 100, 5),
        CopyRange(1025, 0, 5),
    ]
    assert plan.fetches == [(1015, 10)]
    assert plan.end == 1030
