import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest, digest_of
from filesync.transfer.errors import NotOffered, TooMuchWanted
from filesync.transfer.sender import WHOLE_BYTES, Sender, SendFrame, SendRecipe
from filesync.transfer.wire import (
    MAX_OUTSTANDING_ASKS,
    MAX_OUTSTANDING_BYTES,
    MAX_OUTSTANDING_RANGES,
    MAX_WANT_RANGES,
    AskRecipe,
    Range,
    Want,
)

A, B = digest_of(b"a"), digest_of(b"b")
SIZES = {A: 10, B: 1 << 40}


def sender(frame_bytes: int = 1 << 20) -> Sender:
    return Sender(SIZES.get, frame_bytes=frame_bytes)


def test_nothing_is_sent_that_was_not_wanted() -> None:
    assert sender().next_job() is None


def test_small_ranges_share_a_frame_in_the_order_of_the_wants() -> None:
    s = sender()
    s.receive(Want(1, ((A, 0, 10), (B, 5, 7))))
    s.receive(Want(1, ((A, 2, 3),)))
    assert s.next_job() == SendFrame(((A, 0, 10), (B, 5, 7), (A, 2, 3)), 20)
    assert s.next_job() is None


def test_a_large_range_is_sent_in_pieces() -> None:
    s = sender(frame_bytes=1 << 20)
    s.receive(Want(1, ((B, 100, 5 << 19),)))
    assert s.next_job() == SendFrame(((B, 100, 1 << 20),), 1 << 20)
    assert s.next_job() == SendFrame(((B, 100 + (1 << 20), 1 << 20),), 1 << 20)
    assert s.next_job() == SendFrame(((B, 100 + (2 << 20), 1 << 19),), 1 << 19)


def test_a_small_range_is_not_cut_to_fill_a_frame() -> None:
    s = sender(frame_bytes=1000)
    s.receive(Want(1, ((B, 0, 600), (B, 600, 600))))
    assert s.next_job() == SendFrame(((B, 0, 600),), 600)
    assert s.next_job() == SendFrame(((B, 600, 600),), 600)


def test_a_recipe_goes_before_the_frames() -> None:
    s = sender()
    s.receive(Want(1, ((A, 0, 10),)))
    s.receive(AskRecipe(1, B, 77))
    assert s.next_job() == SendRecipe(B, 77)


@pytest.mark.parametrize(
    "wanted",
    [(digest_of(b"secret"), 0, 1), (A, 0, 11), (A, 10, 1), (A, 2**62, 1)],
    ids=["another content", "too long", "past the end", "far past the end"],
)
def test_what_is_not_on_offer_is_refused(wanted: Range) -> None:
    with pytest.raises(NotOffered):
        sender().receive(Want(1, (wanted,)))


@pytest.mark.parametrize(("digest", "offset"), [(digest_of(b"secret"), 0), (A, 10)])
def test_a_recipe_of_what_is_not_on_offer_is_refused(digest: Digest, offset: int) -> None:
    with pytest.raises(NotOffered):
        sender().receive(AskRecipe(1, digest, offset))


def test_more_bytes_outstanding_than_the_cap_are_refused() -> None:
    s = sender()
    s.receive(Want(1, ((B, 0, MAX_OUTSTANDING_BYTES),)))
    with pytest.raises(TooMuchWanted):
        s.receive(Want(1, ((B, 0, 1),)))


def test_a_million_ranges_are_refused() -> None:
    s = sender()
    for _ in range(MAX_OUTSTANDING_RANGES // MAX_WANT_RANGES):
        s.receive(Want(1, ((B, 0, 1),) * MAX_WANT_RANGES))
    with pytest.raises(TooMuchWanted):
        s.receive(Want(1, ((B, 0, 1),)))


def test_more_recipes_outstanding_than_the_cap_are_refused() -> None:
    s = sender()
    for _ in range(MAX_OUTSTANDING_ASKS):
        s.receive(AskRecipe(1, B, 0))
    with pytest.raises(TooMuchWanted):
        s.receive(AskRecipe(1, B, 0))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 2 * WHOLE_BYTES)), max_size=40),
    st.integers(1, 2 * WHOLE_BYTES),
)
def test_every_wanted_byte_is_sent_once_and_in_order(
    wants: list[tuple[int, int]], frame_bytes: int
) -> None:
    s = sender(frame_bytes)
    ranges = [(B, at * 1_000_000, length) for at, length in wants]
    for one in ranges:
        s.receive(Want(1, (one,)))
    sent: list[tuple[int, int]] = []
    while job := s.next_job():
        assert isinstance(job, SendFrame)
        assert job.raw_bytes == sum(length for _, _, length in job.ranges)
        assert 0 < job.raw_bytes <= max(frame_bytes + WHOLE_BYTES, WHOLE_BYTES)
        for _, offset, length in job.ranges:
            if sent and sum(sent[-1]) == offset:
                sent[-1] = (sent[-1][0], sent[-1][1] + length)
            else:
                sent.append((offset, length))
    joined: list[tuple[int, int]] = []
    for _, offset, length in ranges:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    assert sent == joined
