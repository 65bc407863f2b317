"""Blobs that are passed on while they come."""

from collections.abc import Sequence
from functools import partial

from filesync.digest import Digest, short
from filesync.disk.content import read_piece
from filesync.errors import Unavailable
from filesync.manifest import File, Manifest
from filesync.transfer.errors import NotOffered
from filesync.transfer.wire import DeltaItem, Range, RecipeItem
from worker.blobs import BlobMissing, BlobStore
from worker.moving.passing import Passing


class PassedBlobs:
    """Blobs that are here or on their way: a ``Source``."""

    def __init__(self, passing: Passing, blobs: BlobStore, tree: Manifest) -> None:
        """What may be read are the files of the flat ``tree``, named by the hex of their sha256."""
        self._passing = passing
        self._blobs = blobs
        self._entries = {one.digest: one for one in tree.root.entries if isinstance(one, File)}

    @property
    def digests(self) -> list[str]:
        """What may be read, by sha256."""
        return [_digest(one) for one in self._entries.values()]

    async def come(self, ranges: Sequence[Range]) -> None:
        """Wait until ``ranges`` can be read.

        Raises:
            NotOffered: they are of nothing that may be read.
            Unavailable: they are not on their way here.
        """
        for content, offset, length in ranges:
            end = offset + length
            is_here = partial(self._has_come, self._find(content, end), content, end)
            await self._passing.until(is_here, content)

    def load(self) -> None:
        """Do nothing: there is nothing to list."""

    def read(self, ranges: Sequence[Range]) -> bytes:
        """Return the bytes of ``ranges``, which have come."""
        return b"".join([self._read(*one) for one in ranges])

    def recipes(self, items: Sequence[RecipeItem]) -> bytes:
        """Refuse: what is not whole cannot be cut."""
        raise Unavailable("layers that are on their way here are given as they come")

    def deltas(self, key: int, items: Sequence[DeltaItem], signatures: bytes) -> bytes:
        """Refuse: see ``recipes``."""
        raise Unavailable("layers that are on their way here are given as they come")

    def close(self) -> None:
        """Do nothing: nothing is held open."""

    def _has_come(self, blob: str, content: Digest, end: int) -> bool:
        file = self._passing.find(content)
        return blob in self._blobs or (file is not None and file.has(end))

    def _find(self, content: Digest, end: int) -> str:
        entry = self._entries.get(content)
        if entry is None or end > entry.size:
            raise NotOffered(f"content {short(content)} is not on offer up to {end}")
        return _digest(entry)

    def _read(self, content: Digest, offset: int, length: int) -> bytes:
        blob = self._find(content, offset + length)
        file = self._passing.find(content)
        data = b"" if file is None else file.read(offset, length)
        if not data:
            try:
                with self._blobs.open(blob) as stored:
                    data = read_piece(stored.fileno(), offset, length)
            except (BlobMissing, OSError) as exc:
                raise Unavailable(f"content {short(content)} is here no more") from exc
        if len(data) != length:
            raise Unavailable(f"content {short(content)} is here no more")
        return data


def _digest(entry: File) -> str:
    return f"sha256:{entry.name.decode()}"
