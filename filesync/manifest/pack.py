"""Nodes on the wire: many in one compressed payload, children before parents.

A pack is one zstd frame of a MessagePack array of byte strings. ``pack_nodes`` cuts a stream of
nodes into packs of about ``PACK_BYTES``; a node above that travels alone.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final, TypeVar

import msgspec
import zstandard

from filesync.decoding import UNDECODABLE
from filesync.digest import Digest
from filesync.errors import MalformedManifest
from filesync.manifest.node import MAX_NODE_BYTES
from filesync.manifest.tree import Nodes, accept

T = TypeVar("T")

PACK_BYTES: Final = 1 << 20
MAX_PACK_BYTES: Final = MAX_NODE_BYTES + PACK_BYTES
MAX_PACK_NODES: Final = PACK_BYTES // 8 + 1
"""No node has fewer bytes than eight. Of kilobytes, zstd makes millions that have none."""

_Node = Annotated[bytes, msgspec.Meta(max_length=MAX_NODE_BYTES)]
_Kept = Annotated[int, msgspec.Meta(ge=0)]
_most: Final = msgspec.Meta(max_length=MAX_PACK_NODES)
_directories_decoder: Final = msgspec.msgpack.Decoder(
    Annotated[list[tuple[_Kept, bytes, _Node]], _most]
)
_decoder: Final = msgspec.msgpack.Decoder(Annotated[list[_Node], _most])
_encoder: Final = msgspec.msgpack.Encoder()


def pack_nodes(nodes: Iterable[bytes]) -> Iterator[bytes]:
    """Yield packs that hold ``nodes`` in their order; none when there are none."""
    batch: list[bytes] = []
    size = 0
    for node in nodes:
        batch.append(node)
        size += len(node)
        if size >= PACK_BYTES:
            yield _compress(_encoder.encode(batch))
            batch, size = [], 0
    if batch:
        yield _compress(_encoder.encode(batch))


def accept_pack(nodes: Nodes, pack: bytes | memoryview) -> list[Digest]:
    """Check and keep every node in ``pack``; return their digests.

    Raises:
        MalformedManifest: the pack or a node in it breaks the format.
        NodeMissing: a node came before one that it refers to.
    """
    return [accept(nodes, node) for node in unpack_nodes(pack)]


def unpack_nodes(pack: bytes | memoryview) -> list[bytes]:
    """Return the nodes in ``pack``, unchecked: each is to go through ``accept``.

    Raises:
        MalformedManifest: the pack breaks the format.
    """
    return _decode(_decoder, pack)


def pack_directories(directories: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return one pack of (path, node); neighbours' paths are written by what they share."""
    items: list[tuple[int, bytes, bytes]] = []
    shared = b""
    for path, node in directories:
        while not path.startswith(shared):
            shared = shared.rpartition(b"/")[0]
        items.append((len(shared), path[len(shared) :], node))
        shared = path
    return _compress(_encoder.encode(items))


def unpack_directories(pack: bytes | memoryview) -> list[tuple[bytes, bytes]]:
    """Return (path, node) of each in ``pack``, unchecked.

    Raises:
        MalformedManifest: the pack breaks the format.
    """
    found: list[tuple[bytes, bytes]] = []
    path = b""
    size = 0
    for kept, rest, node in _decode(_directories_decoder, pack):
        path = path[:kept] + rest
        size += len(path)
        if size > MAX_PACK_BYTES:
            raise MalformedManifest("the paths in a pack are too long")
        found.append((path, node))
    return found


def _decode(decoder: msgspec.msgpack.Decoder[T], pack: bytes | memoryview) -> T:
    pack = bytes(pack)
    try:
        # max_output_size does not bound a frame that states its size, so look first.
        claims = zstandard.get_frame_parameters(pack)
        if max(claims.content_size, claims.window_size) > MAX_PACK_BYTES:
            raise MalformedManifest(f"a pack of nodes claims {claims.content_size} bytes")
        data = zstandard.ZstdDecompressor().decompress(pack, allow_extra_data=False)
        return decoder.decode(data)
    except (*UNDECODABLE, zstandard.ZstdError) as exc:
        raise MalformedManifest(f"not a pack of nodes: {exc}") from exc


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)
