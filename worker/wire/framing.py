"""Messages of the control plane as frames: a MessagePack header, and at most one payload behind it."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from filesync.decoding import UNDECODABLE
from filesync.errors import MalformedMessage

MAX_HEADER_BYTES: Final = 16 << 20
MAX_PAYLOAD_BYTES: Final = 40 << 20

Frames = Sequence[bytes | memoryview]

_encoder: Final = msgspec.msgpack.Encoder()


def framed(message: msgspec.Struct, payload: bytes) -> list[bytes]:
    """Return the frames of ``message``; an empty payload has none."""
    header = _encoder.encode(message)
    return [header, payload] if payload else [header]


def unframed(
    frames: Frames, decoder: "msgspec.msgpack.Decoder[Any]"
) -> tuple[Any, bytes | memoryview]:
    """Return what ``decoder`` makes of a message, and its payload; an absent one is empty.

    Raises:
        MalformedMessage: for anything that ``framed`` cannot give.
    """
    if not 1 <= len(frames) <= 2:
        raise MalformedMessage(f"{len(frames)} frames")
    payload = frames[1] if len(frames) == 2 else b""
    if len(frames[0]) > MAX_HEADER_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedMessage(f"frames of {len(frames[0])} and {len(payload)} bytes")
    try:
        return decoder.decode(frames[0]), payload
    except UNDECODABLE as exc:
        raise MalformedMessage(str(exc)) from exc
