import os

import msgspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from filesync.digest import Digest
from filesync.errors import MalformedMessage, PathMissing, SourceChanged
from filesync.sync.remote import wire as sync_wire
from filesync.transfer import wire
from filesync.transfer.coding import codec
from filesync.transfer.flow import Compress
from filesync.transfer.wire import Codec, Level

digests = st.binary(min_size=32, max_size=32).map(Digest)
ids = st.integers(1, wire.MAX_INTEGER)
offsets = st.integers(0, wire.MAX_INTEGER)
tokens = st.binary(min_size=16, max_size=16)
ranges = st.tuples(digests, offsets, st.integers(1, wire.MAX_OUTSTANDING_BYTES))
stretches = st.tuples(digests, offsets, offsets, st.sampled_from(wire.Level))
gaps = st.tuples(
    digests, offsets, st.integers(1, wire.MAX_DELTA_BYTES), st.integers(1, wire.MAX_SIGNATURES)
)
payloads: st.SearchStrategy[list[wire.Buffer]] = st.lists(st.binary(min_size=1), max_size=1)
without_payload: st.SearchStrategy[wire.Message] = st.one_of(
    st.builds(wire.Hello, st.integers(0, 100)),
    st.builds(wire.Ping),
    st.builds(wire.Serve, tokens),
    st.builds(wire.Open, ids, tokens, digests, st.sampled_from(Compress), offsets),
    st.builds(wire.Opened, ids),
    st.builds(wire.Want, ids, st.lists(ranges, min_size=1, max_size=9).map(tuple)),
    st.builds(
        wire.AskRecipes, ids, ids, st.lists(stretches, min_size=1, max_size=9).map(tuple)
    ),
    st.builds(wire.Close, ids),
    st.builds(wire.Refuse, st.integers(0, 9), st.text(max_size=64), st.text(max_size=99)),
    st.builds(wire.Call, ids, st.binary()),
)
with_payload: st.SearchStrategy[wire.Message] = st.one_of(
    st.builds(wire.Frame, ids, st.integers(1, wire.MAX_FRAME_BYTES), st.sampled_from(Codec)),
    st.builds(wire.Recipes, ids, ids),
    st.builds(
        wire.AskDeltas, ids, ids, offsets, st.lists(gaps, min_size=1, max_size=9).map(tuple)
    ),
    st.builds(
        wire.Deltas, ids, ids, st.integers(1, wire.MAX_FRAME_BYTES), st.sampled_from(Codec)
    ),
    st.builds(wire.Reply, ids, st.binary(), st.text(max_size=64), st.booleans()),
)


@given(without_payload)
def test_decode_inverts_encode(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == (message, b"")


@given(with_payload, st.binary(min_size=1))
def test_a_payload_stays_beside_its_message(message: wire.Message, payload: bytes) -> None:
    frames = wire.encode(message, payload)
    assert frames[1] is payload
    assert wire.decode(frames) == (message, payload)


@given(st.lists(st.binary(max_size=64), max_size=4))
@example([b""])
@example([b"\xc1"])
@example([b"\x81\xa2op\xa4ping", b"payload"])
@example([b"\x81\xa2op\xa4pong"])
@example([b"\x91" * 4000])
@example([b"\x82\xa2op\xa4ping\xa1x" + b"\x91" * 4000 + b"\xc0"])
@example([b"\x82\xa2op\xa6refuse\xa4code\xa1\xff"])
def test_any_frames_give_a_message_or_malformed_message(frames: list[bytes]) -> None:
    try:
        wire.decode(frames)
    except MalformedMessage:
        pass


@given(st.binary(max_size=64))
def test_any_body_gives_a_request_or_malformed_message(body: bytes) -> None:
    for decode in (sync_wire.decode_request, sync_wire.decode_answer):
        try:
            decode(body)
        except MalformedMessage:
            pass


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary()
    | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=5,
)


@given(without_payload | with_payload, st.data())
def test_a_message_with_a_field_that_is_anything_is_one_or_malformed(
    message: wire.Message, data: st.DataObject
) -> None:
    fields = msgspec.msgpack.decode(wire.encode(message)[0])
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(anything)
    frames: list[wire.Buffer] = [msgspec.msgpack.encode(fields), *data.draw(payloads)]
    try:
        found, payload = wire.decode(frames)
    except MalformedMessage:
        return
    assert wire.decode(wire.encode(found, payload)) == (found, payload)


def test_an_error_is_told_with_the_path_of_the_file_that_changed_unless_that_is_too_long() -> (
    None
):
    longest = b"x" * wire.MAX_ERROR_PATH_BYTES
    assert wire.error_path(SourceChanged("it changed", longest)) == longest
    assert wire.error_path(SourceChanged("it changed", longest + b"x")) == b""
    assert wire.error_path(PathMissing("gone")) == b""


DIGEST = Digest(bytes(32))


