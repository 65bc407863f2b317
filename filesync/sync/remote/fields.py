"""What the messages of ``wire`` are made of, and how much of it they may hold."""

from typing import Annotated, Final

import msgspec

from filesync.manifest.node import MAX_NODE_BYTES
from filesync.manifest.owner import MAX_GROUPS
from filesync.sync.filter import MAX_RULE_BYTES, MAX_RULES

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
MAX_SIGNATURES_BYTES: Final = 128 << 10
"""Of one ask: its body has a bound."""
MAX_DELTAS_BYTES: Final = 2 * MAX_NODE_BYTES
MAX_FIRST_NODES_BYTES: Final = 64 << 10
MAX_EDITS: Final = 4096
MAX_EDITS_BYTES: Final = 1 << 20
MAX_EDITS_PAYLOAD_BYTES: Final = 256 << 10

Path = Annotated[bytes, msgspec.Meta(max_length=MAX_PATH_BYTES)]
Name = Annotated[bytes, msgspec.Meta(max_length=255)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_NAMES)]
Rule = Annotated[bytes, msgspec.Meta(max_length=MAX_RULE_BYTES)]
Rules = Annotated[tuple[Rule, ...], msgspec.Meta(max_length=MAX_RULES)]
Signatures = Annotated[bytes, msgspec.Meta(max_length=MAX_SIGNATURES_BYTES)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Kind = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z ]*\Z")]
Number = Annotated[int, msgspec.Meta(ge=0, lt=MAX_PATHS)]
Paths = Annotated[tuple[Path, ...], msgspec.Meta(max_length=MAX_PATHS)]
Numbers = Annotated[tuple[Number, ...], msgspec.Meta(max_length=MAX_PATHS)]
Errno = Annotated[int, msgspec.Meta(ge=1, le=4095)]
Reasons = Annotated[dict[Path, Errno], msgspec.Meta(max_length=MAX_NAMED)]
Id = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Groups = Annotated[frozenset[Id], msgspec.Meta(max_length=MAX_GROUPS)]
Writer = tuple[Id, Groups]
OwnerName = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\0]*\Z")]
NewId = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFE)]
NewOwner = tuple[NewId | None, NewId | None]
Inode = Annotated[int, msgspec.Meta(ge=0)]
Identity = tuple[Inode, Inode]
Kinds = Annotated[dict[Kind, Count], msgspec.Meta(max_length=MAX_KINDS)]
