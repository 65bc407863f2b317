"""What a client and a manager say to each other of caches.

The messages are part of ``solver.wire``, and the rules for changing them are its.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from filesync.digest import WireDigest
from worker.wire.caches import CacheBytes, Layers
from worker.wire.images import Compression, Count, Name, Sha256
from worker.wire.ops import Text
from worker.wire.orders import Address, Layer, Token


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class CacheFrom(_Message, frozen=True, tag="client"):
    """A cache that the client has.

    Attributes:
        config: a cache config v0, as it was found.
        layers: the blobs that are there, and what they are said to be.
        tree: the directory of the blobs, each named by the hex of its sha256. Its nodes were
            sent before; the client serves any part of it.
    """

    config: CacheBytes
    layers: Layers
    tree: WireDigest


class CacheInRegistry(_Message, frozen=True, tag="registry"):
    """A cache in a registry, or an image with a cache in itself; a worker reads it.

    Attributes:
        name: a reference with nothing left out.
        os: with ``architecture`` and ``variant``, which image is meant where there are several.
    """

    name: Name
    os: Name
    architecture: Name
    variant: Name = ""


class CacheMode(StrEnum):
    """Which results a cache holds: those that the target stands on, or all that are known."""

    MIN = "min"
    MAX = "max"


class CachePush(msgspec.Struct, frozen=True):
    """A cache that the client wants in a registry.

    Attributes:
        name: a reference with a tag and nothing left out.
        image: write an image manifest, not an index.
        oci: an index in OCI's types, not docker's.
        compression: of the layers that were built; None leaves each as it is.
        ignore_error: that it cannot be pushed is told, and the build goes on.
    """

    name: Name
    mode: CacheMode = CacheMode.MIN
    image: bool = True
    oci: bool = True
    compression: Compression | None = None
    level: int | None = None
    ignore_error: bool = False


class Exported(msgspec.Struct, frozen=True):
    """An export that is open to the client on a worker's data plane."""

    worker: Text
    address: Address
    token: Token
    tree: WireDigest
    manifest: tuple[Sha256, Count] | None = None
    config: Sha256 | None = None


class CacheMade(msgspec.Struct, frozen=True):
    """A cache that is ready to be taken.

    Attributes:
        config: cache config v0.
        layers: each blob that it names, in the order in which the config first does.
        blobs: where they are: trees of files named by the hex of their sha256. A blob that is
            in none of them is in a cache that the client has.
    """

    config: bytes
    layers: tuple[Layer, ...]
    blobs: tuple[Exported, ...]


class CachePushed(msgspec.Struct, frozen=True):
    """What came of a cache that was to be pushed.

    Attributes:
        manifest: its digest; empty where it could not be pushed.
        layers: how many it has.
        bytes_sent: of layers; those that the registry had already are not among them.
        failure: why it could not be pushed; empty if it was.
    """

    manifest: Text = ""
    layers: Count = 0
    bytes_sent: Count = 0
    failure: Text = ""


class TransferCache(_Message, frozen=True, tag="transfer-cache"):
    """Have one worker fetch a cached result from another. -> CacheTransferred.

    Attributes:
        key: the hex of its cache key, or enough of the beginning.
        dry_run: only say what would move.
        progress: answer with TransferProgress too, as it goes on.
    """

    key: Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
    source: Text
    target: Text
    dry_run: bool = False
    progress: bool = False


class TransferProgress(_Message, frozen=True, tag="transfer-progress"):
    """How far a result has come from one worker to another, in bytes of content.

    Attributes:
        total_bytes: at most, until the target has seen what it has of them.
    """

    key: WireDigest
    source: Text
    target: Text
    done_bytes: Count = 0
    total_bytes: Count = 0


class CacheTransferred(_Message, frozen=True, tag="cache-transferred"):
    """The target has it; or would have, had it not been a dry run.

    Attributes:
        key: in full.
        layers: of the result.
        lacking_bytes: of those layers that the target lacked, at most: one that never was made
            counts as its plain tar.
        bytes_moved: what it took on the data plane.
    """

    key: WireDigest
    layers: Count
    lacking_bytes: Count
    bytes_moved: Count = 0
    seconds: float = 0.0
