"""eStargz: a gzipped layer whose contents can be read one by one, and the table that says where.

Each file's content is a gzip member of its own, or several of 4 MiB; the headers between are in
others. The table of contents is the tar's last member, and a footer of 51 bytes, an empty gzip
member, says where that begins. For all who do not know of it, it is a gzipped tar like any other,
with two small files more. The format is containerd's stargz-snapshotter's, ``docs/estargz.md``.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import Final

import msgspec

from worker.layers.errors import BadLayer, NotALayer
from worker.layers.member import BLOCK_BYTES as _BLOCK
from worker.layers.member import END, FILE, Member, encode, padding
from worker.layers.toc import (
    MAX_TOC_BYTES,
    TocEntry,
    chunk_entry,
    toc_entry,
    write_toc,
)
from worker.wire.images import TOC_DIGEST, UNCOMPRESSED_SIZE, Layer

TOC_NAME: Final = b"stargz.index.json"
LANDMARK: Final = b".no.prefetch.landmark"
"""Says that nothing in the layer is to be fetched ahead."""
OWN_NAMES: Final = frozenset({TOC_NAME, LANDMARK, b".prefetch.landmark"})
"""Members that are the format's, and no files of the image."""
CHUNK_BYTES: Final = 4 << 20
FOOTER_BYTES: Final = 51

_LANDMARK_CONTENT: Final = b"\x0f"
_EXTRA: Final = struct.Struct("<2sH16s6s")
_HEADER: Final = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", _EXTRA.size)
_NO_CONTENT: Final = b"\x01\0\0\xff\xff" + bytes(8)
_OCTAL: Final = re.compile(rb"[0-7]{1,11}")
_OFFSET: Final = re.compile(rb"[0-9a-f]{16}")


class EstargzWriter:
    """Writes one layer.

    Attributes:
        diff_id: of the tar with its table, once all is written.
        annotations: of the descriptor, by name, once all is written.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._diff_id = hashlib.sha256()
        self._tar_bytes = 0
        self._blob_bytes = 0
        self._entries: list[TocEntry] = []
        self.diff_id = ""
        self.annotations: tuple[tuple[str, str], ...] = ()

    def blocks(self, parts: Iterable[tuple[Member, Iterable[bytes]]]) -> Iterator[bytes]:
        """Yield the blob of a layer with these members, each with its content.

        Raises:
            NotALayer: a member has a name that the format cannot say, or has for itself.
        """
        landmark = Member(LANDMARK, FILE, 0o644, size=len(_LANDMARK_CONTENT))
        between = yield from self._file(b"", landmark, [_LANDMARK_CONTENT])
        for member, content in parts:
            if member.path in OWN_NAMES:
                raise NotALayer(f"{member.path!r} is a name that eStargz has for itself")
            if member.size:
                between = yield from self._file(between, member, content)
            else:
                between += encode(member)
                self._entries.append(toc_entry(member))
            if len(between) >= CHUNK_BYTES:
                yield self._packed(between)
                between = b""
        if between:
            yield self._packed(between)
        yield from self._end()

    def _file(
        self, before: bytes, member: Member, content: Iterable[bytes]
    ) -> Generator[bytes, None, bytes]:
        """Write a file; return what comes before the next one's header."""
        yield self._packed(before + encode(member))
        whole = hashlib.sha256()
        first = len(self._entries)
        entry = toc_entry(member)
        at = 0
        for chunk in _chunks(content):
            whole.update(chunk)
            digest = f"sha256:{hashlib.sha256(chunk).hexdigest()}"
            size = len(chunk) if at + len(chunk) < member.size else 0
            self._entries.append(
                msgspec.structs.replace(
                    entry,
                    offset=self._blob_bytes,
                    chunk_offset=at,
                    chunk_size=size,
                    chunk_digest=digest,
                )
            )
            entry = chunk_entry(entry.name)
            at += len(chunk)
            yield self._packed(chunk)
        self._entries[first] = msgspec.structs.replace(
            self._entries[first], digest=f"sha256:{whole.hexdigest()}"
        )
        return bytes(padding(member.size))

    def _end(self) -> Iterator[bytes]:
        toc = write_toc(self._entries)
        begin = self._blob_bytes
        member = Member(TOC_NAME, FILE, 0o644, size=len(toc))
        yield self._packed(encode(member) + toc + bytes(padding(len(toc))) + END)
        yield footer(begin)
        self.diff_id = f"sha256:{self._diff_id.hexdigest()}"
        self.annotations = (
            (TOC_DIGEST, f"sha256:{hashlib.sha256(toc).hexdigest()}"),
            (UNCOMPRESSED_SIZE, str(self._tar_bytes)),
        )

    def _packed(self, data: bytes) -> bytes:
        """Return ``data`` as a gzip member of its own."""
        self._diff_id.update(data)
        self._tar_bytes += len(data)
        squeeze = zlib.compressobj(self._level, wbits=31)
        packed = squeeze.compress(data) + squeeze.flush()
        self._blob_bytes += len(packed)
        return packed


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    chunk = bytearray()
    for piece in pieces:
        chunk += piece
        while len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk[:CHUNK_BYTES])
            del chunk[:CHUNK_BYTES]
    if chunk:
        yield bytes(chunk)


def own_names(layer: Layer) -> frozenset[bytes]:
    """Return the names of the members of ``layer`` that are no files of its image."""
    is_estargz = any(name == TOC_DIGEST for name, _ in layer.annotations)
    return OWN_NAMES if is_estargz else frozenset()


def footer(toc: int) -> bytes:
    """Return the end of a blob whose table begins at ``toc``."""
    extra = _EXTRA.pack(b"SG", 22, b"%016x" % toc, b"STARGZ")
    return _HEADER + extra + _NO_CONTENT


def toc_offset(end: bytes) -> int | None:
    """Return where the table of a blob begins that ends so; None where it is no eStargz."""
    if len(end) != FOOTER_BYTES or end[:4] != _HEADER[:4] or end[10:12] != _HEADER[10:12]:
        return None
    name, size, offset, kind = _EXTRA.unpack_from(end, len(_HEADER))
    if (name, size, kind) != (b"SG", 22, b"STARGZ") or not _OFFSET.fullmatch(offset):
        return None
    return int(offset, 16)


def toc_member(packed: bytes) -> bytes | None:
    """Return the table out of the gzip member that has it; None where it is over the limit.

    Raises:
        BadLayer: there is none in it.
    """
    unzip = zlib.decompressobj(wbits=31)
    try:
        tar = unzip.decompress(packed, _BLOCK + MAX_TOC_BYTES)
    except zlib.error as exc:
        raise BadLayer(f"broken gzip data: {exc}") from exc
    digits = tar[124:136].strip(b" \0")
    if len(tar) < _BLOCK or tar[:100].rstrip(b"\0") != TOC_NAME or not _OCTAL.fullmatch(digits):
        raise BadLayer("an eStargz layer without its table of contents")
    size = int(digits, 8)
    return tar[_BLOCK : _BLOCK + size] if size <= MAX_TOC_BYTES else None
