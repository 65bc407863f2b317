import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import digest_of
from filesync.transfer.errors import TooMuchWanted
from filesync.transfer.send.sender import (
    WHOLE_BYTES,
    SendDeltas,
    Sender,
    SendFrame,
    SendRecipes,
)
from filesync.transfer.wire import (
    MAX_DELTA_BYTES,
    MAX_DELTAS_BYTES,
    MAX_OUTSTANDING_ASKS,
    MAX_OUTSTANDING_BYTES,
    MAX_OUTSTANDING_RANGES,
    MAX_OUTSTANDING_SIGNATURES,
    MAX_SIGNATURES,
    MAX_WANT_RANGES,
    SIGNATURE_BYTES,
    AskDeltas,
    AskRecipes,
    Level,
    Want,
)

A, B = digest_of(b"a"), digest_of(b"b")


def want(sender: Sender, *ranges: tuple[int, int]) -> None:
    sender.receive(Want(1, tuple([(B, at, length) for at, length in ranges])), b"")


def test_nothing_is_sent_that_was_not_wanted() -> None:
    assert Sender().next_job() is None


def test_small_ranges_of_one_want_share_a_frame_in_their_order() -> None:
    s = Sender()
    s.receive(Want(1, ((A, 0, 10), (B, 5, 7))), b"")
    assert s.next_job() == SendFrame(((A, 0, 10), (B, 5, 7)), 17)
    assert s.next_job() is None


def test_a_frame_ends_where_a_want_does() -> None:
    s = Sender()
    want(s, (0, 10))
    want(s, (10, 10))
    assert s.next_job() == SendFrame(((B, 0, 10),), 10)
    assert s.next_job() == SendFrame(((B, 10, 10),), 10)


def test_a_large_range_is_sent_in_pieces() -> None:
    s = Sender(frame_bytes=1 << 20)
    want(s, (100, 5 << 19))
    assert s.next_job() == SendFrame(((B, 100, 1 << 20),), 1 << 20)
    assert s.next_job() == SendFrame(((B, 100 + (1 << 20), 1 << 20),), 1 << 20)
    assert s.next_job() == SendFrame(((B, 100 + (2 << 20), 1 << 19),), 1 << 19)


def test_a_small_range_is_not_cut_to_fill_a_frame() -> None:
    s = Sender(frame_bytes=1000)
    want(s, (0, 600), (600, 600))
    assert s.next_job() == SendFrame(((B, 0, 600),), 600)
    assert s.next_job() == SendFrame(((B, 600, 600),), 600)


def test_an_ask_goes_before_the_frames() -> None:
    s = Sender()
    want(s, (0, 10))
    items = ((B, 77, 99, Level.CHUNKS),)
    s.receive(AskRecipes(1, 3, items), b"")
    assert s.next_job() == SendRecipes(3, items)


def ask_deltas(size: int, count: int, items: int = 1) -> AskDeltas:
    return AskDeltas(1, 4, 5, ((B, 0, size, count),) * items)


def test_deltas_are_answered_against_their_signatures() -> None:
    s = Sender()
    ask = ask_deltas(100, 2)
    s.receive(ask, b"abcdefghijkl")
    assert s.next_job() == SendDeltas(4, 5, ask.items, b"abcdefghijkl")


def test_more_bytes_outstanding_than_the_cap_are_refused() -> None:
    s = Sender()
    want(s, (0, MAX_OUTSTANDING_BYTES))
    with pytest.raises(TooMuchWanted):
        want(s, (0, 1))


def test_what_deltas_are_to_make_counts_as_outstanding() -> None:
    s = Sender()
    want(s, (0, MAX_OUTSTANDING_BYTES - 10))
    with pytest.raises(TooMuchWanted):
        s.receive(ask_deltas(11, 1), bytes(SIGNATURE_BYTES))


def test_what_was_sent_is_no_longer_outstanding() -> None:
    s = Sender()
    for _ in range(3):
        want(s, (0, MAX_OUTSTANDING_BYTES))
        while s.next_job():
            pass
        for _ in range(MAX_OUTSTANDING_BYTES // MAX_DELTAS_BYTES):
            s.receive(ask_deltas(MAX_DELTA_BYTES, 1, 4), bytes(4 * SIGNATURE_BYTES))
            assert s.next_job()


def test_a_million_ranges_are_refused() -> None:
    s = Sender()
    for _ in range(MAX_OUTSTANDING_RANGES // MAX_WANT_RANGES):
        want(s, *[(0, 1)] * MAX_WANT_RANGES)
    with pytest.raises(TooMuchWanted):
        want(s, (0, 1))


def test_more_signatures_outstanding_than_the_cap_are_refused_until_some_are_used() -> None:
    sender = Sender()
    payload = bytes(MAX_SIGNATURES * SIGNATURE_BYTES)
    item = (A, 0, 1, MAX_SIGNATURES)
    for number in range(1, MAX_OUTSTANDING_SIGNATURES // MAX_SIGNATURES + 1):
        sender.receive(AskDeltas(1, number, 0, (item,)), payload)
    assert isinstance(sender.next_job(), SendDeltas)
    sender.receive(AskDeltas(1, 98, 0, (item,)), payload)
    with pytest.raises(TooMuchWanted):
        sender.receive(AskDeltas(1, 99, 0, (item,)), payload)


def test_more_asks_outstanding_than_the_cap_are_refused() -> None:
    s = Sender()
    ask = AskRecipes(1, 1, ((B, 0, 1, Level.CHUNKS),))
    for _ in range(MAX_OUTSTANDING_ASKS):
        s.receive(ask, b"")
    with pytest.raises(TooMuchWanted):
        s.receive(ask, b"")


@pytest.mark.parametrize(
    ("ask", "signatures"),
    [
        (ask_deltas(10, 2), 2 * SIGNATURE_BYTES - 1),
        (ask_deltas(10, 2), 2 * SIGNATURE_BYTES + 1),
        (ask_deltas(MAX_DELTA_BYTES, 1, 5), 5 * SIGNATURE_BYTES),
        (ask_deltas(10, MAX_SIGNATURES // 2, 3), 3 * (MAX_SIGNATURES // 2) * SIGNATURE_BYTES),
    ],
    ids=[
        "too few",
        "too many",
        "more bytes than an ask may be for",
        "more than an ask may have",
    ],
)
def test_signatures_that_do_not_fit_their_ask_are_refused(
    ask: AskDeltas, signatures: int
) -> None:
    with pytest.raises(TooMuchWanted):
        Sender().receive(ask, bytes(signatures))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 2 * WHOLE_BYTES)), max_size=40),
    st.integers(1, 2 * WHOLE_BYTES),
)
def test_every_wanted_byte_is_sent_once_and_in_order(
    wants: list[tuple[int, int]], frame_bytes: int
) -> None:
    s = Sender(frame_bytes=frame_bytes)
    ranges = [(at * 1_000_000, length) for at, length in wants]
    for one in ranges:
        want(s, one)
    sent: list[tuple[int, int]] = []
    while job := s.next_job():
        assert isinstance(job, SendFrame)
        assert job.raw_bytes == sum(length for _, _, length in job.ranges)
        assert 0 < job.raw_bytes <= frame_bytes + min(WHOLE_BYTES, frame_bytes)
        for _, offset, length in job.ranges:
            if sent and sum(sent[-1]) == offset:
                sent[-1] = (sent[-1][0], sent[-1][1] + length)
            else:
                sent.append((offset, length))
    joined: list[tuple[int, int]] = []
    for offset, length in ranges:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    assert sent == joined
