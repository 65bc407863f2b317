"""Who passes ZMTP on sees where messages end, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import UnexpectedMessage
from filesync.transfer.connection.zmtp import SIGNATURE_BYTES, Framing, is_signature

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
LIMIT = 4000
FRAME_COST = 64
MORE, LONG, COMMAND = 1, 2, 4

sizes = st.lists(st.integers(0, 1500), min_size=1, max_size=4)
cuts = st.lists(st.integers(1, 700), max_size=30)


def frame(size: int, flags: int = 0, *, is_long: bool = False) -> bytes:
    if is_long or size > 255:
        return bytes([flags | LONG]) + size.to_bytes(8, "big") + b"x" * size
    return bytes([flags, size]) + b"x" * size


def message(frames: list[int]) -> bytes:
    *first, last = frames
    return b"".join([*(frame(size, MORE) for size in first), frame(last)])


def follow(data: bytes, pieces: list[int]) -> None:
    framing = Framing(LIMIT)
    for size in pieces:
        framing.take(data[:size])
        data = data[size:]
    framing.take(data)


def is_too_long(frames: list[int]) -> bool:
    return sum(frames) + FRAME_COST * len(frames) > LIMIT


@given(messages=st.lists(sizes, max_size=6), pieces=cuts)
def test_messages_within_the_limit_pass_and_longer_ones_do_not(
    messages: list[list[int]], pieces: list[int]
) -> None:
    data = GREETING + b"".join(map(message, messages))
    if any(map(is_too_long, messages)):
        with pytest.raises(UnexpectedMessage, match="without an end"):
            follow(data, pieces)
    else:
        follow(data, pieces)


def test_a_message_that_never_ends_is_found_before_its_last_frame() -> None:
    with pytest.raises(UnexpectedMessage):
        follow(GREETING + frame(0, MORE) * (LIMIT // FRAME_COST + 1), [])


def test_a_frame_is_refused_by_what_it_says_that_it_is_long() -> None:
    with pytest.raises(UnexpectedMessage):
        follow(GREETING + bytes([LONG]) + b"\x7f" + bytes(7), [])


def test_commands_are_messages_too() -> None:
    follow(GREETING + frame(20, COMMAND) * 1000 + frame(300, COMMAND, is_long=True), [64, 1, 1])


@pytest.mark.parametrize(
    "greeting",
    [
        GREETING.replace(b"\x7f\x03", b"\x7f\x01"),
        b"SSH-2.0-OpenSSH_9.2 and so on".ljust(64),
        b"\x01" + GREETING[1:],
    ],
    ids=["an old version", "another protocol", "without a signature"],
)
def test_another_protocol_is_refused(greeting: bytes) -> None:
    with pytest.raises(UnexpectedMessage, match="not ZMTP"):
        follow(greeting, [3])


def test_a_signature_is_known_by_its_ends() -> None:
    assert is_signature(GREETING[:SIGNATURE_BYTES])
    assert not is_signature(GREETING[: SIGNATURE_BYTES - 1])
    assert not is_signature(b"hello you!")
