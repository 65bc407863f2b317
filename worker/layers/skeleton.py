"""A layer's tar without the contents of its files, and the tar again out of both.

A skeleton is every byte of the uncompressed tar that is no content, in order, and in the place of
each content its BLAKE3 and size. So headers of any dialect, padding and what follows the end come
back as they were, and whoever has the contents can make the very tar. It is one zstd frame of:

=========  =====================  ============================================
`MAGIC`
literal    ``u8 0, u32 length``   then that many bytes, 64 KiB at most
content    ``u8 1, u64 size``     then the 32 bytes of its digest; never empty
end        ``u8 2, u64 size``     of the whole tar; nothing follows
=========  =====================  ============================================

All numbers are little-endian. A literal ends after 64 KiB or before what is no literal, so the
same tar with the same contents left out has one skeleton, whoever writes it. What is worth no
reference, or has no file to refer to, may stand in it as a literal.
"""

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

import zstandard

from filesync.digest import DIGEST_BYTES, Digest
from worker.layers.errors import BadSkeleton

MEDIA_TYPE: Final = "application/vnd.filesync.layer.skeleton.v1+zstd"
MAGIC: Final = b"filesync layer skeleton 1\n"
MAX_LITERAL_BYTES: Final = 64 << 10

_LEVEL: Final = 3
_LITERAL, _CONTENT, _END = 0, 1, 2
_LENGTH: Final = struct.Struct("<I")
_SIZE: Final = struct.Struct("<Q")
_REFERENCE: Final = struct.Struct(f"<Q{DIGEST_BYTES}s")
_READ_BYTES: Final = 256 << 10
_MAX_WINDOW_BYTES: Final = 8 << 20


class Content(NamedTuple):
    """Where a file's content stands in a tar."""

    digest: Digest
    size: int


Part = bytes | Content
Proved = dict[int, Content]
"""By where they begin in a tar, contents whose bytes there are known to have their digest."""


class SkeletonLimits(NamedTuple):
    """What a skeleton may say at most; over it, it is refused.

    Attributes:
        tar_bytes: of the tar that it describes.
        literal_bytes: of it that are no contents.
        contents: references.
    """

    tar_bytes: int = 64 << 30
    literal_bytes: int = 8 << 30
    contents: int = 2_000_000


EXPANSION: Final = 2000
"""How many times its size the literals may be. Plain headers of empty files come to some 100."""
FREE_BYTES: Final = 64 << 20
"""What any skeleton's literals may come to."""
_DEFAULT: Final = SkeletonLimits()


def skeleton_limits_of(skeleton_bytes: int) -> SkeletonLimits:
    """Return the limits of a stranger's skeleton that has so many bytes."""
    literals = max(FREE_BYTES, EXPANSION * skeleton_bytes)
    return SkeletonLimits(literal_bytes=min(_DEFAULT.literal_bytes, literals))


class SkeletonWriter:
    """Writes a skeleton while its tar goes by. Needs the same memory for any tar.

    Attributes:
        contents: what was referred to, each once, with its size.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Give the compressed bytes to ``write``, as they are done."""
        self.contents: dict[Digest, int] = {}
        self._write = write
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._literal = bytearray()
        self._plain = bytearray(MAGIC)
        self._size = 0

    def literal(self, data: bytes | memoryview) -> None:
        """Note the next bytes of the tar. Does not keep ``data``."""
        self._size += len(data)
        self._literal += data
        if len(self._literal) >= MAX_LITERAL_BYTES:
            whole = len(self._literal) // MAX_LITERAL_BYTES * MAX_LITERAL_BYTES
            for at in range(0, whole, MAX_LITERAL_BYTES):
                self._put_literal(self._literal[at : at + MAX_LITERAL_BYTES])
            del self._literal[:whole]

    def content(self, digest: Digest, size: int) -> None:
        """Note that a content is next in the tar."""
        if size:
            self._end_literal()
            self._size += size
            self.contents[digest] = size
            self._put(bytes((_CONTENT,)) + _REFERENCE.pack(size, digest))

    def finish(self) -> None:
        """Note that the tar is at its end, and write what is left."""
        self._end_literal()
        self._put(bytes((_END,)) + _SIZE.pack(self._size))
        self._write(self._zstd.compress(self._plain) + self._zstd.flush())

    def _end_literal(self) -> None:
        if self._literal:
            self._put_literal(self._literal)
            self._literal.clear()

    def _put_literal(self, data: bytearray) -> None:
        self._put(bytes((_LITERAL,)) + _LENGTH.pack(len(data)) + data)

    def _put(self, data: bytes | bytearray) -> None:
        # Gathered: each call of the compressor lets another thread have the interpreter.
        self._plain += data
        if len(self._plain) >= MAX_LITERAL_BYTES:
            self._write(self._zstd.compress(self._plain))
            self._plain.clear()


