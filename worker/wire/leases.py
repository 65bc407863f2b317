"""Results that somebody far away relies on: asked for, held for a time, and let go.

The messages are part of ``worker.wire.orders``, and the rules for changing them are its. A lease
is named by who takes it. It keeps one result, and all that it stands on, from being removed until
it is released or its time is over; who still needs it by then has renewed it. So what a manager
held that has died is free again without anybody's doing.
"""

from typing import Annotated, Final

import msgspec

from filesync.digest import WireDigest
from worker.wire.caches import MAX_CACHE_BYTES
from worker.wire.images import MAX_LAYERS, Sha256
from worker.wire.layers import FromLayers, RefInfo, Token

MAX_LEASES: Final = 10_000

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Refs = Annotated[tuple[WireDigest, ...], msgspec.Meta(max_length=MAX_LAYERS)]


class _Message(msgspec.Struct, frozen=True, tag_field="m"):
    pass


class HoldCached(_Message, frozen=True, tag="hold-cached"):
    """Hold the newest result of ``key``, if there is one here. -> Held.

    Attributes:
        known: results that the key is known to have; one that is here gets the key too.
    """

    key: WireDigest
    lease: Token
    seconds: Seconds
    known: Refs = ()


class Hold(_Message, frozen=True, tag="hold"):
    """Hold this result, or this source, which is given back when the lease ends. -> Held."""

    ref: WireDigest
    lease: Token
    seconds: Seconds


class RenewLeases(_Message, frozen=True, tag="renew-leases"):
    """These leases last so long from now on; unknown ones are fine. -> Finished."""

    leases: Annotated[tuple[Token, ...], msgspec.Meta(max_length=MAX_LEASES)]
    seconds: Seconds


class EndLeases(_Message, frozen=True, tag="end-leases"):
    """End these leases; unknown ones are fine. -> Finished."""

    leases: Annotated[tuple[Token, ...], msgspec.Meta(max_length=MAX_LEASES)]


class AskLacking(_Message, frozen=True, tag="ask-lacking"):
    """Which of these results and sources are not here? -> Lacking."""

    refs: Refs


class Pull(_Message, frozen=True, tag="pull"):
    """Bring a chain here, have its refs under their keys, and hold ``ref``, its last. -> Ran.

    Attributes:
        input: for what is not here yet; None where all is.
        keys: for refs of the chain, the cache keys that have them.
    """

    ref: WireDigest
    input: FromLayers | None
    keys: Annotated[
        tuple[tuple[WireDigest, tuple[WireDigest, ...]], ...],
        msgspec.Meta(max_length=MAX_LAYERS),
    ]
    lease: Token
    seconds: Seconds


class PutBlob(_Message, frozen=True, tag="put-blob"):
    """Keep a small blob. -> BlobPut."""

    data: Annotated[bytes, msgspec.Meta(max_length=MAX_CACHE_BYTES)]


class Held(_Message, frozen=True, tag="held"):
    """The result that is held now; None where there is none, and nothing is held."""

    ref: RefInfo | None = None


class Lacking(_Message, frozen=True, tag="lacking"):
    """Those of the results asked for that are not here, in the order of the question."""

    refs: Refs


class BlobPut(_Message, frozen=True, tag="blob-put"):
    """It is kept, under this digest."""

    digest: Sha256


LeaseOrder = HoldCached | Hold | RenewLeases | EndLeases | AskLacking | PutBlob
