"""Messages of the data plane: who sends what, in which order, within which limits.

A message is one MessagePack header frame and at most one payload frame, which stays outside
MessagePack so that ZeroMQ moves it without a copy. Every field is hostile until ``decode`` has
returned; what only a session can judge (is this digest on offer?) is judged in ``sender`` and
``receiver``.

A connection. The side that dials says ``Hello`` and is answered ``Hello``; a side that speaks
another VERSION answers ``Refuse`` with session 0. ``Ping`` may be sent at any time: sending it is
how a listener notices that a peer is gone. The side that dialled says it back, and by itself. Whoever has trees to give to
the listener that it dialled says ``Serve`` for each token. Which side dialled and which side
sends are independent from here on.

A session moves files of one offered tree, one way. The receiver picks its number, at random, and
says ``Open``; the sender answers ``Opened``, or ``Refuse``. Then:

* ``Want`` names ranges of contents by digest. A want is the credit: what is wanted may be sent,
  and nothing else. The receiver wants again only what it has room for, after it has written.
* ``Frame`` carries the next ``raw_bytes`` bytes of the session's stream, which is all that was
  wanted, in the order in which it was wanted. Where a frame ends says nothing: it may hold many
  small files or a piece of one. It may be coded together with the frames before it
  (``Codec.STREAM``), so frames are made plain in the order in which they come.
* ``AskRecipes`` asks how contents are made up: which chunks, or which segments of chunks, stand
  from an offset on (see ``recipe``). ``Recipes`` answers for as many of its items as go into one
  message; at least one chunk or segment comes. The receiver asks again for the rest.
* ``AskDeltas`` asks for ranges of contents by what they differ from bytes that the receiver has,
  of which the payload holds signatures (see ``delta``). It is the credit for its answer,
  ``Deltas``, as ``Want`` is for frames.
* Asks are numbered by the receiver and answered in their order; frames come in the order of the
  wants. Between the two there is no order.
* ``Close`` (receiver) and ``Refuse`` (sender) end the session. Nothing answers them.

``Call`` and ``Reply`` carry another protocol's messages over the same connection (see
``filesync.sync.remote.wire``); a reply's payload may come in parts.

Limits: MAX_HEADER_BYTES and MAX_PAYLOAD_BYTES a frame (ZeroMQ drops a peer that goes over),
MAX_WANT_RANGES a ``Want``, MAX_ASK_ITEMS an ask; MAX_OUTSTANDING_BYTES,
MAX_OUTSTANDING_RANGES, MAX_OUTSTANDING_ASKS and MAX_OUTSTANDING_SIGNATURES a session; MAX_FRAME_BYTES of content a ``Frame``;
MAX_DELTA_BYTES an item, MAX_DELTAS_BYTES and MAX_SIGNATURES an ``AskDeltas``.

Rules for changing this file: new fields go last and have defaults; tags are never reused; a
field that changes meaning gets a new name; what an old peer must not ignore raises ``VERSION``.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, Final

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.digest import WireDigest
from filesync.errors import ContentCorrupt, FilesyncError, MalformedMessage, SourceChanged
from filesync.transfer.flow import Compress

VERSION: Final = 7

MAX_HEADER_BYTES: Final = 1 << 20
MAX_FRAME_BYTES: Final = 2 << 20
"""Bound on the content in one frame; senders of this version put about half of it in."""
MAX_PAYLOAD_BYTES: Final = MAX_FRAME_BYTES + (64 << 10)
MAX_WANT_RANGES: Final = 4096
MAX_OUTSTANDING_BYTES: Final = 64 << 20
MAX_OUTSTANDING_RANGES: Final = 65_536
MAX_OUTSTANDING_ASKS: Final = 64
MAX_ASK_ITEMS: Final = 1024
MAX_DELTA_BYTES: Final = 256 << 10
MAX_DELTAS_BYTES: Final = 1 << 20
MAX_SIGNATURES: Final = 65_536
MAX_OUTSTANDING_SIGNATURES: Final = 1 << 20
SIGNATURE_BYTES: Final = 6
MAX_BODY_BYTES: Final = 512 << 10
MAX_DETAIL_CHARS: Final = 4096
MAX_ERROR_PATH_BYTES: Final = 4096
MAX_INTEGER: Final = (1 << 63) - 1

SessionId = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
AskId = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
Key = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
CallId = Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
Token = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
Length = Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTSTANDING_BYTES)]
Body = Annotated[bytes, msgspec.Meta(max_length=MAX_BODY_BYTES)]
Code = Annotated[str, msgspec.Meta(max_length=64)]
Detail = Annotated[str, msgspec.Meta(max_length=MAX_DETAIL_CHARS)]
ErrorPath = Annotated[bytes, msgspec.Meta(max_length=MAX_ERROR_PATH_BYTES)]
Range = tuple[WireDigest, Offset, Length]
"""A content's digest, the first byte, how many bytes."""


