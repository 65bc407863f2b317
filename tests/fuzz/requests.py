"""What ``filesync serve`` and its clients say to each other, and what comes of it without a disk."""

import random
from typing import Final

from filesync.digest import digest_of
from filesync.disk.updating.visits import ArrivedVisits
from filesync.errors import MalformedMessage, NodeMissing, PeerError, UsageError
from filesync.manifest import EMPTY_DIRECTORY, Manifest, MemoryNodes, accept, put, with_entries
from filesync.manifest.owner import Writer, as_written_by
from filesync.manifest.pack import pack_directories, unpack_directories
from filesync.sync.filter import Filter
from filesync.sync.options import NewOwner, OwnerNames
from filesync.sync.owner import MAX_ID, given_to, look_up
from filesync.sync.part import Part
from filesync.sync.remote import fields, wire
from filesync.sync.remote.edits import pack_edits, pack_remains, unpack_edits, unpack_remains
from filesync.sync.remote.lists import unpack_list
from filesync.sync.remote.nodes import NodeFetch, answer_deltas, answer_nodes
from filesync.sync.source import is_named
from filesync.transfer.coding import delta, edit
from filesync.transfer.coding.remains import Remains, Run, copies_of
from filesync.transfer.send.edits import Edited
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate
from tests.unit.made import file

REQUEST: Final = b"r"
ANSWER: Final = b"a"
TOKEN: Final = bytes(16)
PATHS: Final = (b"a/b", b"c/", b"..", b"d")
KEY: Final = 5


def _manifest(mtime_ns: int) -> Manifest:
    nodes = MemoryNodes()
    files = [file(b"%03d" % number, b"x", mtime_ns * (number == 50)) for number in range(100)]
    return Manifest(put(nodes, with_entries(EMPTY_DIRECTORY, files)), nodes)


TEXT: Final = b"".join(b"line %d\n" % number for number in range(1000))
EDIT: Final = edit.compare(digest_of(TEXT[9:]), TEXT[9:], edit.mark(TEXT, KEY))[0]
REMAINS: Final = Remains(
    digest_of(TEXT[9:]), digest_of(TEXT), (Run(0, 9, 99), Run(100, 200, 300))
)
OLD: Final = _manifest(0)
NEW: Final = _manifest(1)


