import random
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pytest

from filesync.digest import Digest, digest_of
from filesync.errors import StoreError
from filesync.transfer.coding.recipe import Part, Recipe
from filesync.transfer.coding.recipecache import RecipeCache

RNG = random.Random(1)
PARTS = [Part(RNG.randrange(4096, 65_536), RNG.randbytes(16)) for _ in range(40)]
ENDS = [*accumulate(part.length for part in PARTS)]
A, B, C = (digest_of(name) for name in (b"a", b"b", b"c"))


def found_in(
    cache: RecipeCache, offset: int, end: int, digest: Digest = A
) -> list[Part] | None:
    chunks = cache.find(digest, offset, end)
    return None if chunks is None else list(chunks)


def test_what_was_noted_is_found_and_nothing_else() -> None:
    cache = RecipeCache()
    assert cache.find(A, 0, ENDS[-1]) is None
    cache.note(A, Recipe(0, PARTS))
    assert found_in(cache, 0, ENDS[-1]) == PARTS
    assert found_in(cache, ENDS[3], ENDS[9]) == PARTS[4:10]
    assert cache.find(A, 0, ENDS[-1] + 1) is None
    assert cache.find(B, 0, ENDS[-1]) is None


def test_stretches_that_follow_each_other_become_one() -> None:
    cache = RecipeCache()
    cache.note(A, Recipe(0, PARTS[:10]))
    cache.note(A, Recipe(ENDS[9], PARTS[10:30]))
    cache.note(A, Recipe(ENDS[29], PARTS[30:]))
    assert found_in(cache, 0, ENDS[-1]) == PARTS


def test_a_stretch_from_elsewhere_takes_the_place_of_what_was_known() -> None:
    cache = RecipeCache()
    cache.note(A, Recipe(0, PARTS[:10]))
    cache.note(A, Recipe(ENDS[19], PARTS[20:]))
    assert cache.find(A, 0, ENDS[9]) is None
    assert found_in(cache, ENDS[19], ENDS[-1]) == PARTS[20:]


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = RecipeCache()
    many = Recipe(0, [Part(5000, bytes(16))] * (RecipeCache.MAX_CHUNKS // 2))
    cache.note(A, many)
    cache.note(B, many)
    assert cache.find(A, 0, 5000) is not None
    cache.note(C, Recipe(0, PARTS))
    assert cache.find(B, 0, 5000) is None
    assert cache.find(A, 0, 5000) is not None
    assert found_in(cache, 0, ENDS[-1], C) == PARTS


def test_one_that_is_larger_than_all_may_be_is_not_kept() -> None:
    cache = RecipeCache()
    cache.note(A, Recipe(0, [Part(5000, bytes(16))] * (RecipeCache.MAX_CHUNKS + 1)))
    assert cache.find(A, 0, 5000) is None
    cache.note(B, Recipe(0, PARTS))
    assert found_in(cache, 0, ENDS[-1], B) == PARTS


def test_what_is_forgotten_is_gone() -> None:
    cache = RecipeCache()
    cache.note(A, Recipe(0, PARTS))
    cache.forget(A)
    cache.forget(B)
    assert cache.find(A, 0, ENDS[-1]) is None


def test_what_one_makes_others_wait_for() -> None:
    cache = RecipeCache()
    begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def make() -> Recipe:
        made.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(10)
        return Recipe(0, PARTS)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cache.made, A, ENDS[-1], make)
        assert begun.wait(10)
        others = [pool.submit(cache.made, A, ENDS[-1], make) for _ in range(3)]
        assert list(cache.made(B, ENDS[9], lambda: Recipe(0, PARTS[:10]))) == PARTS[:10]
        go_on.set()
        for one in (first, *others):
            assert list(one.result(10)) == PARTS
    assert len(made) == 1


def test_what_could_not_be_made_is_made_by_the_next_who_asks() -> None:
    cache = RecipeCache()

    def fail() -> Recipe:
        raise StoreError("no disk")

    with pytest.raises(StoreError):
        cache.made(A, ENDS[-1], fail)
    assert list(cache.made(A, ENDS[-1], lambda: Recipe(0, PARTS))) == PARTS
    assert found_in(cache, 0, ENDS[-1]) == PARTS