class Level(IntEnum):
    """What a recipe lists."""

    CHUNKS = 0
    SEGMENTS = 1


RecipeItem = tuple[WireDigest, Offset, Offset, Level]
"""A content's digest, the offset of a chunk (or segment) in it, the offset to stop at."""
DeltaItem = tuple[
    WireDigest,
    Offset,
    Annotated[int, msgspec.Meta(ge=1, le=MAX_DELTA_BYTES)],
    Annotated[int, msgspec.Meta(ge=1, le=MAX_SIGNATURES)],
]
"""A content's digest, the first byte, how many bytes; how many signatures are for them."""


class Codec(IntEnum):
    """How a frame's payload is coded."""

    RAW = 0
    ZSTD = 1
    """A zstd frame of its own."""
    STREAM = 2
    """A piece of the session's one zstd frame, after all that went before with this codec."""
    HOLE = 3
    """A zero, which stands for as many as there are to be."""


class _Message(msgspec.Struct, frozen=True, tag_field="op"):
    pass


class Hello(_Message, frozen=True, tag="hello"):
    """Either way: the first message of a connection."""

    version: int


class Ping(_Message, frozen=True, tag="ping"):
    """Either way: nothing."""


class Serve(_Message, frozen=True, tag="serve"):
    """Dialler -> listener: the tree behind ``token`` may be opened over this connection."""

    token: Token


class Open(_Message, frozen=True, tag="open"):
    """Receiver -> sender: open the tree behind ``token``, which must be ``tree``.

    Attributes:
        compress: which frames to compress; ``bytes_per_s``: how much to send a second, 0 for
            any. The sender may have reasons to be stricter.
    """

    session: SessionId
    token: Token
    tree: WireDigest
    compress: Compress = Compress.AUTO
    bytes_per_s: Offset = 0


class Opened(_Message, frozen=True, tag="opened"):
    """Sender -> receiver: ask."""

    session: SessionId


class Want(_Message, frozen=True, tag="want"):
    """Receiver -> sender: send these ranges, in this order."""

    session: SessionId
    ranges: Annotated[tuple[Range, ...], msgspec.Meta(min_length=1, max_length=MAX_WANT_RANGES)]


class Frame(_Message, frozen=True, tag="frame"):
    """Sender -> receiver: the next ``raw_bytes`` of the stream, in the payload."""

    session: SessionId
    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAME_BYTES)]
    codec: Codec = Codec.RAW


class AskRecipes(_Message, frozen=True, tag="ask-recipes"):
    """Receiver -> sender: how are these stretches of contents made up?"""

    session: SessionId
    ask: AskId
    items: Annotated[
        tuple[RecipeItem, ...], msgspec.Meta(min_length=1, max_length=MAX_ASK_ITEMS)
    ]


class Recipes(_Message, frozen=True, tag="recipes"):
    """Sender -> receiver: the answer, in the payload, for the first of the items."""

    session: SessionId
    ask: AskId


