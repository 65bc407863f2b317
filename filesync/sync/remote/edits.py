"""Edits in a message, and what remains of large files, and back within the bounds of what it says."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, TypeVar

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.digest import Digest
from filesync.errors import MalformedMessage
from filesync.sync.remote import fields, wire
from filesync.sync.remote.asking import with_more
from filesync.transfer.coding import codec
from filesync.transfer.coding.edit import Edit
from filesync.transfer.coding.remains import Remains
from filesync.transfer.send.edits import Edited

_encoder: Final = msgspec.msgpack.Encoder()
_edits: Final = msgspec.msgpack.Decoder(
    Annotated[list[Edit], msgspec.Meta(max_length=fields.MAX_EDITS)]
)
_remains: Final = msgspec.msgpack.Decoder(
    Annotated[list[Remains], msgspec.Meta(max_length=fields.MAX_EDITS)]
)
T = TypeVar("T", Edit, Remains)
M = TypeVar("M", wire.Give, wire.Scanned)


def with_told(message: M, edits: Edited) -> M:
    """Return ``message``, a ``Give`` or ``Scanned``, with what of ``edits`` has room in it.

    What remains of large files goes first, for it is few bytes.
    """
    message = with_more(message, remains=pack_remains(edits))
    return with_more(message, edits=pack_edits(edits))


def pack_edits(edits: Edited) -> fields.Edits | None:
    """Return ``edits`` as a message has them; those of files only where all have room.

    None if there are none, or those of directories are too much already.
    """
    return _packed([*edits.directories, *edits.files]) or _packed(edits.directories)


def pack_remains(edits: Edited) -> fields.Edits | None:
    """Return what remains of large files as a message has it; None if there is nothing or too much."""
    return _packed(edits.remains)


def _packed(edits: Sequence[Edit] | Sequence[Remains]) -> fields.Edits | None:
    if not 0 < len(edits) <= fields.MAX_EDITS:
        return None
    raw = _encoder.encode(edits)
    if len(raw) > fields.MAX_EDITS_BYTES:
        return None
    coding, payload = codec.compress(raw)
    if len(payload) > fields.MAX_EDITS_PAYLOAD_BYTES:
        return None
    return fields.Edits(bytes(payload), len(raw), coding)


def unpack_edits(edits: fields.Edits | None) -> Mapping[Digest, Edit]:
    """Return the edits in a message, which may have none, by what comes of them.

    Raises:
        MalformedMessage: it holds something else.
    """
    return _unpacked(edits, _edits)


def unpack_remains(remains: fields.Edits | None) -> Mapping[Digest, Remains]:
    """Return what remains, of what a message may have told, by what has it.

    Raises:
        MalformedMessage: it holds something else.
    """
    return _unpacked(remains, _remains)


def _unpacked(
    edits: fields.Edits | None, decoder: msgspec.msgpack.Decoder[list[T]]
) -> Mapping[Digest, T]:
    if edits is None:
        return {}
    raw = codec.decompress(edits.codec, edits.payload, edits.raw_bytes)
    try:
        return {one.digest: one for one in decoder.decode(raw)}
    except UNDECODABLE as exc:
        raise MalformedMessage(f"not edits: {exc}") from exc
