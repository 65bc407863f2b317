"""Edits in a message, and what is none."""

import random

import msgspec
import pytest
import zstandard

from filesync.digest import digest_of
from filesync.errors import MalformedMessage
from filesync.sync.remote import fields, wire
from filesync.sync.remote.edits import pack_edits, unpack_edits
from filesync.transfer.coding import edit
from filesync.transfer.coding.edit import Edit
from filesync.transfer.send.edits import Edited
from filesync.transfer.wire import Codec

NOISE = random.Random(1).randbytes(fields.MAX_EDITS_BYTES)
TEXT = b"some text that is not short " * 400
EDITS = [edit.whole(digest_of(content), content) for content in (TEXT, b"x", NOISE[:5000])]


def test_what_was_packed_is_what_comes_out() -> None:
    packed = pack_edits(Edited(EDITS[1:], EDITS[:1]))
    assert packed is not None
    assert len(packed.payload) < packed.raw_bytes
    assert list(unpack_edits(packed).values()) == EDITS


def test_no_edits_and_more_than_go_in_are_not_packed() -> None:
    assert pack_edits(Edited()) is None
    assert pack_edits(Edited(EDITS * (fields.MAX_EDITS // 3 + 1))) is None
    size = edit.WHOLE_BYTES
    pieces = [NOISE[at : at + size] for at in range(0, len(NOISE), size)]
    many = [edit.whole(digest_of(piece), piece) for piece in pieces]
    assert pack_edits(Edited(many)) is None
    assert pack_edits(Edited(many[: fields.MAX_EDITS_PAYLOAD_BYTES // size])) is None
    assert pack_edits(Edited(many[: fields.MAX_EDITS_PAYLOAD_BYTES // size - 1])) is not None


def test_where_those_of_files_have_no_room_those_of_directories_go_alone() -> None:
    files = EDITS * (fields.MAX_EDITS // 3)
    packed = pack_edits(Edited(files, EDITS[:2]))
    assert packed is not None
    assert list(unpack_edits(packed).values()) == EDITS[:2]


def coded(edits: object) -> fields.Edits:
    raw = msgspec.msgpack.encode(edits)
    return fields.Edits(raw, len(raw))


@pytest.mark.parametrize(
    "said",
    [
        coded(b""),
        coded([1]),
        coded([[b"short", 1, [], b""]]),
        coded([[bytes(32), 0, [], b""]]),
        coded([[bytes(32), edit.MAX_BYTES + 1, [], b""]]),
        coded([[bytes(32), 1, [-1], b""]]),
        coded([[bytes(32), 1, [edit.MAX_BYTES + 1], b""]]),
        coded([[bytes(32), 1, [0] * 4097, b""]]),
        coded([[bytes(32), 1, [], bytes(2 * edit.MAX_BYTES + 1)]]),
        coded([[bytes(32), 1, [], b""]] * (fields.MAX_EDITS + 1)),
        fields.Edits(b"\xc1", 1),
        fields.Edits(b"\x90", 2),
        fields.Edits(b"no frame", 100, Codec.ZSTD),
        fields.Edits(zstandard.compress(bytes(1 << 27)), 1000, Codec.ZSTD),
        fields.Edits(b"\x90", 1, Codec.STREAM),
    ],
    ids=str,
)
def test_what_are_no_edits_is_refused(said: fields.Edits) -> None:
    with pytest.raises(MalformedMessage):
        unpack_edits(said)


@pytest.mark.parametrize(
    "edits",
    [
        {"payload": bytes(fields.MAX_EDITS_PAYLOAD_BYTES + 1), "raw_bytes": 1},
        {"payload": b"", "raw_bytes": fields.MAX_EDITS_BYTES + 1},
        {"payload": b"", "raw_bytes": 0},
    ],
    ids=["payload", "raw", "none"],
)
def test_a_gift_with_more_edits_than_it_may_have_is_no_request(
    edits: dict[str, object],
) -> None:
    give = {"op": "give", "token": bytes(16), "served": bytes(16), "tree": bytes(32)}
    wire.decode_request(msgspec.msgpack.encode(give))
    with pytest.raises(MalformedMessage):
        wire.decode_request(msgspec.msgpack.encode(give | {"edits": edits}))


def test_of_edits_with_one_digest_the_last_counts() -> None:
    digest = digest_of(b"x")
    packed = pack_edits(Edited([Edit(digest, 2, (), b""), edit.whole(digest, b"x")]))
    assert packed is not None
    assert unpack_edits(packed) == {digest: edit.whole(digest, b"x")}
