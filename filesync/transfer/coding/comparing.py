"""Comparing a file with what it was while a scan hashes it, and marking it for the next time."""

from collections.abc import Callable

from filesync.digest import Digest
from filesync.process.entropy import random_bits
from filesync.transfer.coding.blocks import Blocking, Blocks, Follower
from filesync.transfer.coding.blocks_disk import BlockFiles
from filesync.transfer.coding.kept_disk import KEY_BITS
from filesync.transfer.coding.recipe import MAX_RECIPE_BYTES
from filesync.transfer.coding.remains import Remains
from filesync.transfer.coding.threaded import Threaded


class Comparing(Threaded):
    """Marks one file, and finds what it has of what it held."""

    def __init__(
        self,
        files: BlockFiles,
        old: Digest,
        known: Blocks | None,
        size: int,
        on_end: Callable[[Remains], None],
    ) -> None:
        """Let ``files`` have its blocks once it is whole.

        The file was ``old`` before, and has ``size`` bytes now. Where the blocks that it had are
        ``known``, ``on_end`` is told what it still has of them.
        """
        super().__init__()
        self._files = files
        self._old = old
        self._on_end = on_end
        self._blocking = Blocking(random_bits(KEY_BITS), size)
        self._follower = None if known is None else Follower(known)

    def look_at(self, block: memoryview) -> None:
        """Mark and compare what comes next."""
        self._blocking.add(block)
        if self._follower is not None:
            self._follower.add(block)

    def keep(self, digest: Digest) -> None:
        """Keep the blocks, and tell what was found.

        Of a file in which nothing was found none are kept, if it can be cut: so it is the next time, and
        is known by its recipe from then on.
        """
        blocks = self._blocking.end()
        runs = self._follower.end() if self._follower is not None else []
        if self._follower is None or runs or blocks.size > MAX_RECIPE_BYTES:
            self._files.save(digest, blocks)
        if runs:
            self._on_end(Remains(digest, self._old, tuple(runs)))
