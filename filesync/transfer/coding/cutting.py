"""Cutting a file while a scan hashes it: it is read once, and both cores have something to do."""

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from filesync.digest import Digest
from filesync.transfer.coding.recipe import Cutter, Recipe, named
from filesync.transfer.coding.recipecache import RecipeCache


class Cutting:
    """Makes the recipe of one file; a ``filesync.disk.scanning.readfile.Beside``.

    Of 256 MiB hashing takes 60 ms, cutting 75 and naming 95 (one core): a thread cuts while the
    caller hashes, and both name.
    """

    def __init__(self, recipes: RecipeCache) -> None:
        """Let ``recipes`` have it, once it is whole."""
        self._recipes = recipes
        self._recipe = Recipe(0)
        self._cutter = Cutter()
        self._thread = ThreadPoolExecutor(1)
        self._pieces: Future[list[memoryview]] | None = None

    def begin(self, block: memoryview) -> None:
        """Cut ``block``, which comes next, beside what the caller does."""
        self._pieces = self._thread.submit(self._cutter.cut, block)

    def finish(self) -> None:
        """Return when the block is not needed any more."""
        assert self._pieces is not None
        pieces = self._pieces.result()
        half = len(pieces) // 2
        first = self._thread.submit(named, pieces[:half])
        rest = named(pieces[half:])
        for part in chain(first.result(), rest):
            self._recipe.add(part)

    def end(self, digest: Digest | None) -> None:
        """Keep what it came to, as the recipe of ``digest``; None if it is worth nothing."""
        self._thread.shutdown()
        if digest is not None:
            for part in named(self._cutter.rest()):
                self._recipe.add(part)
            self._recipes.note(digest, self._recipe)
