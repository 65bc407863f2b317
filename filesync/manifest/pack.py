"""Nodes on the wire: many in one compressed payload, children before parents.

A pack is one zstd frame of a MessagePack array of byte strings. ``pack_nodes`` cuts a stream of
nodes into packs of about ``PACK_BYTES``; a node above that travels alone.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec
import zstandard

from filesync.digest import Digest
from filesync.errors import MalformedManifest
from filesync.manifest.node import MAX_NODE_BYTES
from filesync.manifest.tree import Nodes, accept

PACK_BYTES: Final = 1 << 20
MAX_PACK_BYTES: Final = MAX_NODE_BYTES + PACK_BYTES

_Node = Annotated[bytes, msgspec.Meta(max_length=MAX_NODE_BYTES)]
_decoder: Final = msgspec.msgpack.Decoder(list[_Node])
_encoder: Final = msgspec.msgpack.Encoder()


def pack_nodes(nodes: Iterable[bytes]) -> Iterator[bytes]:
    """Yield packs that hold ``nodes`` in their order; none when there are none."""
    batch: list[bytes] = []
    size = 0
    for node in nodes:
        batch.append(node)
        size += len(node)
        if size >= PACK_BYTES:
            yield _pack(batch)
            batch, size = [], 0
    if batch:
        yield _pack(batch)


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
    pack = bytes(pack)
    try:
        # max_output_size does not bound a frame that states its size, so look first.
        size = zstandard.get_frame_parameters(pack).content_size
        if size > MAX_PACK_BYTES:
            raise MalformedManifest(f"a pack of nodes claims {size} bytes")
        data = zstandard.ZstdDecompressor().decompress(pack, allow_extra_data=False)
        return _decoder.decode(data)
    except (zstandard.ZstdError, msgspec.MsgspecError) as exc:
        raise MalformedManifest(f"not a pack of nodes: {exc}") from exc


def _pack(batch: list[bytes]) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(_encoder.encode(batch))
