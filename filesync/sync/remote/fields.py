"""What the messages of ``wire`` are made of, and how much of it they may hold."""

from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from filesync.manifest.node import MAX_NODE_BYTES, Size, TimeNs
from filesync.manifest.owner import MAX_GROUPS
from filesync.sync.filter import MAX_RULE_BYTES, MAX_RULES
from filesync.transfer.wire import Codec, Token

MAX_ASKED_NODES: Final = 4096
MAX_PATHS: Final = 1000
MAX_PATH_BYTES: Final = 4096
MAX_NAMES_BYTES: Final = 256 << 10
"""Of the names in one request, as they are coded: its body has a bound."""
MAX_NAMES: Final = MAX_NAMES_BYTES // 3
MAX_OTHERS: Final = 64
MAX_KINDS: Final = 64
MAX_NAMED: Final = 100
"""Paths that are named; of others it is said how many there are."""
MAX_MOUNTS_BYTES: Final = 64 << 10
"""Of the paths of what is mounted, in one answer, which is to hold other paths besides."""
MAX_SIGNATURES_BYTES: Final = 128 << 10
"""Of one ask: its body has a bound."""
MAX_DELTAS_BYTES: Final = 2 * MAX_NODE_BYTES
MAX_FIRST_NODES_BYTES: Final = 64 << 10
MAX_FRESH: Final = 1000
MAX_BEGUN: Final = 64
MAX_EDITS: Final = 4096
MAX_EDITS_BYTES: Final = 1 << 20
MAX_EDITS_PAYLOAD_BYTES: Final = 256 << 10
MAX_LISTED: Final = 1 << 15
"""Paths in a list: one that is read takes ten megabytes at most, for"""
MAX_LISTED_BYTES: Final = 1 << 20
"""of paths,"""
MAX_ABOVE_BYTES: Final = 4 << 20
"""and what leads to them, counted for each."""
MAX_LIST_PAYLOAD_BYTES: Final = 256 << 10
MAX_TOPS: Final = 1 << 14
"""Names that a list begins with."""

Path = Annotated[bytes, msgspec.Meta(max_length=MAX_PATH_BYTES)]
Name = Annotated[bytes, msgspec.Meta(max_length=255)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_NAMES)]
Rule = Annotated[bytes, msgspec.Meta(max_length=MAX_RULE_BYTES)]
Rules = Annotated[tuple[Rule, ...], msgspec.Meta(max_length=MAX_RULES)]
Signatures = Annotated[bytes, msgspec.Meta(max_length=MAX_SIGNATURES_BYTES)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Kind = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z ]*\Z")]
Tick = Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=MAX_PATHS)]
Paths = Annotated[tuple[Path, ...], msgspec.Meta(max_length=MAX_PATHS)]
Top = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TOPS)]
OneFileSystem = Annotated[int, msgspec.Meta(ge=0, le=2)]
Numbers = Annotated[tuple[Number, ...], msgspec.Meta(max_length=MAX_PATHS)]
Digests = Annotated[
    tuple[WireDigest, ...], msgspec.Meta(min_length=1, max_length=MAX_ASKED_NODES)
]
Signed = Annotated[
    tuple[tuple[WireDigest, Signatures], ...],
    msgspec.Meta(min_length=1, max_length=MAX_ASKED_NODES),
]
NodeSizes = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_NODE_BYTES)], ...],
    msgspec.Meta(min_length=1, max_length=MAX_ASKED_NODES),
]
Named = Annotated[tuple[Path, ...], msgspec.Meta(max_length=MAX_NAMED)]
Fresh = Annotated[tuple[tuple[Path, WireDigest], ...], msgspec.Meta(max_length=MAX_FRESH)]
Begun = tuple[Path, Size, TimeNs]
ManyBegun = Annotated[tuple[Begun, ...], msgspec.Meta(max_length=MAX_BEGUN)]
Errno = Annotated[int, msgspec.Meta(ge=1, le=4095)]
Missing = Annotated[dict[Top, Errno], msgspec.Meta(max_length=MAX_TOPS)]
Reasons = Annotated[dict[Path, Errno], msgspec.Meta(max_length=MAX_NAMED)]
NumberedReasons = Annotated[dict[Number, Errno], msgspec.Meta(max_length=MAX_PATHS)]
Id = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Groups = Annotated[frozenset[Id], msgspec.Meta(max_length=MAX_GROUPS)]
Writer = tuple[Id, Groups]
OwnerName = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\0]*\Z")]
NewId = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFE)]
NewOwner = tuple[NewId | None, NewId | None]
Inode = Annotated[int, msgspec.Meta(ge=0)]
Identity = tuple[Inode, Inode]
Kinds = Annotated[dict[Kind, Count], msgspec.Meta(max_length=MAX_KINDS)]


class OwnerNames(msgspec.Struct, frozen=True):
    """Whose all is to be: names, or numbers in digits, that the server is to look up; "" for none."""

    user: OwnerName = ""
    group: OwnerName = ""


class Other(msgspec.Struct, frozen=True):
    """A tree that another source gives to the same place; its nodes may be asked for."""

    token: Token
    tree: WireDigest


Others = Annotated[tuple[Other, ...], msgspec.Meta(max_length=MAX_OTHERS)]


class Edits(msgspec.Struct, frozen=True):
    """What has become of contents: a list of ``transfer.coding.edit.Edit``, or ``Remains``, coded.

    Attributes:
        raw_bytes: of the payload, decompressed.
    """

    payload: Annotated[bytes, msgspec.Meta(max_length=MAX_EDITS_PAYLOAD_BYTES)]
    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_EDITS_BYTES)]
    codec: Codec = Codec.RAW


class Listed(msgspec.Struct, frozen=True):
    """Paths, each but the last before a NUL, coded; nothing else comes (see ``sync.listed``).

    Attributes:
        raw_bytes: of the payload, decompressed.
        all_below: with each directory comes all that is in it.
    """

    payload: Annotated[bytes, msgspec.Meta(max_length=MAX_LIST_PAYLOAD_BYTES)]
    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTED_BYTES + MAX_LISTED)]
    codec: Codec = Codec.RAW
    all_below: bool = False


class Part(msgspec.Struct, frozen=True):
    """One directory, or names in one.

    Attributes:
        inside: the name under which the directory is to stand in the destination, or b"".
        names: what it is of the directory; none for all.
        is_bare: nothing is in the directory.
        trees: directories are among the names, with all that is in them.
        identity: the directory's device and inode, where it is all of one. What is taken to a place
            in it would be found in its turn, if it is scanned meanwhile.
        united: it is what is in several directories, which does not come before all is scanned.
    """

    token: Token
    inside: Name = b""
    names: Names = ()
    is_bare: bool = False
    trees: bool = False
    identity: Identity | None = None
    united: bool = False
