"""Making layers: the tar of what a snapshot changed, compressed, into the blob store.

The same two trees give the same tar on every worker. The compressed bytes depend on the
libraries' versions too, so a blob is made once and then kept.
"""

import hashlib
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec
import zstandard
from blake3 import blake3

from filesync.digest import Digest, digest_of
from filesync.disk.handles import READ_FLAGS, DirectoryHandles, shown
from filesync.errors import LocalError, StoreError
from filesync.manifest import Manifest
from filesync.process.wanted import check_wanted
from worker.blobs import BlobStore
from worker.layers.ahead import ReadAhead
from worker.layers.changes import encoded_bytes, members
from worker.layers.estargz import EstargzWriter
from worker.layers.member import END, Member, encode, padding
from worker.layers.skeleton import SkeletonWriter
from worker.layers.source import decompressed, hashed
from worker.wire.images import Compression
from worker.wire.orders import Layer

MEDIA_TYPES: Final[dict[Compression, str]] = {
    Compression.ZSTD: "application/vnd.oci.image.layer.v1.tar+zstd",
    Compression.GZIP: "application/vnd.oci.image.layer.v1.tar+gzip",
    Compression.ESTARGZ: "application/vnd.oci.image.layer.v1.tar+gzip",
    Compression.NONE: "application/vnd.oci.image.layer.v1.tar",
}
ZSTD_LEVEL: Final = 3
GZIP_LEVEL: Final = 6
_ZSTD_THREADS: Final = 2
"""One or more give the same bytes, however many; none at all gives others."""
_PIECE_BYTES: Final = 1 << 20


class LayerForm(msgspec.Struct, frozen=True):
    """How the layer of two trees is written; the usual one needs no saying.

    Attributes:
        level: of the compression; None is the usual one.
        newest_s: seconds since 1970; what is newer is written as if it were from then.
    """

    compression: Compression = Compression.ZSTD
    level: int | None = None
    newest_s: int | None = None

    @property
    def is_other_tar(self) -> bool:
        """Whether the tar is another one than the layer's own, and so its diffID."""
        return self.newest_s is not None or self.compression is Compression.ESTARGZ

    def __str__(self) -> str:
        level = "" if self.level is None else f":{self.level}"
        return (
            f"{self.compression}{level}{'' if self.newest_s is None else f'@{self.newest_s}'}"
        )


USUAL_FORM: Final = LayerForm()


def make_layer(
    parent: Manifest | None,
    child: Manifest,
    root: Path,
    blobs: BlobStore,
    form: LayerForm = USUAL_FORM,
    skeleton: SkeletonWriter | None = None,
) -> Layer:
    """Make the layer that turns ``parent`` into ``child``, which ``root`` holds. Blocks.

    ``skeleton`` is told the tar as it goes by; the caller finishes it.

    Raises:
        StoreError: ``root`` does not hold ``child``, or this disk; nothing is kept.
        NotALayer: the tree has what no layer can say.
    """
    if form.compression is Compression.ESTARGZ:
        writer = EstargzWriter(GZIP_LEVEL if form.level is None else form.level)
        parts = _tar_parts(parent, child, root, newest_s=form.newest_s)
        blob = blobs.ingest(writer.blocks(parts))
        return Layer(
            MEDIA_TYPES[form.compression],
            blob.digest,
            blob.size,
            writer.diff_id,
            annotations=writer.annotations,
        )
    diff_id = hashlib.sha256()
    tar = tar_blocks(parent, child, root, newest_s=form.newest_s, skeleton=skeleton)
    with ReadAhead(tar) as read:
        blob = blobs.ingest(compress(hashed(read, diff_id), form.compression, form.level))
    return Layer(
        MEDIA_TYPES[form.compression], blob.digest, blob.size, f"sha256:{diff_id.hexdigest()}"
    )


def recompress(
    layer: Layer, blobs: BlobStore, compression: Compression, level: int | None = None
) -> Layer:
    """Make the same layer, with the same diffID, compressed otherwise. Blocks.

    Not as eStargz, whose table is in the tar, and gives it another diffID.

    Raises:
        StoreError: the blob is not here, or is not what the layer says.
    """
    diff_id = hashlib.sha256()

    def proved(stream: BinaryIO) -> Iterator[bytes]:
        yield from hashed(decompressed(stream), diff_id)
        if f"sha256:{diff_id.hexdigest()}" != layer.diff_id:
            raise StoreError(f"blob {layer.digest} does not hold the layer {layer.diff_id}")

    with blobs.open(layer.digest) as stream:
        blob = blobs.ingest(compress(proved(stream), compression, level))
    return Layer(MEDIA_TYPES[compression], blob.digest, blob.size, layer.diff_id)


