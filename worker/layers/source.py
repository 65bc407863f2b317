"""The bytes of a layer's tar as they come out of a decompressor, counted and bounded."""

import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, Protocol, cast

import zstandard

from filesync.digest import Digest, digest_of
from worker.layers.errors import BadLayer
from worker.layers.skeleton import Proved, SkeletonWriter

_PIECE_BYTES: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED: Final = b"\x2a\x4d\x18"
"""Bytes 1-3 of a frame that holds no data; the first is 0x50 to 0x5f."""
MAX_WINDOW_BYTES: Final = 128 << 20
"""What ``zstd --ultra`` needs; a frame that asks for more is refused."""


class Source:
    """A layer's tar, read in order.

    Attributes:
        position: bytes read or skipped so far.
    """

    def __init__(
        self,
        pieces: Iterable[bytes],
        *,
        max_bytes: int,
        skeleton: SkeletonWriter | None = None,
        proved: Proved | None = None,
    ) -> None:
        """Read the plain tar that ``pieces`` are; note it in ``skeleton``.

        Who makes a piece may note in ``proved``, before, what is in it.
        """
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._max_bytes = max_bytes
        self._skeleton = skeleton
        self._proved: Proved = {} if proved is None else proved
        self._out = 0
        self.position = 0

    @property
    def left_bytes(self) -> int:
        """How many bytes may still come before the limit."""
        return self._max_bytes - self.position

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, less at the end only.

        Raises:
            BadLayer: the compression is broken, or the limit is passed.
        """
        data = bytes(self.read_content(size))
        if self._skeleton is not None:
            self._skeleton.literal(data)
        return data

    def read_content(self, size: int) -> bytes | memoryview:
        """Return the same, where it is of a file: ``end_content`` says which, at its end.

        It is not copied where that can be avoided: most of a layer is contents.
        """
        data: bytes | memoryview
        if len(self._piece) >= size:
            data = self._piece[:size]
            self._piece = self._piece[size:]
        else:
            data = b"".join(self._take(size))
        self.position += len(data)
        return data

    def digest_of_last(self, data: bytes | memoryview) -> Digest:
        """Return the digest of ``data``, which is the whole content that was read last."""
        proved = self._proved.pop(self.position - len(data), None)
        if proved is not None and proved.size == len(data):
            return proved.digest
        return digest_of(data)

    def end_content(self, digest: Digest, size: int) -> None:
        """Take note that the last ``size`` bytes were this content."""
        if self._skeleton is not None:
            self._skeleton.content(digest, size)

    def skip(self, size: int) -> None:
        """Pass over the next ``size`` bytes, or all to the end where there are less."""
        if not size:
            return
        for part in self._take(size):
            self._pass(part)

    def count_holes(self, size: int) -> None:
        """Count bytes that are not in the tar, and that a file out of it has.

        Raises:
            BadLayer: with them the limit is passed.
        """
        self._max_bytes -= size
        if self.position > self._max_bytes:
            raise BadLayer("a layer whose files have holes over the limit of its bytes")

    def finish(self) -> None:
        """Read to the end."""
        self._pass(self._piece)
        while self._next():
            self._pass(self._piece)
        self._piece = memoryview(b"")

    def _pass(self, part: memoryview) -> None:
        self.position += len(part)
        if self._skeleton is not None:
            self._skeleton.literal(part)

    def _take(self, size: int) -> Iterator[memoryview]:
        while size and (self._piece or self._next()):
            part = self._piece[:size]
            self._piece = self._piece[len(part) :]
            size -= len(part)
            yield part

    def _next(self) -> bool:
        piece = next(self._pieces, b"")
        self._out += len(piece)
        if self._out > self._max_bytes:
            raise BadLayer(f"a layer is over the limit of {self._max_bytes} bytes")
        self._piece = memoryview(piece)
        return bool(piece)


class Stream(Protocol):
    """What bytes are read from, in order."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes, none at the end only."""


class Hash(Protocol):
    """What ``hashlib`` makes."""

    def update(self, data: bytes, /) -> object:
        """Take the next bytes."""


def hashed(pieces: Iterable[bytes], into: Hash) -> Iterator[bytes]:
    """Yield ``pieces``, each after ``into`` has taken it."""
    for piece in pieces:
        into.update(piece)
        yield piece


def decompressed(stream: Stream) -> Iterator[bytes]:
    """Yield what ``stream`` holds in pieces of at most 1 MiB, never an empty one.

    Raises:
        BadLayer: gzip or zstd data that is broken.
    """
    head = stream.read(4)
    if head.startswith(_GZIP):
        yield from _gunzip(stream, head)
    elif head == _ZSTD or (head[1:] == _ZSTD_SKIPPED and head[0] >> 4 == 5):
        yield from _unzstd(_Joined(head, stream))
    else:
        joined = _Joined(head, stream)
        while piece := joined.read(_PIECE_BYTES):
            yield piece


def _gunzip(stream: Stream, head: bytes) -> Iterator[bytes]:
    """Yield the content of all members: tools that seek in layers write many."""
    data = head
    inflate = zlib.decompressobj(wbits=31)
    try:
        while data or (data := stream.read(_PIECE_BYTES)):
            if piece := inflate.decompress(data, _PIECE_BYTES):
                yield piece
            data = inflate.unconsumed_tail
            if inflate.eof:
                data = inflate.unused_data
                if not data.strip(b"\0"):  # padding; more of it may follow
                    data = b""
                    while (more := stream.read(_PIECE_BYTES)) and not more.strip(b"\0"):
                        pass
                    data = more
                if not data:
                    return
                inflate = zlib.decompressobj(wbits=31)
    except zlib.error as exc:
        raise BadLayer(f"broken gzip data: {exc}") from exc
    raise BadLayer("gzip data ends early")


def _unzstd(stream: "_Joined") -> Iterator[bytes]:
    # Not a decompressobj, whose output no one can bound: four bytes can give 128 KiB. What a
    # stream_reader does not tell is a frame that ends early; the layer's diffID does.
    unzip = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    reader = unzip.stream_reader(
        cast(BinaryIO, stream), read_across_frames=True, read_size=_PIECE_BYTES
    )
    try:
        while piece := reader.read(_PIECE_BYTES):
            yield piece
    except zstandard.ZstdError as exc:
        raise BadLayer(f"broken zstd data: {exc}") from exc


class Pieces:
    """A stream of the pieces that somebody else makes; none of them is empty."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = b""

    def read(self, size: int = -1, /) -> bytes:
        """Return what is left of a piece, at most ``size`` bytes, or else of the next one."""
        piece = self._left or next(self._pieces, b"")
        cut = len(piece) if size < 0 else size
        self._left = piece[cut:]
        return piece[:cut]


class _Joined:
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Return at most ``size`` bytes, none at the end only."""
        head, self._head = self._head, b""
        return head or self._stream.read(size)
