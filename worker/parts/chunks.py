"""Chunks of files out of ranges of a seekable layer, each proved by its digest.

Several files' chunks come in one range, with headers between them that nobody asked for. Nothing
here does I/O: bytes go in as they come, and pieces of files come out.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple, Protocol

import msgspec
import zstandard

from worker.layers.source import MAX_WINDOW_BYTES
from worker.layers.toc import Chunk
from worker.parts.listing import Leaf

_GZIP: Final = b"\x1f\x8b"
_PIECE_BYTES: Final = 1 << 20
_ZSTD_STEP_BYTES: Final = 2 << 10
"""Four bytes of zstd can give 128 KiB, and nobody can bound that: so few are fed at a time."""


class BadChunk(Exception):
    """A range of a blob does not hold what the table of contents says. Never leaves the worker."""


class Wanted(NamedTuple):
    """A chunk, and the file that it is a piece of."""

    leaf: Leaf
    chunk: Chunk


Give = Callable[[Leaf, int, bytes], None]
"""Told a file, a position in it, and the bytes that belong there."""


class ChunkReader:
    """Reads the chunks ``wanted`` out of the range of a blob that begins at ``begin``."""

    def __init__(self, wanted: Iterable[Wanted], begin: int, give: Give) -> None:
        self._at = begin
        self._give = give
        self._streams = _streams(wanted)
        self._stream = next(self._streams, None)

    def take(self, data: bytes | memoryview) -> None:
        """Take the bytes that follow those taken before.

        Raises:
            BadChunk: they are not what the table says.
        """
        data = memoryview(data)
        while data and self._stream is not None:
            stream = self._stream
            if self._at < stream.begin:
                size = min(len(data), stream.begin - self._at)
            else:
                size = min(len(data), stream.end - self._at)
                stream.take(data[:size], self._give)
            self._at += size
            data = data[size:]
            if self._at == stream.end or stream.is_done:
                self._end(stream)

    def finish(self) -> None:
        """Say that the range has ended.

        Raises:
            BadChunk: a chunk is not whole.
        """
        if self._stream is not None:
            raise BadChunk("it ends inside a chunk")

    def _end(self, stream: "_Stream") -> None:
        if not stream.is_done:
            raise BadChunk("a chunk ends early")
        self._stream = next(self._streams, None)


def _streams(wanted: Iterable[Wanted]) -> Iterator["_Stream"]:
    ordered = sorted(wanted, key=lambda one: (one.chunk.begin, one.chunk.skip))
    for begin, group in groupby(ordered, key=lambda one: one.chunk.begin):
        yield _Stream(begin, list(group))


class _Stream:
    """One gzip member or zstd frame; more than one chunk may be in it.

    Attributes:
        begin: where it begins in the blob.
        end: where it has ended at the latest.
    """

    def __init__(self, begin: int, wanted: Sequence[Wanted]) -> None:
        self.begin = begin
        self.end = max(one.chunk.end for one in wanted)
        self._open = [_Open(one, hashlib.sha256()) for one in wanted]
        self._out = 0
        self._head = b""
        self._unpack: _Unpack | None = None

    @property
    def is_done(self) -> bool:
        return not self._open

    def take(self, data: memoryview, give: Give) -> None:
        if self._unpack is None:
            self._head += bytes(data)
            if len(self._head) < len(_GZIP):
                return
            is_gzip = self._head.startswith(_GZIP)
            self._unpack = _Gunzip() if is_gzip else _Unzstd()
            data = memoryview(self._head)
        for piece in self._unpack.pieces(data):
            for one in list(self._open):
                if one.take(piece, self._out, give):
                    self._open.remove(one)
            self._out += len(piece)
            if self.is_done:
                return


class _Open(msgspec.Struct):
    """A chunk that is not whole yet."""

    wanted: Wanted
    sha256: "hashlib._Hash"

    def take(self, piece: bytes, at: int, give: Give) -> bool:
        """Take what is the chunk's of a piece that stands at ``at``; say whether that was all."""
        leaf, chunk = self.wanted
        begin, end = max(at, chunk.skip), min(at + len(piece), chunk.skip + chunk.size)
        if begin < end:
            part = piece[begin - at : end - at]
            self.sha256.update(part)
            give(leaf, chunk.at + begin - chunk.skip, part)
        if at + len(piece) < chunk.skip + chunk.size:
            return False
        if self.sha256.digest() != chunk.sha256:
            raise BadChunk("a chunk does not have its digest")
        return True


class _Unpack(Protocol):
    def pieces(self, data: memoryview) -> Iterator[bytes]: ...


class _Gunzip:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    def pieces(self, data: memoryview) -> Iterator[bytes]:
        left: bytes | memoryview = data
        while left and not self._inflate.eof:
            try:
                piece = self._inflate.decompress(left, _PIECE_BYTES)
            except zlib.error as exc:
                raise BadChunk(f"broken gzip data: {exc}") from exc
            left = self._inflate.unconsumed_tail
            if piece:
                yield piece


class _Unzstd:
    def __init__(self) -> None:
        unzip = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._inflate = unzip.decompressobj()

    def pieces(self, data: memoryview) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_STEP_BYTES):
            if self._inflate.eof:
                return
            try:
                piece = self._inflate.decompress(data[at : at + _ZSTD_STEP_BYTES])
            except zstandard.ZstdError as exc:
                raise BadChunk(f"broken zstd data: {exc}") from exc
            if piece:
                yield piece
