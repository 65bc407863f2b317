"""A layer's tar again, out of its skeleton and a directory that has the contents."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from filesync.manifest import Manifest
from filesync.transfer.send.contents import Contents, directories_of
from filesync.transfer.send.source_disk import SourceTree
from worker.layers.skeleton import Content, Part

_PIECE_BYTES: Final = 1 << 20


def rebuilt_tar(parts: Iterable[Part], tree: Manifest, root: Path) -> Iterator[bytes]:
    """Yield the tar in pieces of at most 1 MiB; ``root`` holds ``tree``. Blocks.

    What is read is not verified: the digest of the whole tells whether it is right.

    Raises:
        BadSkeleton: what ``parts`` raises.
        NotOffered: a content is not in the tree.
        SourceChanged, Unavailable: a file is not what it was, or cannot be read.
    """
    source = SourceTree(root, lambda: Contents(tree.nodes, directories_of(tree)))
    source.load()
    buffer = bytearray()
    try:
        for part in parts:
            for piece in _pieces(part, source):
                if buffer and len(buffer) + len(piece) > _PIECE_BYTES:
                    yield bytes(buffer)
                    buffer.clear()
                buffer += piece
        if buffer:
            yield bytes(buffer)
    finally:
        source.close()


def _pieces(part: Part, source: SourceTree) -> Iterator[bytes | bytearray]:
    if not isinstance(part, Content):
        yield part
        return
    digest, size = part
    for at in range(0, size, _PIECE_BYTES):
        yield source.read([(digest, at, min(_PIECE_BYTES, size - at))])
