"""A session's frames as pieces of one zstd frame: each is compressed with what came before in sight.

Of source text that takes a sixth fewer bytes than frames that stand alone, of headers and documents a
third, since files resemble their neighbours. The price is order: pieces are made one after another,
and made plain so. The format is RFC 8878's; each piece ends with a flushed block.
"""

from typing import IO, Final, cast

import zstandard

from filesync.errors import MalformedMessage
from filesync.transfer.coding.codec import LEVEL, MAX_WINDOW_BYTES
from filesync.transfer.wire import Buffer

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
        self._piece = _Piece()
        # Not a stream_writer: what it writes to cannot stop it without 2 MiB being lost for good.
        self._plain = zstandard.ZstdDecompressor(
            max_window_size=MAX_WINDOW_BYTES
        ).stream_reader(cast("IO[bytes]", self._piece), closefd=False)

    def decode(self, piece: Buffer, raw_bytes: int) -> Buffer:
        """Return the ``raw_bytes`` bytes, MAX_FRAME_BYTES at most, that the next piece stands for.

        Raises:
            MalformedMessage: it is no piece that follows, or stands for more bytes, or fewer. No
                more than one byte too many was expanded.
        """
        self._piece.data = piece
        try:
            # With room for one byte more zstd keeps nothing back, and mostly gives all at once.
            data = more = self._plain.read1(raw_bytes + 1)
            while more and len(data) < raw_bytes:
                more = self._plain.read1(raw_bytes + 1 - len(data))
                data += more
        except _NoMore:
            raise MalformedMessage("a piece of a stream is shorter than it says") from None
        except zstandard.ZstdError as exc:
            raise MalformedMessage(f"a piece of a compressed stream is damaged: {exc}") from exc
        if len(data) != raw_bytes:
            raise MalformedMessage("a piece of a stream is longer than it says, or the last")
        return data


class _NoMore(Exception):
    """What follows is in the next piece."""


class _Piece:
    """What zstd reads from: all of ``data``, once; at its end the stream is not over."""

    data: Buffer | None = None

    def read(self, _: int) -> Buffer:
        data, self.data = self.data, None
        if not data:
            raise _NoMore
        return data
