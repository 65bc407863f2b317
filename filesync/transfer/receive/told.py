"""What a receiver was told of contents before it asked for any."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from filesync.digest import Digest
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.remains import Remains


class Told(NamedTuple):
    """By what old files may have of them; what is told of other old files is of no use.

    Attributes:
        edits: of small files, by digest.
        remains: of large ones.
    """

    edits: Mapping[Digest, Edit] = MappingProxyType({})
    remains: Mapping[Digest, Remains] = MappingProxyType({})