def fuzz(data: bytes) -> None:
    """Take ``data`` as a kind, the body's length, the body and a payload."""
    kind, size, rest = data[:1], int.from_bytes(data[1:3], "big"), data[3:]
    body, payload = rest[:size], rest[size:]
    try:
        if kind == REQUEST:
            request = wire.decode_request(body)
            assert wire.decode_request(wire.encode(request)) == request
            _answer(request)
        elif kind == ANSWER:
            answer = wire.decode_answer(body)
            assert wire.decode_answer(wire.encode(answer)) == answer
            _take(answer, payload)
    except (MalformedMessage, NodeMissing, PeerError, UsageError):
        pass


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with something in its body or payload changed."""
    kind, size, rest = data[:1], int.from_bytes(data[1:3], "big"), data[3:]
    body, payload = rest[:size], rest[size:]
    if payload and rng.random() < 0.5:
        return _input(kind, body, mutate(payload))
    return _input(kind, mutation.mutated(body, rng, mutate)[:65_535], payload)


def seeds() -> list[bytes]:
    """Return one input for each request and each answer."""
    rules = (b"- *.o", b"+ a/**/b", b"!", b"[[:alpha:]]*", b"dir/***")
    node = OLD.nodes.read(OLD.tree)
    signed = delta.cut(node, KEY, average=delta.NODE_PIECE_BYTES)
    asked = wire.AskNodeDeltas(TOKEN, KEY, ((NEW.tree, signed.signatures),))
    answered, deltas = answer_deltas(NEW, asked)
    requests: list[wire.Request] = [
        wire.Look(PATHS, rules, True),
        wire.Look(PATHS, one_file_system=2, unites=True),
        wire.Look(PATHS[:1], listed=fields.Listed(b"a/b\0c/\0.", 8, all_below=True)),
        wire.Prepare(b"a", (b"x", b"y"), b"in", rules=rules, mounts=True),
        wire.Prepare(b"a", owner=fields.OwnerNames("12", "34")),
        wire.Scan(TOKEN),
        wire.Scan(TOKEN, (12, frozenset([0, 34]))),
        wire.Scan(TOKEN, grows=True),
        wire.AskNodes(TOKEN, (NEW.tree, digest_of(b"?"))),
        asked,
        wire.AskUnseen(TOKEN, (b"a",), PATHS, (b"", *PATHS)),
        wire.Drop(TOKEN),
        wire.Give(
            TOKEN, TOKEN, NEW.tree, True, rules, (fields.Other(TOKEN, OLD.tree),), (b"x",), True
        ),
        wire.Give(TOKEN, TOKEN, NEW.tree, edits=pack_edits(Edited([EDIT]))),
        wire.Give(TOKEN, TOKEN, NEW.tree, remains=pack_remains(Edited(remains=[REMAINS]))),
        wire.GiveGrowing(TOKEN, TOKEN),
        wire.Add(TOKEN, TOKEN),
        wire.AskDirectories(TOKEN, fresh=True),
        wire.Changing(TOKEN, b"a/b", digest_of(b"?")),
        wire.Progressed(1, 2),
    ]
    answers: list[tuple[wire.Answer, bytes]] = [
        (wire.Found((), {0: 2}, 1), b""),
        (wire.Found((fields.Part(TOKEN, b"b"), fields.Part(TOKEN, b"", (b"d", b"b")))), b""),
        (wire.Prepared(TOKEN, True, b"name"), b""),
        (wire.Prepared(TOKEN, writer=(12, frozenset([0, 34])), group=34), b""),
        (wire.Prepared(TOKEN, new_owner=(12, None)), b""),
        (wire.Scanned(NEW.tree, {"socket": 1}), b""),
        (wire.Scanned(NEW.tree, mounts=(b"a", b"a/*"), unnamed_mounts=1), b""),
        (wire.Nodes(), answer_nodes(NEW, (NEW.tree,))),
        (answered, deltas),
        (wire.Directories(NEW.tree), pack_directories([(b"a/b", node), (b"", node)])),
        (wire.Directories(fresh=((b"a/b", NEW.tree),), begun=((b"f", 1 << 30, 5),)), b""),
        (wire.Unseen((0,), (1, 2), {0: 13}), b""),
        (wire.Done(), b""),
        (wire.Given(1, 2, 3, 4, 5, {"owner": 1}), b""),
    ]
    made = [_input(REQUEST, wire.encode(request), b"") for request in requests]
    return made + [_input(ANSWER, wire.encode(answer), more) for answer, more in answers]


def _input(kind: bytes, body: bytes, payload: bytes) -> bytes:
    return kind + len(body).to_bytes(2, "big") + body + payload


def _copy(manifest: Manifest) -> MemoryNodes:
    nodes = MemoryNodes()
    nodes.write(manifest.tree, manifest.nodes.read(manifest.tree), manifest.summary)
    return nodes


def _take_told(give: wire.Give) -> None:
    for one in unpack_edits(give.edits).values():
        assert len(edit.apply(one, TEXT)) == one.size <= edit.MAX_BYTES
    for remains in unpack_remains(give.remains).values():
        end = 0
        for copy in copies_of(remains.runs, len(TEXT), len(TEXT)):
            assert end <= copy.offset
            end = copy.offset + copy.length
            assert max(end, copy.start + copy.length) <= len(TEXT)


def _answer(request: wire.Request) -> None:
    match request:
        case wire.AskNodes(_, digests):
            answer_nodes(NEW, digests)
        case wire.AskNodeDeltas():
            answer_deltas(NEW, request)
        case wire.Scan(writer=(uid, groups)):
            _check_written(Writer(uid, groups))
        case wire.Give():
            _take_told(request)
        case wire.Prepare(owner=fields.OwnerNames(user, group)):
            known = look_up(OwnerNames(user, group))
            assert all(one is None or 0 <= one <= MAX_ID for one in known)
        case wire.Look(paths, listed=fields.Listed() as told):
            listed = unpack_list(told)
            filter = Filter((), before=listed.decides(()))
            for path in listed.of(paths[0], b"")[0]:
                filter.excludes(path, True)
        case wire.Look(paths, rules) | wire.Prepare(names=paths, rules=rules):
            filter = Filter(rules)
            for path in paths:
                filter.excludes(path, False)
        case _:
            pass


def _check_written(writer: Writer) -> None:
    written = as_written_by(writer, NEW, _copy(NEW))
    accept(MemoryNodes(), written.nodes.read(written.tree))


def _take(answer: wire.Answer, payload: bytes) -> None:
    match answer:
        case wire.Prepared(writer=(uid, groups)):
            _check_written(Writer(uid, groups))
        case wire.Prepared(new_owner=(uid, gid)):
            owned = given_to(NewOwner(uid, gid), NEW, _copy(NEW))
            accept(MemoryNodes(), owned.nodes.read(owned.tree))
        case wire.Found(parts):
            for part in parts:
                if is_named(Part(part.inside, frozenset(part.names) or None), PATHS):
                    assert {part.inside, *part.names} <= {b"", b"b", b"d"}
        case wire.Nodes():
            fetch = NodeFetch(TOKEN, {NEW.tree: None}, MemoryNodes())
            fetch.next_request()
            fetch.take_nodes(payload)
            fetch.settle()
        case wire.Directories():
            nodes = MemoryNodes()
            arrived = ArrivedVisits(nodes)
            for path, node in unpack_directories(payload) if payload else ():
                visit = arrived.arrive(path, accept(nodes, node))
                assert not {b".", b".."} & set(visit.path.split(b"/"))
        case wire.NodeDeltas():
            fetch = NodeFetch(TOKEN, {NEW.tree: OLD.tree}, _copy(OLD))
            fetch.next_request()
            fetch.take_deltas(answer, payload)
        case _:
            pass