def read_skeleton(stream: BinaryIO, *, limits: SkeletonLimits = _DEFAULT) -> Iterator[Part]:
    """Yield the parts of the tar, in order.

    Raises:
        BadSkeleton: it is none, ends early, or is over a limit; what was yielded is worth nothing.
    """
    reader = _Reader(stream)
    if reader.take(len(MAGIC)) != MAGIC:
        raise BadSkeleton("not a skeleton of this version")
    size = literals = contents = 0
    while (kind := reader.take(1)[0]) != _END:
        if kind == _LITERAL:
            (length,) = _LENGTH.unpack(reader.take(_LENGTH.size))
            if not 0 < length <= MAX_LITERAL_BYTES:
                raise BadSkeleton(f"a literal of {length} bytes")
            literals += length
            part: Part = reader.take(length)
        elif kind == _CONTENT:
            length, digest = _REFERENCE.unpack(reader.take(_REFERENCE.size))
            if not length:
                raise BadSkeleton("a reference to an empty content")
            contents += 1
            part = Content(Digest(digest), length)
        else:
            raise BadSkeleton(f"a part of the unknown kind {kind}")
        size += length
        _check(limits, size, literals, contents)
        yield part
    if _SIZE.unpack(reader.take(_SIZE.size)) != (size,):
        raise BadSkeleton("it is of another tar than it says at its end")
    if not reader.is_at_end():
        raise BadSkeleton("something follows its end")


def _check(limits: SkeletonLimits, size: int, literals: int, contents: int) -> None:
    if size > limits.tar_bytes:
        raise BadSkeleton(f"a tar over the limit of {limits.tar_bytes} bytes")
    if literals > limits.literal_bytes:
        raise BadSkeleton(f"literals over the limit of {limits.literal_bytes} bytes")
    if contents > limits.contents:
        raise BadSkeleton(f"more than {limits.contents} contents")


def contents_of(parts: Iterator[Part]) -> dict[Digest, int]:
    """Return the contents that a skeleton refers to, each once, with its size.

    Raises:
        BadSkeleton: it gives one content two sizes.
    """
    found: dict[Digest, int] = {}
    for part in parts:
        if isinstance(part, Content) and found.setdefault(part.digest, part.size) != part.size:
            raise BadSkeleton("one content has two sizes")
    return found


class _Reader:
    """Takes exact numbers of bytes out of one zstd frame."""

    def __init__(self, stream: BinaryIO) -> None:
        unzip = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._stream = stream
        self._plain = unzip.stream_reader(stream, read_size=_READ_BYTES)
        self._piece = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        while len(self._piece) < end:
            more = self._read()
            if not more:
                raise BadSkeleton("it ends early")
            self._piece = self._piece[self._at :] + more
            self._at, end = 0, size
        data = self._piece[self._at : end]
        self._at = end
        return data

    def is_at_end(self) -> bool:
        return self._at == len(self._piece) and not self._read() and not self._stream.read(1)

    def _read(self) -> bytes:
        try:
            return self._plain.read(_READ_BYTES)
        except zstandard.ZstdError as exc:
            raise BadSkeleton(f"broken zstd data: {exc}") from exc
