import os
import random
from array import array
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.transfer.coding import chunking, cutting, kept_disk
from filesync.transfer.coding.chunking import MarkedRecipe
from filesync.transfer.coding.cutting import Cutting
from filesync.transfer.coding.recipe import MAX_CHUNK_BYTES, Part, Recipe
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.coding.recipes_disk import RecipeFiles
from filesync.transfer.coding.remains import Remains
from tests.unit.made import reader

RNG = random.Random(1)
PARTS = [Part(RNG.randrange(4096, 65_536), RNG.randbytes(16)) for _ in range(40)]
MADE = MarkedRecipe(Recipe(0, PARTS), 7, array("Q", range(40)))
A, B = digest_of(b"a"), digest_of(b"b")


@pytest.fixture
def files(tmp_path: Path) -> RecipeFiles:
    return RecipeFiles(tmp_path / "recipes")


def test_what_was_saved_is_loaded_by_another_process(
    files: RecipeFiles, tmp_path: Path
) -> None:
    files.save(A, MADE)
    loaded = RecipeFiles(tmp_path / "recipes").load(A)
    assert loaded is not None
    assert list(loaded.recipe) == PARTS
    assert loaded.key == MADE.key
    assert loaded.marks == MADE.marks
    assert files.load(B) is None
    assert os.listdir(tmp_path / "recipes") == [A.hex()]


def test_a_damaged_recipe_is_as_good_as_none(files: RecipeFiles, tmp_path: Path) -> None:
    files.save(A, MADE)
    path = tmp_path / "recipes" / A.hex()
    data = path.read_bytes()
    for at in range(0, len(data), 37):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert files.load(A) is None
        path.write_bytes(data[:at])
        assert files.load(A) is None


@pytest.mark.parametrize("length", [0, MAX_CHUNK_BYTES + 1])
def test_a_recipe_of_chunks_that_cannot_be_is_none(files: RecipeFiles, length: int) -> None:
    parts = [*PARTS, Part(length, bytes(16)), *PARTS]
    files.save(A, MarkedRecipe(Recipe(0, parts), 7, array("Q", range(len(parts)))))
    assert files.load(A) is None


def test_those_that_were_kept_last_stay(
    files: RecipeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_disk, "MAX_FILES", 3)
    digests = [digest_of(bytes([n])) for n in range(6)]
    for age, digest in enumerate(digests):
        files.save(digest, MADE)
        os.utime(tmp_path / "recipes" / digest.hex(), (age, age))
    files.save(A, MADE)
    assert set(os.listdir(tmp_path / "recipes")) == {d.hex() for d in (*digests[-2:], A)}


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = RecipeFiles(tmp_path / "file" / "recipes")
    files.save(A, MADE)
    assert files.load(A) is None


def test_a_cutting_leaves_the_recipe_to_this_process_and_the_next(files: RecipeFiles) -> None:
    old = RNG.randbytes(3 << 20)
    new = old[: 1 << 20] + b"inserted" + old[1 << 20 :]
    for content, before in ((old, A), (new, digest_of(old))):
        recipes = RecipeCache()
        one = Cutting(before, recipes=recipes, files=files)
        for at in range(0, len(content), 1 << 20):
            one.begin(memoryview(content)[at : at + (1 << 20)])
            one.finish()
        one.end(digest_of(content))
        made = list(chunking.cut(reader(content), 0, len(content)))
        noted = recipes.find(digest_of(content), 0, len(content))
        loaded = files.load(digest_of(content))
        assert noted is not None
        assert loaded is not None
        assert list(noted) == list(loaded.recipe) == made


def test_a_cutting_tells_what_remains_of_what_it_knew_unless_that_is_too_much(
    files: RecipeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = RNG.randbytes(1 << 20)
    new = bytearray(old)
    new[1 << 18] ^= 1
    new[1 << 19] ^= 1
    told: list[Remains] = []
    for most in (3, 2):
        monkeypatch.setattr(chunking, "MAX_RUNS", most)
        monkeypatch.setattr(cutting, "MAX_RUNS", most)
        for content, before in ((old, A), (new, digest_of(old))):
            one = Cutting(before, recipes=RecipeCache(), files=files, on_end=told.append)
            one.begin(memoryview(content))
            one.finish()
            one.end(digest_of(content))
    (remains,) = told  # of three runs
    assert (remains.digest, remains.old) == (digest_of(new), digest_of(old))
    assert len(remains.runs) == 3
    for offset, start, length in remains.runs:
        assert new[offset : offset + length] == old[start : start + length]


def test_marks_have_a_key_that_nobody_can_know(files: RecipeFiles) -> None:
    keys: set[int] = set()
    for _ in range(100):
        one = Cutting(A, recipes=RecipeCache(), files=files)
        one.begin(memoryview(b"content"))
        one.finish()
        one.end(B)
        loaded = files.load(B)
        assert loaded is not None
        keys.add(loaded.key)
    assert len(keys) == 100
    assert max(keys) > 1 << 56


def test_what_changed_while_it_was_cut_leaves_no_recipe(files: RecipeFiles) -> None:
    recipes = RecipeCache()
    one = Cutting(A, recipes=recipes, files=files)
    one.begin(memoryview(bytes(1000)))
    one.finish()
    one.end(None)
    assert files.load(A) is None
    assert recipes.find(A, 0, 1000) is None
