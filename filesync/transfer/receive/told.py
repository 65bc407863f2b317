"""What a receiver was told of contents before it asked for any."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from filesync.digest import Digest
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.remains import Remains


class Told(NamedTuple):
    """How to make contents out of old ones that are most likely here; of no use where they are not.

    Attributes:
        edits: for small files, by the digest of what they make.
        remains: for large ones, likewise.
    """

    edits: Mapping[Digest, Edit] = MappingProxyType({})
    remains: Mapping[Digest, Remains] = MappingProxyType({})
