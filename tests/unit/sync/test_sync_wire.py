"""What ``filesync serve`` and its clients say: every message is read as it was written."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filesync.digest import Digest
from filesync.errors import MalformedMessage
from filesync.manifest import MAX_NODE_BYTES
from filesync.sync.filter import MAX_RULES
from filesync.sync.remote import fields, wire
from filesync.transfer.wire import MAX_INTEGER, Codec

DIGEST = Digest(bytes(32))
TOKEN = bytes(16)
digests = st.binary(min_size=32, max_size=32).map(Digest)
tokens = st.binary(min_size=16, max_size=16)
names = st.binary(max_size=255)
some_names = st.lists(names, max_size=3).map(tuple)
rules = st.lists(st.binary(max_size=99), max_size=3).map(tuple)
counts = st.integers(0, (1 << 64) - 1)
kinds = st.dictionaries(st.sampled_from(["owner", "socket", "a kind"]), counts)
sizes = st.lists(st.integers(1, MAX_NODE_BYTES), min_size=1, max_size=3).map(tuple)
parts = st.lists(st.builds(fields.Part, tokens, names, some_names), max_size=3).map(tuple)
items = st.lists(st.tuples(digests, st.binary(max_size=99)), min_size=1, max_size=3).map(tuple)
others = st.lists(st.builds(fields.Other, tokens, digests), max_size=3).map(tuple)
flags = st.booleans()
sizes_of_files = st.integers(0, (1 << 63) - 1)
times_ns = st.integers(-(1 << 63), (1 << 63) - 1)
owner_names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=255)
new_ids = st.none() | st.integers(0, 0xFFFFFFFE)

requests: st.SearchStrategy[wire.Request] = st.one_of(
    st.builds(wire.Look, st.lists(names, min_size=1, max_size=3).map(tuple), rules, flags),
    st.builds(wire.Look, st.just((b"x",)), one_file_system=st.integers(0, 2)),
    st.builds(wire.Prepare, names, mounts=flags),
    st.builds(wire.Prepare, names, some_names, names, flags, flags, rules, *(flags,) * 4),
    st.builds(
        wire.Prepare, names, owner=st.builds(fields.OwnerNames, owner_names, owner_names)
    ),
    st.builds(wire.Scan, tokens, grows=flags, fresh=st.none() | tokens),
    st.builds(wire.AskNodes, tokens, st.lists(digests, min_size=1, max_size=3).map(tuple)),
    st.builds(wire.AskNodeDeltas, tokens, st.integers(0, MAX_INTEGER), items),
    st.builds(wire.AskUnseen, tokens, *(some_names,) * 3),
    st.builds(wire.Drop, tokens),
    st.builds(wire.Give, tokens, tokens, digests, flags, rules, others, some_names, flags),
    st.builds(wire.GiveGrowing, tokens, tokens, flags),
    st.builds(wire.Add, tokens, tokens, flags, flags),
    st.builds(wire.AskDirectories, tokens, flags),
    st.builds(wire.Changing, tokens, names, digests),
    st.builds(wire.Progressed, counts, counts),
)
answers: st.SearchStrategy[wire.Answer] = st.one_of(
    st.builds(wire.Found, parts, one_file_system=st.integers(0, 2)),
    st.builds(
        wire.Prepared,
        tokens,
        flags,
        st.none() | names,
        flags,
        st.none(),
        st.none() | st.builds(wire.Scanned, digests, kinds),
    ),
    st.builds(wire.Prepared, tokens, new_owner=st.none() | st.tuples(new_ids, new_ids)),
    st.builds(
        wire.Directories,
        st.none() | digests,
        st.lists(st.tuples(names, digests), max_size=3).map(tuple),
        st.lists(st.tuples(names, sizes_of_files, times_ns), max_size=3).map(tuple),
    ),
    st.builds(wire.Scanned, digests, kinds),
    st.builds(wire.Scanned, digests, mounts=st.none() | some_names, unnamed_mounts=counts),
    st.builds(wire.Nodes),
    st.builds(
        wire.NodeDeltas, sizes, st.integers(1, fields.MAX_DELTAS_BYTES), st.sampled_from(Codec)
    ),
    st.builds(wire.Unseen, st.just((0, 3)), st.just((1,)), st.just({2: 13})),
    st.builds(wire.Done),
    st.builds(
        wire.Given,
        *(counts,) * 5,
        kinds,
        st.just((b"l",)),
        counts,
        st.dictionaries(names, st.integers(1, 4095), max_size=3),
        counts,
    ),
)


@given(requests)
def test_a_request_is_decoded_as_it_was_encoded(request: wire.Request) -> None:
    assert wire.decode_request(wire.encode(request)) == request


@given(answers)
def test_an_answer_is_decoded_as_it_was_encoded(answer: wire.Answer) -> None:
    assert wire.decode_answer(wire.encode(answer)) == answer


@given(requests, answers)
def test_a_request_is_no_answer_and_an_answer_is_no_request(
    request: wire.Request, answer: wire.Answer
) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_answer(wire.encode(request))
    with pytest.raises(MalformedMessage):
        wire.decode_request(wire.encode(answer))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary()
    | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=5,
)


@given(st.one_of(requests, answers), st.data())
def test_a_message_with_a_field_that_is_anything_is_one_or_malformed(
    message: wire.Request | wire.Answer, data: st.DataObject
) -> None:
    fields = msgspec.msgpack.decode(wire.encode(message))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(anything)
    body = msgspec.msgpack.encode(fields)
    for decode in (wire.decode_request, wire.decode_answer):
        try:
            found = decode(body)
        except MalformedMessage:
            continue
        assert decode(wire.encode(found)) == found


@pytest.mark.parametrize(
    "message",
    [
        wire.Look(()),
        wire.Look((b"x" * 4097,)),
        wire.Look((b"x",) * (fields.MAX_PATHS + 1)),
        wire.Look((b"x",), (b"r",) * (MAX_RULES + 1)),
        wire.Look((b"x",), (b"r" * 4097,)),
        wire.Look((b"x",), one_file_system=3),
        wire.Look((b"x",), one_file_system=-1),
        wire.Prepare(b"x", (b"n",) * (fields.MAX_NAMES + 1)),
        wire.Prepare(b"x", (b"n" * 256,)),
        wire.Prepare(b"x", owner=fields.OwnerNames("n" * 256)),
        wire.Prepare(b"x", owner=fields.OwnerNames(group="n\0")),
        wire.Scan(bytes(15)),
        wire.AskNodes(TOKEN, ()),
        wire.AskNodes(TOKEN, (DIGEST,) * (fields.MAX_ASKED_NODES + 1)),
        wire.AskNodes(TOKEN, (Digest(bytes(31)),)),
        wire.AskNodeDeltas(TOKEN, -1, ((DIGEST, b""),)),
        wire.AskNodeDeltas(TOKEN, 1, ((DIGEST, bytes(fields.MAX_SIGNATURES_BYTES + 1)),)),
        wire.Give(TOKEN, TOKEN, DIGEST, others=(fields.Other(TOKEN, DIGEST),) * 65),
        wire.Progressed(-1),
    ],
    ids=lambda message: repr(message)[:40],
)
def test_a_request_beyond_a_cap_is_refused(message: wire.Request) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_request(wire.encode(message))


@pytest.mark.parametrize(
    "message",
    [
        wire.Scanned(DIGEST, {str(n): 1 for n in range(fields.MAX_KINDS + 1)}),
        wire.Scanned(DIGEST, {"k" * 65: 1}),
        wire.Scanned(DIGEST, {"a\nline": 1}),
        wire.Scanned(DIGEST, {"k": -1}),
        wire.Scanned(DIGEST, mounts=(b"m",) * (fields.MAX_PATHS + 1)),
        wire.Scanned(DIGEST, mounts=(b"m" * (fields.MAX_PATH_BYTES + 1),)),
        wire.Scanned(DIGEST, unnamed_mounts=-1),
        wire.Found((), one_file_system=3),
        wire.NodeDeltas((), 1),
        wire.NodeDeltas((0,), 1),
        wire.NodeDeltas((MAX_NODE_BYTES + 1,), 1),
        wire.NodeDeltas((1,), fields.MAX_DELTAS_BYTES + 1),
        wire.NodeDeltas((1,), 0),
        wire.Prepared(TOKEN, rename=b"n" * 256),
        wire.Prepared(TOKEN, group=-1),
        wire.Prepared(TOKEN, new_owner=(0xFFFFFFFF, None)),
        wire.Prepared(TOKEN, new_owner=(None, -1)),
    ],
    ids=lambda message: repr(message)[:40],
)
def test_an_answer_beyond_a_cap_is_refused(message: wire.Answer) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_answer(wire.encode(message))
