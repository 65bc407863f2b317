"""Frames as pieces of one stream."""

import os
import random
import resource
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from filesync.errors import MalformedMessage
from filesync.transfer.coding import codec
from filesync.transfer.coding.stream import StreamDecoder, StreamEncoder
from filesync.transfer.wire import MAX_FRAME_BYTES, Codec

blocks = st.one_of(
    st.binary(min_size=1, max_size=5000),
    st.binary(min_size=1, max_size=50).map(lambda b: b * 4000),
    st.integers(1, 300_000).map(os.urandom),
)


@given(st.lists(blocks, min_size=1, max_size=8))
def test_pieces_in_their_order_are_what_was_encoded(datas: list[bytes]) -> None:
    encoder, decoder = StreamEncoder(), StreamDecoder()
    for data in datas:
        assert decoder.decode(memoryview(encoder.encode(data)), len(data)) == data


@given(st.lists(blocks, min_size=1, max_size=3), st.integers(-3, 3).filter(bool))
def test_a_piece_of_another_length_than_it_says_is_refused(
    datas: list[bytes], off_by: int
) -> None:
    encoder, decoder = StreamEncoder(), StreamDecoder()
    for data in datas[:-1]:
        decoder.decode(encoder.encode(data), len(data))
    with pytest.raises(MalformedMessage):
        decoder.decode(encoder.encode(datas[-1]), max(len(datas[-1]) + off_by, 0))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(1, 300))
def test_any_bytes_are_so_many_or_malformed(pieces: list[bytes], raw_bytes: int) -> None:
    decoder = StreamDecoder()
    try:
        for piece in pieces:
            assert len(decoder.decode(piece, raw_bytes)) == raw_bytes
    except MalformedMessage:
        pass


def test_what_resembles_what_went_before_takes_few_bytes() -> None:
    rng = random.Random(1)
    text = rng.randbytes(1 << 20)
    encoder = StreamEncoder()
    first, again = encoder.encode(text), encoder.encode(text)
    assert len(first) > len(text) * 0.99
    assert len(again) < len(text) / 100


def test_a_piece_cannot_expand_beyond_a_frame() -> None:
    piece = StreamEncoder().encode(bytes(512 << 20))
    assert len(piece) < 64 << 10
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match="longer"):
            StreamDecoder().decode(piece, MAX_FRAME_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_FRAME_BYTES
    finally:
        tracemalloc.stop()


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_pieces_that_are_refused_take_no_memory_for_good() -> None:
    piece = StreamEncoder().encode(bytes(range(256)) * 1000)

    def refuse() -> None:
        for raw_bytes in (1000, 1 << 20):
            with pytest.raises(MalformedMessage):
                StreamDecoder().decode(piece, raw_bytes)

    refuse()
    before = address_space()
    for _ in range(50):
        refuse()
    assert address_space() - before < 10 * MAX_FRAME_BYTES


def test_a_stream_of_a_wider_window_than_ours_is_refused() -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=25)
    coder = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    piece = coder.compress(bytes(100)) + coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    with pytest.raises(MalformedMessage, match="damaged"):
        StreamDecoder().decode(piece, 100)


def test_a_piece_of_a_stream_does_not_stand_alone() -> None:
    piece = StreamEncoder().encode(b"text" * 100)
    with pytest.raises(MalformedMessage):
        codec.decompress(Codec.STREAM, piece, 400)
