"""Cutting a file while a scan hashes it."""

from collections.abc import Callable

from filesync.digest import Digest
from filesync.process.entropy import random_bits
from filesync.transfer.coding.chunking import Cutter, MarkedRecipe
from filesync.transfer.coding.kept_disk import KEY_BITS
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.coding.recipes_disk import RecipeFiles
from filesync.transfer.coding.remains import MAX_RUNS, Remains
from filesync.transfer.coding.threaded import Threaded


class Cutting(Threaded):
    """Makes the recipe of one file.

    Attributes:
        knows_old: it will be known what the file still has of what it held.
    """

    def __init__(
        self,
        old: Digest,
        *,
        recipes: RecipeCache,
        files: RecipeFiles | None,
        on_end: Callable[[Remains], None] = lambda _: None,
    ) -> None:
        """Let ``recipes``, and ``files``, have it once it is whole; the file was ``old`` before.

        ``on_end`` is told then what it has of that, if anything, and if ``files`` knew it.
        """
        super().__init__()
        self._old = old
        self._on_end = on_end
        self._recipes = recipes
        self._files = files
        known = None if files is None else files.load(old)
        self.knows_old = known is not None
        if files is not None and known is None:
            known = MarkedRecipe.empty(random_bits(KEY_BITS))
        self._cutter = Cutter(old=known)

    def look_at(self, block: memoryview) -> None:
        """Cut what comes next."""
        self._cutter.cut(block)

    def keep(self, digest: Digest) -> None:
        """Keep the recipe, and tell what remains."""
        self._cutter.end()
        self._recipes.note(digest, self._cutter.recipe)
        if self._files is not None:
            self._files.save(digest, self._cutter.marked)
        if 0 < len(self._cutter.remains) <= MAX_RUNS:
            self._on_end(Remains(digest, self._old, tuple(self._cutter.remains)))
