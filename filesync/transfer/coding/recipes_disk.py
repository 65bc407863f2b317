"""Recipes of large files from one run of a command to the next, in a directory of their own.

What is wrong in them costs time or bytes, and nothing else: whatever is put together by a recipe is
proved as a whole. So they are not synced, and a damaged one is as good as none.
"""

import os
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_digest

from filesync.digest import Digest
from filesync.entropy import random_name
from filesync.surplus import surplus
from filesync.transfer.coding.chunking import MarkedRecipe
from filesync.transfer.coding.recipe import (
    MAX_RECIPE_BYTES,
    MIN_CHUNK_BYTES,
    NAME_BYTES,
    Recipe,
)

MAX_FILES: Final = 64
"""Of a recipe of 2 GiB it is 4 MB, so all of them have 270 MB at most, and 32 MB of 256 MiB each."""
_FORMAT: Final = b"filesync recipe2"
_CHECK_BYTES: Final = 8
KEY_BITS: Final = 64
"""Of the key of the marks."""
_KEY_BYTES: Final = KEY_BITS // 8
_MARK_BYTES: Final = 8
_CHUNK_BYTES: Final = 8 + NAME_BYTES + _MARK_BYTES
_MAX_BYTES: Final = 64 + MAX_RECIPE_BYTES // MIN_CHUNK_BYTES * _CHUNK_BYTES


class RecipeFiles:
    """Recipes below ``root``, which is made when there is one. For several processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def load(self, digest: Digest) -> MarkedRecipe | None:
        """Return the recipe of a content, if it is here."""
        try:
            with self._path(digest).open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError:
            return None
        body = memoryview(data)[len(_FORMAT) + _CHECK_BYTES :]
        head = _FORMAT + xxh3_64_digest(body)
        if not data.startswith(head) or len(body) % _CHUNK_BYTES != _KEY_BYTES:
            return None
        count = len(body) // _CHUNK_BYTES
        marks = array("Q", bytes(body[_KEY_BYTES : _KEY_BYTES + count * _MARK_BYTES]))
        recipe = Recipe.unpacked(body[_KEY_BYTES + count * _MARK_BYTES :])
        key = int.from_bytes(body[:_KEY_BYTES])
        return None if recipe is None else MarkedRecipe(recipe, key, marks)

    def save(self, digest: Digest, marked: MarkedRecipe) -> None:
        """Keep a recipe, and of the others those that were kept last. One that fails is not kept."""
        recipe, key, marks = marked
        body = key.to_bytes(_KEY_BYTES) + marks.tobytes() + recipe.packed()
        name = self._root / f".{random_name()}"
        with suppress(OSError):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                name.write_bytes(_FORMAT + xxh3_64_digest(body) + body)
                name.replace(self._path(digest))
            except OSError:
                name.unlink(missing_ok=True)
                raise
            for path in surplus(self._root, MAX_FILES):
                os.unlink(path)

    def _path(self, digest: Digest) -> Path:
        return self._root / digest.hex()
