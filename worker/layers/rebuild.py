"""A layer's tar again, out of its skeleton and trees that have the contents."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from blake3 import blake3

from filesync.digest import digest_of, short
from filesync.disk.updating.local import LocalTree
from filesync.errors import SourceChanged, StoreError, Unavailable
from filesync.transfer.errors import NotOffered
from filesync.transfer.send.contents import Contents, directories_of
from filesync.transfer.send.source_disk import SourceTree
from worker.layers.skeleton import Content, Part, Proved

_PIECE_BYTES: Final = 1 << 20
_NOT_THERE: Final = (NotOffered, SourceChanged, Unavailable)


class ContentGone(StoreError):
    """A content that was here is not any more, or has rotted. It can be had elsewhere."""

    code = "content-gone"


def rebuilt_tar(
    parts: Iterable[Part], trees: Sequence[LocalTree], *, proved: Proved | None = None
) -> Iterator[bytes]:
    """Yield the tar in pieces of at most 1 MiB; every content is verified on its way. Blocks.

    Contents that are verified before they are yielded are noted in ``proved``: all but large ones.

    Raises:
        BadSkeleton: what ``parts`` raises.
        ContentGone: none of ``trees`` has a content, as it should be. What was yielded is worth
            nothing.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(_opened(tree)) for tree in trees]
        gathered: list[bytes | bytearray] = []
        at = size = 0
        for part in parts:
            if proved is not None and isinstance(part, Content) and part.size <= _PIECE_BYTES:
                proved[at] = part
            at += _size(part)
            for piece in _pieces(part, sources):
                if gathered and size + len(piece) > _PIECE_BYTES:
                    yield b"".join(gathered)
                    gathered.clear()
                    size = 0
                gathered.append(piece)
                size += len(piece)
        if gathered:
            yield b"".join(gathered)


def _size(part: Part) -> int:
    return part.size if isinstance(part, Content) else len(part)


@contextmanager
def _opened(tree: LocalTree) -> Iterator[SourceTree]:
    manifest, root = tree
    source = SourceTree(root, lambda: Contents(manifest.nodes, directories_of(manifest)))
    try:
        source.load()
        yield source
    finally:
        source.close()


def _pieces(part: Part, sources: Sequence[SourceTree]) -> Iterable[bytes | bytearray]:
    if not isinstance(part, Content):
        return (part,)
    if part.size > _PIECE_BYTES:
        return _large(part, sources)
    for source in sources:
        with suppress(*_NOT_THERE):
            data = source.read([(part.digest, 0, part.size)])
            if digest_of(data) == part.digest:
                return (data,)
    raise _gone(part)


def _large(part: Content, sources: Sequence[SourceTree]) -> Iterator[bytes | bytearray]:
    """Yield a content from the first source that has it: it shows at its end if that has rotted."""
    digest, size = part
    for source in sources:
        hasher, at = blake3(), 0
        with suppress(*_NOT_THERE):
            while at < size:
                piece = source.read([(digest, at, min(_PIECE_BYTES, size - at))])
                hasher.update(piece)
                at += len(piece)
                yield piece
        if at:
            if hasher.digest() == digest:
                return
            break
    raise _gone(part)


def _gone(part: Content) -> ContentGone:
    return ContentGone(f"content {short(part.digest)} is not here any more as it was")
