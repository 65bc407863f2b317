"""Frames' payloads: zstd where it pays, and back within the bounds of what was asked for."""

from typing import Final

import zstandard

from filesync.errors import MalformedMessage
from filesync.transfer.wire import MAX_FRAME_BYTES, Buffer, Codec

LEVEL: Final = 2
"""Of 1, 2 and 3 the fastest on ELF and on source text (340 MB/s a core, ratio 2.3 and 3.9 by 1 MiB
frames), and never slower than 1 on what does not compress."""
SAMPLE_BYTES: Final = 4 << 10
SAMPLES: Final = 8
"""A frame of many small files, of all kinds, is judged by some of them: by two, every fourth went plain
of which half would have become a quarter."""
MIN_BYTES: Final = 512
_KEEP: Final = 0.9
MAX_WINDOW_BYTES: Final = 8 << 20
HOLE: Final = b"\0"
"""The payload of a frame that is nothing but zeros."""
_ZEROS: Final = bytes(MAX_FRAME_BYTES)
"""One for all holes: to make a MiB of zeros takes as long as to read it."""


def compress(
    data: bytes | bytearray | memoryview, *, wanted: bool = True
) -> tuple[Codec, Buffer]:
    """Return ``data`` coded for the wire; plain where coding would gain less than a tenth.

    Samples are tried first, so bytes that do not compress cost about 50 µs a frame. A frame of zeros
    is a hole, even if nothing is to be compressed.
    """
    view = memoryview(data)
    if is_hole(view):
        return Codec.HOLE, HOLE
    if not wanted or not seems_to_compress(view):
        return Codec.RAW, view
    coded = zstandard.ZstdCompressor(level=LEVEL).compress(view)
    return (Codec.ZSTD, coded) if len(coded) < len(view) * _KEEP else (Codec.RAW, view)


def seems_to_compress(view: memoryview) -> bool:
    """Return whether ``view`` is worth the try, by some samples of it."""
    if len(view) < MIN_BYTES:
        return False
    if len(view) <= 2 * SAMPLES * SAMPLE_BYTES:
        return True
    # A header can compress where the body does not, so no sample is at an end.
    compressor = zstandard.ZstdCompressor(level=1)
    for odd in range(1, 2 * SAMPLES, 2):
        start = len(view) * odd // (2 * SAMPLES)
        sample = view[start : start + SAMPLE_BYTES]
        if len(compressor.compress(sample)) < len(sample) * _KEEP:
            return True
    return False


def is_hole(view: memoryview) -> bool:
    """Return whether a frame is nothing but zeros."""
    return len(view) > 0 and not view[0] and not view[-1] and _ZEROS.startswith(view)


def decompress(codec: Codec, payload: Buffer, raw_bytes: int) -> Buffer:
    """Return the ``raw_bytes`` bytes that ``payload``, which stands alone, stands for.

    Never allocates more than that: the frame's own claims are read before it is opened, since
    zstandard obeys the size that a frame states over any ``max_output_size``.

    Raises:
        MalformedMessage: it is anything but one well-formed frame of exactly that many bytes.
    """
    if codec is Codec.RAW:
        if len(payload) != raw_bytes:
            raise MalformedMessage(f"{len(payload)} bytes in a frame that says {raw_bytes}")
        return payload
    if codec is Codec.HOLE:
        if payload != HOLE or raw_bytes > len(_ZEROS):
            raise MalformedMessage(f"{len(payload)} bytes for a hole of {raw_bytes}")
        return memoryview(_ZEROS)[:raw_bytes]
    if codec is Codec.STREAM:
        raise MalformedMessage("a piece of a stream where none is")
    try:
        claims = zstandard.get_frame_parameters(payload)
        if claims.content_size != raw_bytes or claims.window_size > MAX_WINDOW_BYTES:
            raise MalformedMessage(f"a compressed frame claims {claims.content_size} bytes")
        data = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as exc:
        raise MalformedMessage(f"a compressed frame is damaged: {exc}") from exc
    if len(data) != raw_bytes:
        raise MalformedMessage(f"{len(data)} bytes in a frame that says {raw_bytes}")
    return data
