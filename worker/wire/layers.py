"""Refs, and how their layers go from worker to worker.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its.
"""

from typing import Annotated

import msgspec

from filesync.digest import WireDigest
from worker.wire.images import MAX_LAYERS, Count, Layer
from worker.wire.ops import Text
from worker.wire.urls import UrlFile

Token = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Address = Annotated[str, msgspec.Meta(max_length=255)]


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class RefInfo(msgspec.Struct, frozen=True):
    """A ref as it stands on one worker.

    Attributes:
        ref: the ref's identity: its tree and those of its parents.
        tree: digest of its manifest.
        parent: the ref that it was made on top of, whose layers come before its own.
        keys: cache keys that have this result.
        created_s: seconds since the epoch, by the worker's clock.
        layer: its own layer, if that has been made.
        source: it is a partial source, held for one build: never a cache result, never a parent.
        tar_size: bytes of its own layer as an uncompressed tar, made or not.
        file: of a file that came from a URL, what is known of that.
    """

    ref: WireDigest
    tree: WireDigest
    parent: WireDigest | None = None
    keys: tuple[WireDigest, ...] = ()
    created_s: float = 0.0
    layer: Layer | None = None
    source: bool = False
    tar_size: Count = 0
    file: UrlFile | None = None


class Replica(msgspec.Struct, frozen=True):
    """Where bytes may be had. An empty ``address`` means that the holder dials us."""

    worker: Text
    address: Address
    token: Token


class LinkParts(msgspec.Struct, frozen=True):
    """A layer as what it is made of.

    Attributes:
        skeleton: the blob that is its tar without the contents; one of the blobs on offer.
        replicas: where the tree of its ref, which has the contents, may be read.
    """

    skeleton: Layer
    replicas: tuple[Replica, ...]


class Link(msgspec.Struct, frozen=True):
    """One ref of a chain with the layer that makes it out of its parent.

    Attributes:
        parts: what else the layer can be made of; None if it comes as its blob or not at all.
    """

    ref: RefInfo
    layer: Layer
    parts: LinkParts | None = None


class FromLayers(_Message, frozen=True, tag="layers"):
    """Pull what is missing of ``chain`` (parents first), so that its last ref is here.

    Attributes:
        blobs: digest of the tree whose files are the blobs that the replicas offer, each
            named by the hex of its sha256. A layer whose blob is not there has parts.
        passing: takes the same blobs and began earlier; a blob is taken from there, and from
            the replicas only if that does not give it.
    """

    chain: tuple[Link, ...]
    blobs: WireDigest
    replicas: tuple[Replica, ...]
    passing: Replica | None = None


class OfferLayers(_Message, frozen=True, tag="offer-layers"):
    """Open the layers of ``refs`` (parents first), making those not made yet. -> Offered.

    Attributes:
        blobs_only: the taker needs the very blobs, and nothing of what they are made of.
            Refused (``blob-missing``) by who came by a layer without its blob and cannot
            make that again.
    """

    refs: tuple[WireDigest, ...]
    blobs_only: bool = False


class PassOn(_Message, frozen=True, tag="pass-on"):
    """Open a tree as it comes here, by an order that is to follow. -> Offered.

    Attributes:
        are_blobs: its files come to be blobs, as those of ``FromLayers``; else it comes as a tree.
        within: the tree that comes here and has it, at the same paths; None where it comes alone.
    """

    tree: WireDigest
    are_blobs: bool
    within: WireDigest | None = None


class PullBlobs(_Message, frozen=True, tag="pull-blobs"):
    """Have the blobs of these layers in the store, of refs that are here. -> Finished.

    Attributes:
        blobs: as in ``FromLayers``.
    """

    layers: Annotated[tuple[Layer, ...], msgspec.Meta(max_length=MAX_LAYERS)]
    blobs: WireDigest
    replicas: tuple[Replica, ...]


class OfferedParts(msgspec.Struct, frozen=True):
    """A layer's skeleton, and the token by which the tree of its ref may be read."""

    skeleton: Layer
    token: Token
