"""Content addresses."""

from typing import Annotated, Final, NewType

import msgspec
from blake3 import blake3

Digest = NewType("Digest", bytes)
"""BLAKE3-256 of a byte string: exactly 32 bytes, never hex."""

WireDigest = Annotated[Digest, msgspec.Meta(min_length=32, max_length=32)]
"""A digest whose length msgspec checks while it decodes."""

DIGEST_BYTES: Final = 32


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """Return the address of ``data``."""
    return Digest(blake3(data).digest())


EMPTY: Final = digest_of(b"")
"""Address of no bytes."""


def name_of(digest: Digest) -> str:
    """Return the full text form, ``blake3:<64 hex>``."""
    return f"blake3:{digest.hex()}"


def short(digest: bytes) -> str:
    """Return twelve hex digits, for logs and people only."""
    return digest[:6].hex()
