"""Which codec a sender's next frame takes."""

from typing import Final

from filesync.transfer.flow import Compress
from filesync.transfer.wire import Codec


class Coding:
    """Decides, frame by frame, how hard compressing pays.

    A link is known to be slow only when it makes the sender wait, so the first frames are
    compressed as well as can be. Once FAST_BYTES in a row did not wait as they would on a link that
    one stream can fill, frames stand alone, so that threads share the work; once as many more did not
    wait as they would on one that this fills, they go plain, until the link makes the sender wait
    again.

    Args:
        compress: what was asked for.
        may_stream: whether frames may take ``Codec.STREAM``.
    """

    FAST_BYTES: Final = 4 << 20
    STREAM_BYTES_PER_S: Final = 60e6
    """What one stream makes at least, at 280 MB/s and a ratio of about four."""
    ZSTD_BYTES_PER_S: Final = 250e6
    """A link slower than this is helped by zstd, at 350 MB/s a thread and a ratio of two or more."""

    def __init__(self, compress: Compress, *, may_stream: bool) -> None:
        self._compress = compress
        self._best = Codec.STREAM if may_stream else Codec.ZSTD
        self._frames = 0
        self._since_slow = 0
        self._since_medium = 0

    @property
    def codec(self) -> Codec:
        """What to try for the next frame."""
        if self._compress is Compress.NONE:
            return Codec.RAW
        if self._compress is Compress.ZSTD:
            return self._best
        if self._compress is Compress.LITTLE:
            return Codec.RAW if self._frames else Codec.ZSTD
        if self._since_slow < self.FAST_BYTES:
            return self._best
        return Codec.ZSTD if self._since_medium < 2 * self.FAST_BYTES else Codec.RAW

    def note(self, raw_bytes: int, wire_bytes: int, waited_s: float) -> None:
        """Take note that a frame, coded as ``wire_bytes``, had to wait this long for the link."""
        self._frames += 1
        is_slow = waited_s > wire_bytes / self.STREAM_BYTES_PER_S
        is_medium = waited_s > wire_bytes / self.ZSTD_BYTES_PER_S
        self._since_slow = 0 if is_slow else self._since_slow + raw_bytes
        self._since_medium = 0 if is_medium else self._since_medium + raw_bytes
