"""What ``filesync serve`` and its clients say to each other, inside ``Call`` and ``Reply``.

To take a tree: ``Look`` -> ``Found``; ``AskNodes`` for the directory nodes that the client
lacks, from the root down; then a session of the data plane with the token; ``Drop``.

To give one: the client serves its tree over the connection (``wire.Serve``) and says ``Give``.
Before it answers ``Given`` the server asks the client for the nodes that it lacks and pulls.

The rules for changing this file are those of ``wire``.
"""

from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from filesync.errors import MalformedMessage
from filesync.transfer.wire import Detail, Token

MAX_ASKED_NODES: Final = 4096
MAX_EXCLUDES: Final = 1000
MAX_CHANGES: Final = 1000

Path = Annotated[bytes, msgspec.Meta(max_length=4096)]
Pattern = Annotated[str, msgspec.Meta(max_length=4096)]
Excludes = Annotated[tuple[Pattern, ...], msgspec.Meta(max_length=MAX_EXCLUDES)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class _Message(msgspec.Struct, frozen=True, tag_field="op"):
    pass


class Look(_Message, frozen=True, tag="look"):
    """Scan what ``path`` names below the served root and put it on offer. -> Found."""

    path: Path
    excludes: Excludes = ()


class Found(_Message, frozen=True, tag="found"):
    """It is on offer.

    Attributes:
        tree: of the directory; of a file, a directory that has nothing but the file.
        is_file: ``path`` names a file.
    """

    token: Token
    tree: WireDigest
    is_file: bool = False


class AskNodes(_Message, frozen=True, tag="ask-nodes"):
    """Send these nodes of the tree on offer. -> Nodes, with as many of them as go in one."""

    token: Token
    digests: Annotated[
        tuple[WireDigest, ...], msgspec.Meta(min_length=1, max_length=MAX_ASKED_NODES)
    ]


class Nodes(_Message, frozen=True, tag="nodes"):
    """At least one of the nodes asked for, in the payload: a pack, in no order to rely on."""


class Drop(_Message, frozen=True, tag="drop"):
    """The tree is no longer needed. -> Done."""

    token: Token


class Done(_Message, frozen=True, tag="done"):
    """It is done."""


class Give(_Message, frozen=True, tag="give"):
    """Make what ``path`` names hold the tree that is served under ``token``. -> Given.

    Attributes:
        is_file: the tree has nothing but one file, which goes to ``path`` itself, or into it
            if that is a directory.
        inside: below the directory ``path``, in the directory of this name.
        delete: remove other names there.
        dry_run: change nothing.
    """

    path: Path
    token: Token
    tree: WireDigest
    is_file: bool = False
    inside: Annotated[bytes, msgspec.Meta(max_length=255)] = b""
    delete: bool = False
    dry_run: bool = False
    excludes: Excludes = ()


class Given(_Message, frozen=True, tag="given"):
    """What it took.

    Attributes:
        changes: of a dry run, lines for people.
    """

    files: Count = 0
    content_bytes: Count = 0
    copied_bytes: Count = 0
    changes: Annotated[tuple[Detail, ...], msgspec.Meta(max_length=MAX_CHANGES)] = ()


Request = Look | AskNodes | Drop | Give
Answer = Found | Nodes | Done | Given

_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
_answers: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """Return the body for ``message``."""
    return _encoder.encode(message)


def decode_request(body: bytes) -> Request:
    """Return the request in ``body``.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        return _requests.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise MalformedMessage(f"not a request to a server of trees: {exc}") from exc


def decode_answer(body: bytes) -> Answer:
    """Return the answer in ``body``.

    Raises:
        MalformedMessage: it is none.
    """
    try:
        return _answers.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise MalformedMessage(f"not an answer of a server of trees: {exc}") from exc
