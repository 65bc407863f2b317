"""Reads a tar that nobody trusts, forward only, whatever it is compressed with.

The standard library parses the headers; around it stand the bounds that it lacks: on the bytes
that the headers of one member may take, on the number of members, on what a compressed stream
may grow to, and on the memory that its window may take.
"""

import bz2
import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, Protocol, cast

import zstandard

from worker.files.errors import ArchiveRefused

MAX_MEMBERS: Final = 5_000_000
MAX_BYTES: Final = 256 << 30
"""Bound on the uncompressed archive; beyond it is a mistake or an attack."""
MAX_HEADER_BYTES: Final = 4 << 20
"""Bound on all headers of one member: long names, xattrs, maps of holes."""
_MAX_WINDOW_BYTES: Final = 128 << 20
_PIECE_BYTES: Final = 1 << 20
_ZERO_BLOCK: Final = bytes(512)
_MANY_DIGITS: Final = re.compile(rb"[0-9]{256}")
"""Before 3.11.10 and 3.12.6 the library takes the square of their number to look at them
(CVE-2024-6232): six seconds for 100,000, and hours for a header of the bound."""
_DAMAGED: Final = (
    tarfile.TarError,
    zstandard.ZstdError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    OSError,
)
"""What the parsers raise for bytes that they cannot read."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Archive:
    """The members of a tar, each of which must be read, or left, before the next."""

    def __init__(self, stream: "_Forward", tar: tarfile.TarFile) -> None:
        self._stream = stream
        self._tar = tar
        self._left = 0

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members.

        Raises:
            ArchiveRefused: the archive is damaged, or over a bound.
        """
        for _ in range(MAX_MEMBERS):
            member = _next(self._stream, self._tar)
            if member is None:
                if self._stream.last not in (b"", _ZERO_BLOCK):
                    raise ArchiveRefused("the archive is damaged: a header makes no sense")
                self._read_to_end()
                return
            if member.size < 0:
                raise ArchiveRefused(f"{member.name!r} says it has {member.size} bytes")
            sparse = cast("list[tuple[int, int]] | None", getattr(member, "sparse", None))
            self._left = member.size if sparse is None else sum(size for _, size in sparse)
            yield member
        raise ArchiveRefused(f"the archive has more than {MAX_MEMBERS} members")

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``, of the present member; none at its end.

        Raises:
            ArchiveRefused: the archive ends before, or is damaged, or over a bound.
        """
        wanted = min(size, self._left, _PIECE_BYTES)
        if not wanted:
            return b""
        try:
            data = self._stream.take(wanted)
        except _DAMAGED as exc:
            raise ArchiveRefused(f"the archive is damaged: {exc}") from exc
        if not data:
            raise ArchiveRefused("the archive ends in the middle of a file")
        self._left -= len(data)
        return data

    def _read_to_end(self) -> None:
        """Read what follows the tar, for the checksum that stands at a compressed stream's end."""
        try:
            while self._stream.take(_PIECE_BYTES):
                pass
        except _DAMAGED as exc:
            raise ArchiveRefused(f"the archive is damaged: {exc}") from exc


def open_archive(file: IO[bytes]) -> Archive | None:
    """Return the tar that ``file`` is, by its content; None if it is none.

    ``file`` is read from its start and stays the caller's.
    """
    stream = None
    try:
        stream = _Forward(_decompressed(file))
        tar = tarfile.TarFile(
            fileobj=cast("IO[bytes]", stream), encoding="utf-8", errors="surrogateescape"
        )
    except (*_DAMAGED, ArchiveRefused):
        return None
    # The first header is read by now. An archive without members is a file of zeros.
    return Archive(stream, tar) if vars(tar)["members"] else None


def _next(stream: "_Forward", tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    stream.header_left = MAX_HEADER_BYTES
    # It keeps all members for getmembers(), which nobody calls here.
    vars(tar)["members"].clear()
    try:
        return tar.next()
    except _DAMAGED as exc:
        raise ArchiveRefused(f"the archive is damaged: {exc}") from exc


def _decompressed(file: IO[bytes]) -> _Readable:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b\x08"):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic == b"\xfd7zXZ\0":
        return _Xz(file)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        reader = decompressor.stream_reader(file, read_across_frames=True, closefd=False)
        return cast("_Readable", reader)
    return file


class _Xz:
    """``lzma.LZMAFile`` with a bound on the memory that the stream may ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rest = b""
        self._start()

    def read(self, size: int, /) -> bytes:
        while True:
            if self._stream.eof and not self._next_stream():
                return b""
            data = b""
            if self._stream.needs_input:
                data = self._rest or self._file.read(_PIECE_BYTES)
                self._rest = b""
                if not data:
                    raise EOFError("the compressed stream ends too early")
            found = self._stream.decompress(data, size)
            if found:
                return found

    def _next_stream(self) -> bool:
        rest = self._stream.unused_data
        # Streams may be padded with NULs to a multiple of four.
        while not (rest := rest.lstrip(b"\0")):
            rest = self._file.read(_PIECE_BYTES)
            if not rest:
                return False
        self._rest = rest
        self._start()
        return True

    def _start(self) -> None:
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_WINDOW_BYTES)


class _Forward:
    """What ``tarfile`` reads from: it goes forward only, and counts.

    Attributes:
        header_left: bytes that ``tarfile`` may still read before the next member is found.
        last: what it read last.
    """

    def __init__(self, raw: _Readable) -> None:
        self._raw = raw
        self._at = 0
        self.header_left = MAX_HEADER_BYTES
        self.last = b""

    def read(self, size: int) -> bytes:
        self.header_left -= size
        if size < 0 or self.header_left < 0:
            raise ArchiveRefused(f"a member has more than {MAX_HEADER_BYTES} bytes of headers")
        pieces = []
        while size and (piece := self.take(size)):
            pieces.append(piece)
            size -= len(piece)
        self.last = b"".join(pieces)
        if len(self.last) > len(_ZERO_BLOCK) and _MANY_DIGITS.search(self.last):
            raise ArchiveRefused("a header has more digits in a row than a number or a name")
        return self.last

    def take(self, size: int) -> bytes:
        """Read some bytes, at most ``size``, that are no header."""
        data = self._raw.read(size)
        self._at += len(data)
        if self._at > MAX_BYTES:
            raise ArchiveRefused(f"the archive has more than {MAX_BYTES} bytes")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int) -> None:
        if offset < self._at:
            raise tarfile.StreamError("a header leads backward")
        while self._at < offset:
            if not self.take(min(offset - self._at, _PIECE_BYTES)):
                raise tarfile.ReadError("it ends in the middle of a file")
