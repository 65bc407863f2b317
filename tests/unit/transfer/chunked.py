"""A content, and what it is cut into."""

import random
from typing import Final

from filesync.transfer.coding import chunking
from filesync.transfer.coding.recipe import Part, Recipe
from tests.unit.made import reader


def recipe_of(data: bytes, offset: int = 0) -> Recipe:
    return chunking.cut(reader(data), offset, len(data))


def chunks_of(data: bytes, offset: int = 0) -> list[Part]:
    return list(recipe_of(data, offset))


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


LONG: Final = random_bytes(9 << 20)
CHUNKS: Final = chunks_of(LONG)
SEGMENTS: Final = list(Recipe(0, CHUNKS).segments())
