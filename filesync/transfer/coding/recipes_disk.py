"""Recipes of large files from one run of a command to the next, in a directory of their own.

What is wrong in them costs time or bytes, and nothing else: whatever is put together by a recipe is
proved as a whole.
"""

from array import array
from pathlib import Path
from typing import Final

from filesync.digest import Digest
from filesync.transfer.coding.chunking import MarkedRecipe
from filesync.transfer.coding.kept_disk import KEY_BITS, KeptFiles
from filesync.transfer.coding.recipe import (
    MAX_RECIPE_BYTES,
    MIN_CHUNK_BYTES,
    NAME_BYTES,
    Recipe,
)

_FORMAT: Final = b"filesync recipe2"
_KEY_BYTES: Final = KEY_BITS // 8
_MARK_BYTES: Final = 8
_CHUNK_BYTES: Final = 8 + NAME_BYTES + _MARK_BYTES
_MAX_BYTES: Final = _KEY_BYTES + MAX_RECIPE_BYTES // MIN_CHUNK_BYTES * _CHUNK_BYTES


class RecipeFiles:
    """Recipes below ``root``, which is made when there is one. For several processes at once."""

    def __init__(self, root: Path) -> None:
        self._files = KeptFiles(root, _FORMAT, _MAX_BYTES)

    def load(self, digest: Digest) -> MarkedRecipe | None:
        """Return the recipe of a content, if it is here."""
        body = self._files.load(digest)
        if body is None or len(body) % _CHUNK_BYTES != _KEY_BYTES:
            return None
        count = len(body) // _CHUNK_BYTES
        marks = array("Q", bytes(body[_KEY_BYTES : _KEY_BYTES + count * _MARK_BYTES]))
        recipe = Recipe.unpacked(body[_KEY_BYTES + count * _MARK_BYTES :])
        key = int.from_bytes(body[:_KEY_BYTES])
        return None if recipe is None else MarkedRecipe(recipe, key, marks)

    def save(self, digest: Digest, marked: MarkedRecipe) -> None:
        """Keep a recipe, and of the others those that were kept last. One that fails is not kept."""
        recipe, key, marks = marked
        self._files.save(digest, key.to_bytes(_KEY_BYTES) + marks.tobytes() + recipe.packed())