@pytest.mark.parametrize(
    "message",
    [
        wire.Want(1, ()),
        wire.Want(1, ((DIGEST, 0, 1),) * (wire.MAX_WANT_RANGES + 1)),
        wire.Want(1, ((DIGEST, 0, 0),)),
        wire.Want(1, ((DIGEST, 0, wire.MAX_OUTSTANDING_BYTES + 1),)),
        wire.Want(1, ((DIGEST, -1, 1),)),
        wire.Want(1, ((Digest(b"short"), 0, 1),)),
        wire.AskRecipes(1, 1, ()),
        wire.AskRecipes(1, 1, ((DIGEST, 0, 1, Level.CHUNKS),) * (wire.MAX_ASK_ITEMS + 1)),
        wire.AskRecipes(1, 0, ((DIGEST, 0, 1, Level.CHUNKS),)),
        wire.AskDeltas(1, 1, 0, ((DIGEST, 0, 0, 1),)),
        wire.AskDeltas(1, 1, 0, ((DIGEST, 0, wire.MAX_DELTA_BYTES + 1, 1),)),
        wire.AskDeltas(1, 1, 0, ((DIGEST, 0, 1, wire.MAX_SIGNATURES + 1),)),
        wire.AskDeltas(1, 1, -1, ((DIGEST, 0, 1, 1),)),
        wire.Open(0, bytes(16), DIGEST),
        wire.Open(1, bytes(16), DIGEST, Compress.AUTO, -1),
        wire.Open(1, bytes(17), DIGEST),
        wire.Hello(1 << 64),
        wire.Refuse(1, "x" * 65),
    ],
    ids=repr,
)
def test_a_length_beyond_its_cap_is_refused(message: wire.Message) -> None:
    try:
        frames = wire.encode(message)
    except OverflowError:
        return
    with pytest.raises(MalformedMessage):
        wire.decode(frames)


def test_a_header_beyond_its_cap_is_not_even_decoded() -> None:
    with pytest.raises(MalformedMessage, match="over the limit"):
        wire.decode([bytes(wire.MAX_HEADER_BYTES + 1)])


def test_a_payload_beyond_its_cap_is_refused() -> None:
    frame = wire.encode(wire.Frame(1, 5))[0]
    with pytest.raises(MalformedMessage, match="over the limit"):
        wire.decode([frame, bytes(wire.MAX_PAYLOAD_BYTES + 1)])


def test_a_frame_needs_its_payload_and_a_ping_has_none() -> None:
    with pytest.raises(MalformedMessage, match="without"):
        wire.decode(wire.encode(wire.Frame(1, 5)))
    with pytest.raises(MalformedMessage, match="no payload"):
        wire.decode([*wire.encode(wire.Ping()), b"x"])


def test_signatures_are_a_payload_and_no_more_than_one_ask_may_have() -> None:
    ask = wire.encode(wire.AskDeltas(1, 1, 0, ((DIGEST, 0, 1, 1),)))[0]
    with pytest.raises(MalformedMessage, match="more signatures"):
        wire.decode([ask, bytes(wire.MAX_SIGNATURES * wire.SIGNATURE_BYTES + 1)])
    with pytest.raises(MalformedMessage, match="without"):
        wire.decode(wire.encode(wire.AskDeltas(1, 1, 0, ((DIGEST, 0, 1, 1),))))


# --- frames' payloads ---------------------------------------------------------------------------

TEXT = b"".join(b"line %d of a text\n" % number for number in range(5000))


@given(
    st.one_of(st.binary(min_size=1, max_size=4000), st.binary(min_size=1).map(lambda b: b * 99))
)
def test_decompress_inverts_compress(data: bytes) -> None:
    coded, payload = codec.compress(data)
    assert bytes(codec.decompress(coded, payload, len(data))) == data


@given(st.binary(max_size=60), st.sampled_from(Codec), st.integers(1, 300), st.booleans())
def test_any_payload_is_that_many_bytes_or_malformed(
    data: bytes, coded: Codec, raw_bytes: int, is_frame: bool
) -> None:
    payload = zstd(data * 5) if is_frame else data
    try:
        assert len(codec.decompress(coded, payload, raw_bytes)) == raw_bytes
    except MalformedMessage:
        pass


def test_text_is_compressed_and_random_bytes_are_not() -> None:
    assert codec.compress(TEXT)[0] is Codec.ZSTD
    assert codec.compress(os.urandom(100_000))[0] is Codec.RAW


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("size", [1, 100, wire.MAX_FRAME_BYTES])
def test_a_frame_of_zeros_is_a_byte_whatever_is_wanted(size: int, wanted: bool) -> None:
    coded, payload = codec.compress(bytes(size), wanted=wanted)
    assert (coded, payload) == (Codec.HOLE, codec.HOLE)
    assert codec.decompress(coded, payload, size) == bytes(size)
    for other in (
        bytes(size - 1) + b"1",
        b"1" + bytes(size - 1),
        bytes(wire.MAX_FRAME_BYTES + 1),
    ):
        assert codec.compress(other, wanted=wanted)[0] is not Codec.HOLE


def test_a_hole_that_is_none_is_refused() -> None:
    for payload, size in (
        (b"", 5),
        (b"1", 5),
        (bytes(5), 5),
        (b"\0", wire.MAX_FRAME_BYTES + 1),
    ):
        with pytest.raises(MalformedMessage):
            codec.decompress(Codec.HOLE, payload, size)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def without_size(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


def with_wide_window() -> bytes:
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj(size=100)
    return stream.compress(bytes(100)) + stream.flush()


@pytest.mark.parametrize(
    "payload",
    [
        zstd(bytes(256 << 20)),
        zstd(TEXT[:99]),
        zstd(TEXT[:100]) + b"garbage",
        zstd(TEXT[:100]) + zstd(TEXT[:100]),
        zstd(TEXT[:100])[:-3],
        without_size(TEXT[:100]),
        with_wide_window()[:4] + b"\x00\x88" + bytes(20),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip",
        b"not zstd at all",
        b"",
    ],
    ids=[
        "bomb",
        "too short",
        "garbage after",
        "two frames",
        "cut",
        "states no size",
        "window of gigabytes",
        "skippable",
        "noise",
        "nothing",
    ],
)
def test_a_frame_that_is_not_what_it_should_be_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decompress(Codec.ZSTD, payload, 100)


def test_a_plain_frame_of_another_length_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        codec.decompress(Codec.RAW, b"123", 4)
