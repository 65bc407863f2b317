"""The recipes of contents that were cut or put together lately, by digest.

They are only ever a saving. Whoever puts a content together by one proves it as a whole, so a
recipe that is wrong costs bytes; it is to be forgotten then.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from filesync.digest import Digest
from filesync.transfer.coding.recipe import Recipe


class RecipeCache:
    """Recipes, those that were used last. For several threads at once."""

    MAX_CHUNKS: Final = 1 << 18
    """Of all of them together: of 4 GiB of content, in 7 MB of memory."""

    def __init__(self) -> None:
        self._recipes: OrderedDict[Digest, Recipe] = OrderedDict()
        self._chunks = 0
        self._making: dict[Digest, threading.Lock] = {}
        self._lock = threading.Lock()

    def note(self, digest: Digest, recipe: Recipe) -> None:
        """Keep what is known of a content now, with what was known of the bytes before it."""
        with self._lock:
            if (old := self._drop(digest)) is not None and old.end == recipe.start != old.start:
                recipe = _joined(old, recipe)
            self._recipes[digest] = recipe
            self._chunks += len(recipe)
            while self._chunks > self.MAX_CHUNKS:
                self._drop(next(iter(self._recipes)))

    def has(self, digest: Digest) -> bool:
        """Say whether some of a content was cut, or put together, lately."""
        with self._lock:
            return digest in self._recipes

    def find(self, digest: Digest, offset: int, end: int) -> Recipe | None:
        """Return the chunks of a content from ``offset`` to ``end``, if all of them are known."""
        with self._lock:
            recipe = self._recipes.get(digest)
            if recipe is None:
                return None
            self._recipes.move_to_end(digest)
        return recipe.between(offset, end)

    def made(self, digest: Digest, size: int, make: Callable[[], Recipe]) -> Recipe:
        """Return the recipe of a content of ``size`` bytes; ``make`` makes it, if it is not known.

        Whoever asks for it meanwhile waits.
        """
        with self._lock:
            making = self._making.setdefault(digest, threading.Lock())
        with making:
            try:
                known = self.find(digest, 0, size)
                if known is None:
                    known = make()
                    self.note(digest, known)
                return known
            finally:
                with self._lock:
                    self._making.pop(digest, None)

    def forget(self, digest: Digest) -> None:
        """Keep nothing of a content: what was known of it may be wrong."""
        with self._lock:
            self._drop(digest)

    def _drop(self, digest: Digest) -> Recipe | None:
        if (recipe := self._recipes.pop(digest, None)) is not None:
            self._chunks -= len(recipe)
        return recipe


def _joined(first: Recipe, following: Recipe) -> Recipe:
    # Others may be reading the first.
    both = Recipe(first.start)
    both.extend(first)
    both.extend(following)
    return both
