"""A session's frames as pieces of one zstd frame: each is compressed with what came before in sight.

Of source text that takes a sixth fewer bytes than frames that stand alone, of headers and documents a
third, since files resemble their neighbours. The price is order: pieces are made one after another,
and made plain so. The format is RFC 8878's; each piece ends with a flushed block.
"""

from typing import IO, Final, cast

import zstandard

from filesync.errors import MalformedMessage
from filesync.transfer.coding.codec import LEVEL, MAX_WINDOW_BYTES
from filesync.transfer.wire import MAX_FRAME_BYTES, Buffer

_PARAMETERS: Final = zstandard.ZstdCompressionParameters.from_level(
    LEVEL, window_log=MAX_WINDOW_BYTES.bit_length() - 1, hash_log=18
)
"""A larger table finds little more, and takes a third of the speed: it leaves the processor's cache."""


class StreamEncoder:
    """The sender's end, for one thread at a time. Holds 10 MB."""

    def __init__(self) -> None:
        self._coder = zstandard.ZstdCompressor(compression_params=_PARAMETERS).compressobj()

    def encode(self, data: Buffer) -> bytes:
        """Return the next piece, which stands for ``data``. It has to be sent."""
        coded = self._coder.compress(data)
        return coded + self._coder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


class StreamDecoder:
    """The receiver's end, for one thread at a time; of no use after an error. Holds 8 MB."""

    def __init__(self) -> None:
        self._plain = _Plain()
        # With room for a whole frame zstd keeps nothing back that it could give.
        self._coder = zstandard.ZstdDecompressor(
            max_window_size=MAX_WINDOW_BYTES
        ).stream_writer(cast("IO[bytes]", self._plain), write_size=MAX_FRAME_BYTES + 1)

    def decode(self, piece: Buffer, raw_bytes: int) -> Buffer:
        """Return the ``raw_bytes`` bytes, MAX_FRAME_BYTES at most, that the next piece stands for.

        Raises:
            MalformedMessage: it is no piece that follows, or stands for more bytes, or fewer. No
                more than MAX_FRAME_BYTES of it were expanded.
        """
        self._plain.begin(raw_bytes)
        try:
            self._coder.write(piece)
        except zstandard.ZstdError as exc:
            raise MalformedMessage(f"a piece of a compressed stream is damaged: {exc}") from exc
        return self._plain.end()


class _Plain:
    """What zstd writes to: takes so many bytes and no more."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._left = 0

    def begin(self, size: int) -> None:
        self._left = size

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise MalformedMessage("a piece of a compressed stream is longer than it says")
        self._parts.append(data)
        return len(data)

    def end(self) -> Buffer:
        if self._left:
            raise MalformedMessage("a piece of a compressed stream is shorter than it says")
        data = b"".join(self._parts)
        self._parts.clear()
        return data
