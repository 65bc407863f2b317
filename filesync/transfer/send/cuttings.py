"""Large files that a scan finds changed: cut while they are hashed, for who has them as they were."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filesync.digest import EMPTY, Digest

if TYPE_CHECKING:
    from filesync.transfer.coding.cutting import Cutting
    from filesync.transfer.coding.recipecache import RecipeCache
    from filesync.transfer.coding.remains import Remains

RECIPES: Final = "recipes"
"""The directory for them in one of caches."""
CUT_BYTES: Final = 1 << 20
"""Files from this size on are cut beside their scan: it takes a thread for each."""


OnCut = Callable[[bytes, Digest], None]
"""Told of a file, by path and what it held, while it is being cut: who has that does well to begin, too."""


class Cuttings:
    """Those of one scan. For several threads at once.

    Attributes:
        recipes: of what was cut; None as long as nothing was and nobody gave a place for them.
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
        self._caches = caches
        self._on_cut = on_cut
        self._lock = threading.Lock()

    def beside(self, path: bytes, old: Digest, size: int) -> "Cutting | None":
        """Return who is shown a file that had the ``old`` content, unless that is of no use."""
        from filesync.transfer.coding.recipe import MAX_RECIPE_BYTES

        if not CUT_BYTES <= size <= MAX_RECIPE_BYTES or old == EMPTY:
            return None
        from filesync.transfer.coding.cutting import Cutting
        from filesync.transfer.coding.recipecache import RecipeCache
        from filesync.transfer.coding.recipes_disk import RecipeFiles

        with self._lock:
            if self.recipes is None:
                self.recipes = RecipeCache()
        files = RecipeFiles(self._caches / RECIPES) if self._caches is not None else None
        cutting = Cutting(old, recipes=self.recipes, files=files, on_end=self.remains.append)
        if self._on_cut is not None and not cutting.knows_old:
            self._on_cut(path, old)
        return cutting
