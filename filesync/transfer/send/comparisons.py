"""Large files that a scan reads: looked at while they are hashed, for who has them as they were.

Of one that is new, or too large to be cut, the blocks are marked. One that has changed is compared with
what it was by these, or else cut.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filesync.digest import EMPTY, Digest

if TYPE_CHECKING:
    from filesync.disk.scanning.watcher import Beside
    from filesync.transfer.coding.comparing import Comparing
    from filesync.transfer.coding.cutting import Cutting
    from filesync.transfer.coding.recipecache import RecipeCache
    from filesync.transfer.coding.remains import Remains

BLOCKS: Final = "blocks"
RECIPES: Final = "recipes"
"""The directories for them in one of caches."""
CUT_BYTES: Final = 1 << 20
"""Files from this size on are looked at: to cut one takes a thread."""


OnCut = Callable[[bytes, Digest], None]
"""Told of a file, by path and what it held, while it is being cut: who has that does well to begin, too."""


class Comparisons:
    """Those of one scan. For several threads at once.

    Attributes:
        recipes: of what was cut; None as long as no file has changed and nobody gave a place for them.
        remains: what is left in it of what was there before, where that is known.
    """

    def __init__(
        self,
        caches: Path | None,
        recipes: "RecipeCache | None" = None,
        *,
        on_cut: OnCut | None = None,
    ) -> None:
        """Keep what comes of it in ``caches``, from one scan to the next, and in ``recipes``.

        ``on_cut`` is told of files of which it is not known what remains, by any thread.
        """
        self.recipes = recipes
        self.remains: list[Remains] = []
        self._compared: list[Digest] = []  # those of remains that can be cut, and were not
        self._caches = caches
        self._on_cut = on_cut
        self._marked = 0
        self._lock = threading.Lock()

    def beside(self, path: bytes, old: Digest, fd: int, size: int) -> "Beside | None":
        """Return who is shown a file that had the ``old`` content, unless that is of no use."""
        if size < CUT_BYTES:
            return None
        from filesync.transfer.coding.recipe import MAX_RECIPE_BYTES

        if (following := self._following(old, fd, size)) is not None:
            return following
        if old == EMPTY or size > MAX_RECIPE_BYTES:
            return self._marking(old, size)
        return self._cutting(path, old)

    def close(self) -> None:
        """Keep no blocks of what had to be cut nevertheless, and can be; nobody takes any more.

        Who takes it had something else than was scanned before, as one of two that are given to in
        turns has: the next time it is cut while it is hashed.
        """
        from filesync.transfer.coding.blocks_disk import BlockFiles

        if self._caches is None or self.recipes is None:
            return
        files = BlockFiles(self._caches / BLOCKS)
        for digest in filter(self.recipes.has, self._compared):
            files.forget(digest)

    def _following(self, old: Digest, fd: int, size: int) -> "Comparing | None":
        """Return who compares a file with the blocks that it had, where they are known and of use."""
        if self._caches is None or old == EMPTY:
            return None
        from filesync.transfer.coding.blocks import seems_in_order
        from filesync.transfer.coding.blocks_disk import BlockFiles
        from filesync.transfer.coding.comparing import Comparing
        from filesync.transfer.coding.recipe import MAX_RECIPE_BYTES
        from filesync.transfer.coding.remains import MAX_BYTES

        files = BlockFiles(self._caches / BLOCKS)
        known = files.load(old) if size <= MAX_BYTES else None
        if known is None or not seems_in_order(known, size, partial(_pread, fd)):
            return None
        self._made_recipes()
        on_end = self._note_compared if size <= MAX_RECIPE_BYTES else self.remains.append
        return Comparing(files, old, known, size, on_end)

    def _marking(self, old: Digest, size: int) -> "Comparing | None":
        """Return who marks the blocks of a file, unless so many are that the first would not be kept."""
        from filesync.transfer.coding.blocks_disk import BlockFiles
        from filesync.transfer.coding.comparing import Comparing
        from filesync.transfer.coding.kept_disk import MAX_FILES
        from filesync.transfer.coding.remains import MAX_BYTES

        if self._caches is None or size > MAX_BYTES:
            return None
        with self._lock:
            self._marked += 1
            if self._marked > MAX_FILES:
                return None
        files = BlockFiles(self._caches / BLOCKS)
        return Comparing(files, old, None, size, self.remains.append)

    def _note_compared(self, remains: "Remains") -> None:
        self.remains.append(remains)
        self._compared.append(remains.digest)

    def _cutting(self, path: bytes, old: Digest) -> "Cutting":
        from filesync.transfer.coding.cutting import Cutting
        from filesync.transfer.coding.recipes_disk import RecipeFiles

        recipes = self._made_recipes()
        files = RecipeFiles(self._caches / RECIPES) if self._caches is not None else None
        cutting = Cutting(old, recipes=recipes, files=files, on_end=self.remains.append)
        if self._on_cut is not None and not cutting.knows_old:
            self._on_cut(path, old)
        return cutting

    def _made_recipes(self) -> "RecipeCache":
        from filesync.transfer.coding.recipecache import RecipeCache

        with self._lock:
            if self.recipes is None:
                self.recipes = RecipeCache()
            return self.recipes


def _pread(fd: int, offset: int, length: int) -> bytes:
    return os.pread(fd, length, offset)
