"""What comes over a data plane's socket: header, payload, and the machine that they are for."""

import random
from collections.abc import Iterator
from typing import Final

from filesync.digest import digest_of
from filesync.disk.updating.update import WantedFile
from filesync.errors import MalformedMessage, PeerError
from filesync.transfer import wire
from filesync.transfer.coding import chunking, codec, delta, matching, recipe
from filesync.transfer.coding.stream import StreamDecoder, StreamEncoder
from filesync.transfer.errors import Refused
from filesync.transfer.flow import Flow
from filesync.transfer.receive.fetch import Fetch
from filesync.transfer.receive.receiver import Receiver, Sent
from filesync.transfer.receive.units import (
    Based,
    Coded,
    CutBases,
    RebuildGaps,
    SignGaps,
    StoreBatch,
    StorePiece,
)
from filesync.transfer.send.sender import Sender
from tests.fuzz import mutation
from tests.fuzz.mutation import Mutate

SESSION: Final = 7
TOKEN: Final = bytes(16)
OLD: Final = random.Random(1).randbytes(150_000)
NEW: Final = OLD[:70_000] + b"edited" + OLD[70_000:]
SMALL: Final = b"a small file"
TREE: Final = digest_of(b"tree")

Frames = list[wire.Buffer]
Said = tuple[wire.Message, bytes]
"""A message and its payload."""


def fuzz(data: bytes) -> None:
    """Take ``data`` as messages, each after its two lengths, at both ends of a session."""
    receiver, sender, decoder = _moving(), Sender(), StreamDecoder()
    for frames in messages(data):
        try:
            message, payload = wire.decode(frames)
        except MalformedMessage:
            return
        assert wire.decode(wire.encode(message, payload)) == (message, payload)
        try:
            _take(receiver, sender, decoder, message, payload)
        except (PeerError, Refused):
            return


def messages(data: bytes) -> Iterator[Frames]:
    """Yield up to eight messages; the last may be cut."""
    for _ in range(8):
        if len(data) < 5:
            return
        header, payload = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:5], "big")
        data = data[5:]
        frames: Frames = [data[:header]]
        if payload:
            frames.append(data[header : header + payload])
        yield frames
        data = data[header + payload :]


def mutated(data: bytes, rng: random.Random, mutate: Mutate) -> bytes:
    """Return ``data`` with one message changed, left out, repeated or moved."""
    found = list(messages(data))
    if not found:
        return mutate(data)
    at = rng.randrange(len(found))
    match rng.randrange(8):
        case 0:
            del found[at]
        case 1:
            found.insert(rng.randrange(len(found) + 1), found[at])
        case 2:
            found.insert(at, rng.choice(SENT))
        case 3 | 4 if len(found[at]) > 1:
            found[at] = [found[at][0], mutate(bytes(found[at][1]))]
        case _:
            found[at] = [mutation.mutated(bytes(found[at][0]), rng, mutate), *found[at][1:]]
    return b"".join(map(_input, found))


def joined(*sent: Said) -> bytes:
    """Return what ``messages`` cuts into ``sent``."""
    return b"".join([_input(wire.encode(*one)) for one in sent])


def _input(frames: Frames) -> bytes:
    header, payload = bytes(frames[0])[:65_535], bytes(frames[1]) if len(frames) > 1 else b""
    return len(header).to_bytes(2, "big") + len(payload).to_bytes(3, "big") + header + payload


def seeds() -> list[bytes]:
    """Return one input for each message, and some for whole sessions."""
    sent = _sent()
    return [*map(joined, sent), joined(*sent[5:9]), joined(*sent[8:11]), joined(*honest())]


def honest() -> list[Said]:
    """Return what an honest sender says to the session that ``fuzz`` has, but for ``Opened``."""
    sent = _sent()
    return [sent[6], sent[9], _deltas_after(sent[9])]


