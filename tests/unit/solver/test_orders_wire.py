"""Messages: what is encoded is decoded, and any bytes are a message or malformed."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from filesync.errors import MalformedMessage
from solver import wire
from solver.graph import Graph, Vertex
from tests.unit.solver.fakes import IMAGE
from worker.wire import framing, orders
from worker.wire.images import FromRegistry
from worker.wire.ops import ExecOp, ImageOp

Frames = Sequence[bytes | memoryview]
Decode = Callable[[Frames], tuple[Any, bytes | memoryview]]
GRAPHS = [
    Graph((Vertex(ExecOp(("make",)), (), "make", "build", (("gpu", "yes"),), True),), 0),
    Graph((Vertex(ExecOp(("a",))), Vertex(ImageOp(IMAGE), (0,))), 1),
]


@cache  # made anew for each example, it took most of the time
def values(kind: type) -> st.SearchStrategy[Any]:
    """Return values of a type as msgspec describes it, within its bounds."""
    return _values(inspect.type_info(kind))


def _values(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.Metadata():
            return _values(info.type)
        case inspect.StructType():
            return _structs(info)
        case inspect.UnionType():
            return st.one_of(*map(_values, info.types))
        case inspect.EnumType():
            return st.sampled_from(list(info.cls))
        case inspect.VarTupleType():
            lists = st.lists(_values(info.item_type), min_size=info.min_length or 0, max_size=3)
            return lists.map(tuple)
        case inspect.TupleType():
            return st.tuples(*map(_values, info.item_types))
        case inspect.DictType():
            return st.dictionaries(_values(info.key_type), _values(info.value_type), max_size=3)
        case _:
            return _plain(info)


def _plain(info: inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case inspect.IntType():
            below = None if info.lt is None else info.lt - 1
            most = (1 << 63) - 1 if info.le is None else info.le
            return st.integers(info.ge or 0, most if below is None else below)
        case inspect.StrType(pattern=str(pattern)):
            known = (IMAGE, "https://example.org/a", "a" * 40)
            return st.just(next(one for one in known if re.search(pattern, one)))
        case inspect.StrType():
            return st.text(min_size=info.min_length or 0, max_size=min(info.max_length or 9, 9))
        case inspect.BytesType():
            low = info.min_length or 0
            return st.binary(min_size=low, max_size=min(info.max_length or 99, low + 9))
        case inspect.BoolType():
            return st.booleans()
        case inspect.FloatType():
            return st.floats(info.ge, info.le, allow_nan=False)
        case inspect.NoneType():
            return st.none()
        case _:
            raise AssertionError(info)


def _structs(info: inspect.StructType) -> st.SearchStrategy[Any]:
    if info.cls is Graph:
        return st.sampled_from(GRAPHS)
    fields = {field.name: _values(field.type) for field in info.fields}
    return st.builds(info.cls, **fields)


SIDES: list[tuple[Any, Any, Decode]] = [
    (orders.ToWorker, orders.encode, orders.decode_to_worker),
    (orders.FromWorker, orders.encode, wire.decode_to_manager),
    (wire.ToClient, wire.encode, wire.decode_to_client),
    (wire.ToManager, wire.encode, wire.decode_to_manager),
]
MESSAGES = [
    pytest.param(kind, encode, decode, id=f"{decode.__name__}-{kind.__name__}")
    for side, encode, decode in SIDES
    for kind in get_args(side)
]
DECODERS = [pytest.param(decode, id=decode.__name__) for _, _, decode in SIDES]


@pytest.mark.parametrize(("kind", "encode", "decode"), MESSAGES)
@given(data=st.data())
def test_message_is_decoded_as_it_was_encoded(
    kind: type, encode: Callable[..., list[bytes]], decode: Decode, data: st.DataObject
) -> None:
    message = data.draw(values(kind))
    payload = data.draw(st.binary(max_size=9))
    assert decode(encode(message, payload)) == (message, payload)


@pytest.mark.parametrize("decode", DECODERS)
@given(frames=st.lists(st.binary(max_size=40), max_size=4))
def test_any_frames_are_a_message_or_malformed(decode: Decode, frames: list[bytes]) -> None:
    try:
        decode(frames)
    except MalformedMessage:
        pass


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["id", "body", "result", "ref", "graph", "version", "build", "position", "rows"]
TAGS = ["order", "outcome", "start-build", "built", "register", "have", "nodes", "step-done"]


@pytest.mark.parametrize("decode", DECODERS)
@given(tag=st.sampled_from(TAGS), fields=st.dictionaries(st.sampled_from(FIELDS), PLAIN))
def test_known_tag_with_any_fields_is_a_message_or_malformed(
    decode: Decode, tag: str, fields: dict[str, object]
) -> None:
    try:
        decode([msgspec.msgpack.encode({"m": tag, **fields})])
    except MalformedMessage:
        pass


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("header", [{"m": "no-such-tag"}, {}, {"m": 1}, [], None, "order"])
def test_unknown_tag_is_refused(decode: Decode, header: object) -> None:
    with pytest.raises(MalformedMessage):
        decode([msgspec.msgpack.encode(header)])


@pytest.mark.parametrize("decode", DECODERS)
def test_field_of_a_later_version_is_ignored(decode: Decode) -> None:
    message, _ = decode([msgspec.msgpack.encode({"m": "nodes", "from_the_future": 1})])
    assert message == orders.Nodes()


@pytest.mark.parametrize("decode", DECODERS)
def test_too_many_or_no_frames_are_refused(decode: Decode) -> None:
    nodes = orders.encode(orders.Nodes())
    for frames in ([], [*nodes, b"", b""]):
        with pytest.raises(MalformedMessage):
            decode(frames)


@pytest.mark.parametrize("decode", DECODERS)
def test_oversize_frames_are_refused(decode: Decode) -> None:
    nodes = orders.encode(orders.Nodes())
    for frames in (
        [*nodes, bytes(framing.MAX_PAYLOAD_BYTES + 1)],
        [bytes(framing.MAX_HEADER_BYTES + 1)],
    ):
        with pytest.raises(MalformedMessage, match="bytes"):
            decode(frames)


@pytest.mark.parametrize("decode", DECODERS)
def test_deep_nesting_is_refused(decode: Decode) -> None:
    with pytest.raises(MalformedMessage):
        decode([b"\x91" * 100_000])


def test_worker_cannot_speak_as_a_manager() -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_to_manager(orders.encode(orders.Welcome()))
    with pytest.raises(MalformedMessage):
        orders.decode_to_worker(orders.encode(orders.Leaving()))


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)])
def test_digest_of_another_length_is_refused(digest: bytes) -> None:
    raw = {"m": "order", "id": 1, "body": {"m": "read-tree", "tree": digest}}
    with pytest.raises(MalformedMessage):
        orders.decode_to_worker([msgspec.msgpack.encode(raw)])


@pytest.mark.parametrize("digest", [f"{IMAGE}\n", f" {IMAGE}", IMAGE[:-1], IMAGE.upper(), ""])
def test_digest_of_a_manifest_is_its_64_digits_and_nothing_else(digest: str) -> None:
    body = {"m": "registry", "repository": "docker.io/library/a", "manifest": IMAGE}
    assert msgspec.convert(body, FromRegistry).manifest == IMAGE
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body | {"manifest": digest}, FromRegistry)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(ImageOp(IMAGE)) | {"manifest": digest}, ImageOp)