class AskDeltas(_Message, frozen=True, tag="ask-deltas"):
    """Receiver -> sender: how do these ranges differ from what the payload signs?

    Attributes:
        key: what the signatures are keyed with, picked at random.
        items: their signatures stand in the payload one after another.
    """

    session: SessionId
    ask: AskId
    key: Key
    items: Annotated[
        tuple[DeltaItem, ...], msgspec.Meta(min_length=1, max_length=MAX_ASK_ITEMS)
    ]


class Deltas(_Message, frozen=True, tag="deltas"):
    """Sender -> receiver: the answer for all of the items, in the payload."""

    session: SessionId
    ask: AskId
    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_FRAME_BYTES)]
    codec: Codec = Codec.RAW


class Close(_Message, frozen=True, tag="close"):
    """Receiver -> sender: the session is over."""

    session: SessionId


class Refuse(_Message, frozen=True, tag="refuse"):
    """Sender -> receiver: the session is over. Session 0: the connection is.

    Attributes:
        code: ``FilesyncError.code`` of the reason.
        detail: a sentence for people; no program reads it.
        path: of the file that has changed since the tree was scanned, if that is the reason.
    """

    session: Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
    code: Code
    detail: Detail = ""
    path: ErrorPath = b""


class Call(_Message, frozen=True, tag="call"):
    """Either way: a request of another protocol."""

    call: CallId
    body: Body


def error_path(error: FilesyncError) -> bytes:
    """Return what goes into the ``path`` of a message about ``error``; nothing if it is too long."""
    path = error.path if isinstance(error, SourceChanged | ContentCorrupt) else b""
    return path if len(path) <= MAX_ERROR_PATH_BYTES else b""


class Reply(_Message, frozen=True, tag="reply"):
    """Either way: the answer to ``Call``; an ``error`` is a code, and ``body`` its sentence.

    Attributes:
        more: further parts of the payload follow; the last has the body.
        path: of the file that the error is about: that changed as it was read, or came out wrong.
    """

    call: CallId
    body: Body
    error: Code = ""
    more: bool = False
    path: ErrorPath = b""


Request = Want | AskRecipes | AskDeltas
FromReceiver = Open | Request | Close
"""What the receiver of a session says in it."""
FromSender = Opened | Frame | Recipes | Deltas | Refuse
"""What its sender says."""
Message = Hello | Ping | Serve | FromReceiver | FromSender | Call | Reply
Buffer = bytes | memoryview

_NEEDS_PAYLOAD: Final = (Frame, Recipes, AskDeltas, Deltas)
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message, payload: Buffer = b"") -> list[Buffer]:
    """Return the ZeroMQ frames for ``message``."""
    header = _encoder.encode(message)
    return [header, payload] if len(payload) else [header]


def decode(frames: Sequence[Buffer]) -> tuple[Message, Buffer]:
    """Return the message and payload in ``frames``.

    Raises:
        MalformedMessage: for any input at all that ``encode`` cannot produce.
    """
    if not 1 <= len(frames) <= 2:
        raise MalformedMessage(f"a message of {len(frames)} frames")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise MalformedMessage(f"a header of {len(frames[0])} bytes is over the limit")
    payload = frames[1] if len(frames) == 2 else b""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedMessage(f"a payload of {len(payload)} bytes is over the limit")
    try:
        message = _decoder.decode(frames[0])
    except UNDECODABLE as exc:
        raise MalformedMessage(f"not a message of this protocol: {exc}") from exc
    _check_payload(message, payload)
    return message, payload


def _check_payload(message: Message, payload: Buffer) -> None:
    if isinstance(message, _NEEDS_PAYLOAD):
        if not len(payload):
            raise MalformedMessage(f"{type(message).__name__} without its payload")
        # At once: an ask may wait long before a session judges it.
        if isinstance(message, AskDeltas) and len(payload) > MAX_SIGNATURES * SIGNATURE_BYTES:
            raise MalformedMessage("more signatures than one ask may have")
    elif len(payload) and not isinstance(message, Reply):
        raise MalformedMessage(f"{type(message).__name__} has no payload")
