"""Cutting a file while a scan hashes it: it is read once, and both cores have something to do."""

from concurrent.futures import Future, ThreadPoolExecutor

from filesync.digest import Digest
from filesync.transfer.coding.recipe import Cutter, Part, Recipe
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.coding.recipes_disk import RecipeFiles


class Cutting:
    """Makes the recipe of one file; a ``filesync.disk.scanning.readfile.Beside``."""

    def __init__(
        self, old: Digest, *, recipes: RecipeCache, files: RecipeFiles | None = None
    ) -> None:
        """Let ``recipes``, and ``files``, have it once it is whole; the file was ``old`` before."""
        self._recipes = recipes
        self._files = files
        self._recipe = Recipe(0)
        self._cutter = Cutter(files.load(old) if files is not None else None)
        self._thread = ThreadPoolExecutor(1)
        self._parts: Future[list[Part]] | None = None

    def begin(self, block: memoryview) -> None:
        """Cut ``block``, which comes next, beside what the caller does."""
        self._parts = self._thread.submit(self._cutter.cut, block)

    def finish(self) -> None:
        """Return when the block is not needed any more."""
        assert self._parts is not None
        for part in self._parts.result():
            self._recipe.add(part)

    def end(self, digest: Digest | None) -> None:
        """Keep what it came to, as the recipe of ``digest``; None if it is worth nothing."""
        self._thread.shutdown()
        if digest is not None:
            for part in self._cutter.rest():
                self._recipe.add(part)
            self._recipes.note(digest, self._recipe)
            if self._files is not None:
                self._files.save(digest, self._recipe)
