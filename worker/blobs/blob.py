"""A blob, that it is not here, and how files of any size are read."""

import io
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from filesync.digest import Digest
from filesync.errors import StoreError

BLOCK_BYTES: Final = 1 << 20


class Blob(NamedTuple):
    """A blob that is here.

    Attributes:
        digest: ``sha256:<64 hex>``.
        size: bytes.
        blake3: BLAKE3 of the same bytes.
    """

    digest: str
    size: int
    blake3: Digest


class BlobMissing(StoreError):
    """A blob is not in this store; another replica or a registry may have it."""

    code = "blob-missing"


def blocks(file: "io.IOBase | BinaryIO") -> Iterator[bytes]:
    """Yield what is left of ``file``, a block at a time."""
    while block := file.read(BLOCK_BYTES):
        yield block