def _sent() -> list[Said]:
    one = (digest_of(SMALL), 0, len(SMALL))
    text = b"line after line\n" * 100
    coded, packed = codec.compress(text)
    cut = delta.cut(OLD[:9000], 5)
    made = delta.join([delta.encode(NEW[:9000], cut.signatures, 5)])
    parts = recipe.pack(chunking.cut(lambda at, n: NEW[at : at + n], 0, len(NEW)))
    ask = wire.AskDeltas(SESSION, 1, 5, ((one[0], 0, 9000, cut.count),))
    level = wire.Level.CHUNKS
    return [
        (wire.Hello(wire.VERSION), b""),
        (wire.Ping(), b""),
        (wire.Serve(TOKEN), b""),
        (wire.Open(SESSION, TOKEN, TREE), b""),
        (wire.Opened(SESSION), b""),
        (wire.Want(SESSION, (one, (one[0], 5, 1 << 20))), b""),
        (wire.Frame(SESSION, len(SMALL)), SMALL),
        (wire.Frame(SESSION, len(text), coded), bytes(packed)),
        (wire.AskRecipes(SESSION, 1, ((one[0], 0, 99, level),)), b""),
        (wire.Recipes(SESSION, 1), parts),
        (ask, cut.signatures),
        (wire.Deltas(SESSION, 1, len(made)), made),
        (wire.Close(SESSION), b""),
        (wire.Refuse(SESSION, "unavailable", "why"), b""),
        (wire.Call(1, b"body"), b""),
        (wire.Reply(1, b"body", "", True), b"part"),
        (wire.Frame(SESSION, len(SMALL), wire.Codec.STREAM), StreamEncoder().encode(SMALL)),
    ]


def _deltas_after(recipes: Said) -> Said:
    """Return the answer to what a session asks once it has the recipe of the large file."""
    machine, (message, payload) = _moving(), recipes
    assert isinstance(message, wire.Recipes)
    machine.receive(message, payload, 0.0)
    sent = _perform(machine, StreamDecoder()) + _perform(machine, StreamDecoder())
    (asked, signatures) = next(one for one in sent if isinstance(one[0], wire.AskDeltas))
    assert isinstance(asked, wire.AskDeltas)
    ((_, offset, size, _),) = asked.items
    made = delta.join([delta.encode(NEW[offset : offset + size], signatures, asked.key)])
    return wire.Deltas(SESSION, asked.ask, len(made)), made


def _moving() -> Receiver:
    """Return a session that waits for a small file, and for the recipe of a large one."""
    fetch = Fetch()
    small = WantedFile(0, digest_of(SMALL), len(SMALL), 0)
    fetch.add([small, WantedFile(1, digest_of(NEW), len(NEW), len(OLD))], is_last=True)
    machine = Receiver(fetch, SESSION, TOKEN, TREE, now=0.0, flow=Flow())
    machine.receive(wire.Opened(SESSION), b"", 0.0)
    _perform(machine, StreamDecoder())
    return machine


def _take(
    receiver: Receiver,
    sender: Sender,
    decoder: StreamDecoder,
    message: wire.Message,
    payload: wire.Buffer,
) -> None:
    match message:
        case wire.Opened() | wire.Frame() | wire.Recipes() | wire.Deltas() | wire.Refuse():
            receiver.receive(message, payload, 1.0)
            _perform(receiver, decoder)
        case wire.Want() | wire.AskRecipes() | wire.AskDeltas():
            sender.receive(message, payload)
            while sender.next_job():
                pass
        case _:
            pass


def _plain(data: Coded, decoder: StreamDecoder) -> None:
    if data.codec is wire.Codec.STREAM:
        decoder.decode(data.payload, data.raw_bytes)
    else:
        codec.decompress(*data)


def _perform(receiver: Receiver, decoder: StreamDecoder) -> list[Sent]:
    """Do what the disk would do, as far as a peer's bytes have a part in it; return what to send."""
    fetch = receiver._fetch
    while fetch.effects:
        match fetch.effects.popleft():
            case StoreBatch(_, _, parts):
                for part in parts:
                    _plain(part, decoder)
            case StorePiece(_, _, data):
                _plain(data, decoder)
            case CutBases(works):
                fetch.based([Based(work, INDEX) for work in works])
            case SignGaps(gaps):
                signed = [delta.cut(OLD[gap.offset :][: gap.size], 5) for gap in gaps]
                fetch.signed(gaps, 5, signed)
            case RebuildGaps(_, gaps, data):
                plain = codec.decompress(*data)
                for gap, made in zip(gaps, delta.split(plain, len(gaps)), strict=True):
                    assert gap.pieces is not None
                    assert len(delta.apply(made, gap.pieces, gap.size)) == gap.size
                fetch.rebuilt(gaps, gaps)
            case _:
                pass
    return receiver.advance(1.0, is_alone=True)


INDEX: Final = matching.Index(
    [(chunking.cut(lambda at, n: OLD[at : at + n], 0, len(OLD)), len(OLD))]
)
SENT: Final = [wire.encode(*one) for one in _sent()]
