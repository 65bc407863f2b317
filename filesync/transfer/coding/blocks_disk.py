"""Blocks of large files from one run of a command to the next, in a directory of their own.

What is wrong in them costs bytes, and nothing else, as with recipes. They are 6 MB at most.
"""

from array import array
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.transfer.coding.blocks import MOST_BLOCKS, NEEDLE_BYTES, Blocks, block_bytes_of
from filesync.transfer.coding.kept_disk import KeptFiles
from filesync.transfer.coding.remains import MAX_BYTES

_FORMAT: Final = b"filesync blocks1"
_NUMBER_BYTES: Final = 8
_HEAD_BYTES: Final = 2 * _NUMBER_BYTES
_MAX_BYTES: Final = _HEAD_BYTES + MOST_BLOCKS * (_NUMBER_BYTES + NEEDLE_BYTES)


class BlockFiles:
    """Blocks below ``root``, which is made when there are some. For several processes at once."""

    def __init__(self, root: Path) -> None:
        self._files = KeptFiles(root, _FORMAT, _MAX_BYTES)

    def load(self, digest: Digest) -> Blocks | None:
        """Return the blocks of a content, if they are here."""
        body = self._files.load(digest)
        if body is None or len(body) < _HEAD_BYTES:
            return None
        key, size = (int.from_bytes(body[at : at + _NUMBER_BYTES]) for at in (0, _NUMBER_BYTES))
        count = -(-size // block_bytes_of(size))
        if size > MAX_BYTES or len(body) != _HEAD_BYTES + count * (
            _NUMBER_BYTES + NEEDLE_BYTES
        ):
            return None
        needles = _HEAD_BYTES + count * _NUMBER_BYTES
        marks = array("Q", bytes(body[_HEAD_BYTES:needles]))
        return Blocks(key, size, marks, bytes(body[needles:]))

    def save(self, digest: Digest, blocks: Blocks) -> None:
        """Keep blocks, and of the others those that were kept last. What fails is not kept."""
        key, size, marks, needles = blocks
        head = key.to_bytes(_NUMBER_BYTES) + size.to_bytes(_NUMBER_BYTES)
        self._files.save(digest, head + marks.tobytes() + needles)

    def forget(self, digest: Digest) -> None:
        """Keep no blocks of a content."""
        self._files.forget(digest)
