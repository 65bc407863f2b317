import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import MalformedMessage
from filesync.transfer.coding import delta, recipe
from filesync.transfer.wire import SIGNATURE_BYTES

OLD = random.Random(1).randbytes(100_000)


def through(old: bytes, new: bytes, key: int = 7) -> tuple[bytes, bytes]:
    """Return the delta from ``old`` to ``new``, and what it makes of ``old``."""
    pieces = delta.cut(old, key)
    made = delta.encode(new, pieces.signatures, key)
    return made, delta.apply(made, pieces, len(new))


@given(st.data())
def test_what_a_delta_makes_of_the_old_bytes_are_the_new_ones(data: st.DataObject) -> None:
    old = data.draw(st.one_of(st.binary(max_size=5000), st.just(OLD)))
    at = data.draw(st.integers(0, len(old)))
    gone = data.draw(st.integers(0, 3000))
    again = data.draw(st.integers(0, 2))
    new = old[:at] + data.draw(st.binary(max_size=2000)) + old[at + gone :] + old * again + b"."
    assert through(old, new)[1] == new


def test_an_edit_costs_the_pieces_around_it() -> None:
    new = OLD[:50_000] + b"inserted" + OLD[50_000:]
    made, _ = through(OLD, new)
    assert len(made) < 4 * delta.CONTENT_PIECE_BYTES


def test_of_long_contents_an_edit_costs_less_than_the_signatures_of_short_pieces() -> None:
    def signed(size: int) -> int:
        average = delta.piece_bytes(size)
        return delta.cut(OLD[:size], 7, average=average).count * SIGNATURE_BYTES

    assert delta.LONG_BYTES == recipe.MAX_CHUNK_BYTES
    assert signed(len(OLD)) < signed(delta.LONG_BYTES)


def test_bytes_that_moved_cost_no_literals() -> None:
    made, _ = through(OLD, OLD[60_000:] + OLD[:60_000])
    assert len(made) < 4 * delta.CONTENT_PIECE_BYTES


def test_signatures_differ_from_key_to_key() -> None:
    one, other = delta.cut(OLD, 1), delta.cut(OLD, 2)
    assert one.ends == other.ends
    assert one.signatures != other.signatures
    assert len(one.signatures) == one.count * SIGNATURE_BYTES


def test_bytes_beyond_what_can_be_numbered_are_left_out() -> None:
    old = random.Random(2).randbytes(20 << 20)
    pieces = delta.cut(old, 3, average=256)
    assert pieces.count == 65_535
    made = delta.encode(old, pieces.signatures, 3, average=256)
    assert delta.apply(made, pieces, len(old)) == old


PIECES = delta.cut(OLD, 7)


def op(first: int, copies: int, literal: bytes = b"", length: int | None = None) -> bytes:
    return (
        struct.pack(">HHI", first, copies, len(literal) if length is None else length) + literal
    )


@pytest.mark.parametrize(
    "lie",
    [
        op(0, 1)[:-1],
        op(0, 0, b"x" * 10) + op(0, 1)[:-1],
        op(0, 0, b"x", length=10),
        op(0, 0, b"x", length=2**32 - 1),
        op(65_535, 65_535),
        op(PIECES.count, 1),
        op(0, PIECES.count) * 50,
        op(0, 0) * 2 + op(0, 0, b"x" * 10),
        b"",
        op(0, 0, b"x" * 9),
    ],
    ids=[
        "cut within an operation",
        "cut within another operation",
        "cut within a literal",
        "a literal of gigabytes",
        "pieces far beyond",
        "the piece after the last",
        "a bomb",
        "operations of nothing",
        "nothing",
        "too few bytes",
    ],
)
def test_a_delta_that_lies_is_refused(lie: bytes) -> None:
    with pytest.raises(MalformedMessage):
        delta.apply(lie, PIECES, 10)


def test_a_bomb_is_refused_before_the_rest_of_it_is_looked_at() -> None:
    with pytest.raises(MalformedMessage, match="more than was asked for"):
        delta.apply(op(0, PIECES.count) + b"no operation", PIECES, 10)


def test_what_stands_between_two_neighbours_stays_between_them() -> None:
    new = memoryview(b"onetwoand")
    ops = delta.ops_of(new, [(3, 0), (6, None), (9, 1)])
    assert delta.pack(ops) == op(0, 1, b"two") + op(1, 1)


def test_pieces_are_copied_in_as_many_operations_as_their_numbers_need() -> None:
    # A peer may have signed one more than is ever cut here.
    count = 65_536
    content = memoryview(bytes(count))
    made = delta.pack(delta.ops_of(content, ((at + 1, at) for at in range(count))))
    assert made == op(0, 65_535) + op(65_535, 1)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_delta_or_malformed(noise: bytes) -> None:
    try:
        assert len(delta.apply(noise, PIECES, 1000)) == 1000
    except MalformedMessage:
        pass


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_split_inverts_join(deltas: list[bytes]) -> None:
    assert [bytes(one) for one in delta.split(delta.join(deltas), len(deltas))] == deltas


@given(st.binary(max_size=64), st.integers(0, 4))
def test_any_payload_is_that_many_deltas_or_malformed(payload: bytes, count: int) -> None:
    try:
        assert len(delta.split(payload, count)) == count
    except MalformedMessage:
        pass


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (delta.join([b"one", b"two"])[:-1], "end within one"),
        (delta.join([b"one", b"two"]) + b"\0", "after their end"),
        (delta.join([b"one", b"two", b"three"])[:-1], "after their end"),
        (delta.join([b"one"]), "1 deltas instead of 2"),
    ],
    ids=["cut within the last", "a byte more", "another one", "too few"],
)
def test_a_payload_that_holds_more_or_less_than_two_deltas_is_refused(
    payload: bytes, why: str
) -> None:
    with pytest.raises(MalformedMessage, match=why):
        delta.split(payload, 2)