def tar_size(parent: Manifest | None, child: Manifest) -> int:
    """Return the size of a layer's uncompressed tar, from the manifests alone.

    Raises:
        NotALayer: the tree has what no layer can say.
    """
    return encoded_bytes(parent, child) + len(END)


def tar_blocks(
    parent: Manifest | None,
    child: Manifest,
    root: Path,
    *,
    newest_s: int | None = None,
    skeleton: SkeletonWriter | None = None,
) -> Iterator[bytes]:
    """Yield that tar in pieces of about 1 MiB; every content is verified on its way.

    ``skeleton`` is told the same.

    Raises:
        StoreError: ``root`` does not hold ``child``. What was yielded is worth nothing.
        NotALayer: the tree has what no layer can say.
    """
    gathered: list[bytes] = []
    size = 0
    for member, content in _tar_parts(parent, child, root, newest_s=newest_s):
        header, after = encode(member), bytes(padding(member.size))
        if skeleton is not None:
            skeleton.literal(header)
            if member.content is not None:
                skeleton.content(member.content, member.size)
            skeleton.literal(after)
        for piece in chain((header,), content, (after,)):
            gathered.append(piece)
            size += len(piece)
            if size >= _PIECE_BYTES:
                yield b"".join(gathered)
                gathered.clear()
                size = 0
    if skeleton is not None:
        skeleton.literal(END)
    yield b"".join((*gathered, END))


def _tar_parts(
    parent: Manifest | None, child: Manifest, root: Path, *, newest_s: int | None
) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """Yield the members, each with its content, which is to be read before the next one."""
    with DirectoryHandles(root) as handles:
        for member in members(parent, child):
            content: Iterator[bytes] = iter(())
            if member.content is not None:
                content = _content(handles, member, member.content)
            yield member if newest_s is None else _aged(member, newest_s), content


def _aged(member: Member, newest_s: int) -> Member:
    return member._replace(mtime_ns=min(member.mtime_ns, newest_s * 1_000_000_000))


def compress(
    blocks: Iterable[bytes], compression: Compression, level: int | None = None
) -> Iterator[bytes]:
    """Yield ``blocks`` compressed, without names or times of its own; level None is the usual.

    Raises:
        LocalError: asked for eStargz, which is no compression of a tar as it stands.
    """
    if compression is Compression.ESTARGZ:
        raise LocalError("an eStargz layer is made of members, not of a tar")
    if compression is Compression.NONE:
        yield from blocks
        return
    squeeze: _Compressor = (
        zlib.compressobj(GZIP_LEVEL if level is None else level, wbits=31)
        if compression is Compression.GZIP
        else zstandard.ZstdCompressor(
            compression_params=_zstd(ZSTD_LEVEL if level is None else level)
        ).compressobj()
    )
    for block in blocks:
        if piece := squeeze.compress(block):
            yield piece
    yield squeeze.flush()


def _zstd(level: int) -> zstandard.ZstdCompressionParameters:
    # The default job size, 8 MiB, takes 60 MB more memory and gains nothing.
    return zstandard.ZstdCompressionParameters.from_level(
        level, threads=_ZSTD_THREADS, job_size=1 << 20
    )


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _content(handles: DirectoryHandles, member: Member, content: Digest) -> Iterator[bytes]:
    """Yield the bytes of a file, and at its end prove that they were the right ones."""
    directory, _, name = member.path.rpartition(b"/")
    try:
        fd = os.open(name, READ_FLAGS, dir_fd=handles.open(directory))
    except OSError as exc:
        raise StoreError(f"{shown(member.path)} cannot be read: {exc.strerror}") from exc
    try:
        if member.size < _PIECE_BYTES:
            data = os.read(fd, member.size + 1)
            is_right = len(data) == member.size and digest_of(data) == content
            yield data
        else:
            is_right = yield from _pieces(fd, member.size, content)
    except OSError as exc:
        raise StoreError(f"{shown(member.path)} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(fd)
    if not is_right:
        raise StoreError(f"{shown(member.path)} on disk is not what its manifest says")


def _pieces(fd: int, size: int, content: Digest) -> Generator[bytes, None, bool]:
    hasher = blake3()
    left = size
    while left and (piece := os.read(fd, min(left, _PIECE_BYTES))):
        check_wanted()
        hasher.update(piece)
        left -= len(piece)
        yield piece
    return not left and not os.read(fd, 1) and hasher.digest() == content
