import os
import random
from pathlib import Path

import pytest

from filesync.digest import EMPTY, Digest, digest_of
from filesync.disk.scanning.readfile import read_file
from filesync.transfer.coding import comparing, kept_disk, recipe
from filesync.transfer.coding.recipe import Recipe
from filesync.transfer.coding.remains import MAX_BYTES
from filesync.transfer.send.comparisons import BLOCKS, CUT_BYTES, RECIPES, Comparisons

LARGE = random.Random(5).randbytes(3 << 20)
MOVED = LARGE[1 << 20 :] + LARGE[: 1 << 20]


class Scans:
    """Scans of one file, each of which knows what it held at the one before."""

    def __init__(self, root: Path) -> None:
        self.path = root / "f"
        self.caches = root / "caches"
        self.cut: list[Digest] = []
        self._old = EMPTY

    def scan(self, content: bytes) -> Comparisons:
        """Scan the file when it holds ``content``."""
        self.path.write_bytes(content)
        found = Comparisons(self.caches, on_cut=lambda _, old: self.cut.append(old))
        dirfd = os.open(self.path.parent, os.O_RDONLY)
        try:
            read_file(
                dirfd, b"f", b"f", lambda fd, size: found.beside(b"f", self._old, fd, size)
            )
        finally:
            os.close(dirfd)
        self._old = digest_of(content)
        return found


@pytest.fixture
def scans(tmp_path: Path) -> Scans:
    return Scans(tmp_path)


def test_what_remains_of_a_file_is_known_when_it_has_changed_for_the_first_time(
    scans: Scans,
) -> None:
    assert not scans.scan(LARGE).remains
    old = LARGE
    for number in range(3):
        new = old[:1_000_000] + b"inserted %d" % number + old[1_000_000:]
        found = scans.scan(new)
        (remains,) = found.remains
        assert (remains.digest, remains.old) == (digest_of(new), digest_of(old))
        assert sum(run.length for run in remains.runs) > len(old) - 50_000
        assert found.recipes is not None
        assert not found.recipes.has(digest_of(new))
        old = new
    assert not scans.cut


def test_one_whose_parts_were_moved_is_cut_and_who_has_it_is_told_the_first_time(
    scans: Scans,
) -> None:
    scans.scan(LARGE)
    found = scans.scan(MOVED)
    assert found.recipes is not None
    assert not found.remains
    assert scans.cut == [digest_of(LARGE)]
    (remains,) = scans.scan(LARGE).remains
    assert remains.old == digest_of(MOVED)
    assert len(scans.cut) == 1


def test_one_in_which_nothing_was_found_is_cut_from_the_next_time_on(scans: Scans) -> None:
    scans.scan(LARGE)
    end = LARGE[-100_000:]  # as it was: so it seems to be in its order
    contents = [MOVED[at:] + MOVED[:at] + end for at in (0, 500_000, 900_000, 1_700_000)]
    assert not scans.scan(contents[0]).remains
    assert not scans.cut
    assert not scans.scan(contents[1]).remains
    assert scans.cut == [digest_of(contents[0])]
    for content in contents[2:]:
        (remains,) = scans.scan(content).remains
        assert sum(run.length for run in remains.runs) > 0.8 * len(LARGE)
    assert len(scans.cut) == 1


def test_one_whose_recipe_was_asked_for_is_cut_from_the_next_time_on(scans: Scans) -> None:
    scans.scan(LARGE)
    found = scans.scan(LARGE + b"more")
    assert found.remains
    assert found.recipes is not None
    found.recipes.note(digest_of(LARGE + b"more"), Recipe(0))
    found.close()
    scans.scan(LARGE + b"and more")
    assert scans.cut == [digest_of(LARGE + b"more")]
    assert scans.scan(LARGE + b"and even more").remains
    assert len(scans.cut) == 1


def test_one_of_which_nothing_is_known_is_cut(scans: Scans) -> None:
    scans.scan(LARGE)
    for path in (scans.caches / BLOCKS).iterdir():
        path.write_bytes(b"damaged")
    assert not scans.scan(LARGE + b"more").remains
    assert scans.cut == [digest_of(LARGE)]


def test_of_many_new_files_no_more_are_marked_than_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_disk, "MAX_FILES", 3)
    found = Comparisons(tmp_path)
    looks = [found.beside(b"f", EMPTY, -1, CUT_BYTES) for _ in range(5)]
    assert [one is not None for one in looks] == [True] * 3 + [False] * 2
    for one in looks:
        if one is not None:
            one.end(None)


@pytest.mark.parametrize("size", [CUT_BYTES - 1, MAX_BYTES + 1])
def test_files_that_are_too_small_or_too_large_are_not_looked_at(
    tmp_path: Path, size: int
) -> None:
    for old in (EMPTY, digest_of(LARGE)):
        assert Comparisons(tmp_path).beside(b"f", old, -1, size) is None


def test_one_that_is_too_large_for_a_recipe_is_compared_if_its_blocks_are_known(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "MAX_RECIPE_BYTES", len(LARGE))
    scans.scan(LARGE)
    assert scans.scan(LARGE[:9] + b"inserted" + LARGE[9:]).remains
    assert not scans.scan(b"moved" + MOVED).remains
    assert not scans.cut


def test_one_that_is_too_large_for_a_recipe_is_marked_again_whatever_is_known_of_it(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans.scan(LARGE)
    for module in (recipe, comparing):
        monkeypatch.setattr(module, "MAX_RECIPE_BYTES", CUT_BYTES)
    for path in (scans.caches / BLOCKS).iterdir():
        path.unlink()
    for content in (LARGE, MOVED):
        assert not scans.scan(content + b"more").remains
        found = scans.scan(content + b"and more")
        assert found.remains
        assert found.recipes is not None
        found.recipes.note(digest_of(content + b"and more"), Recipe(0))
        found.close()
        assert scans.scan(content + b"and even more").remains
    assert not scans.cut


def test_where_nothing_is_kept_new_files_are_not_marked_and_others_are_cut(
    scans: Scans,
) -> None:
    found = Comparisons(None)
    assert found.beside(b"f", EMPTY, -1, len(LARGE)) is None
    cutting = found.beside(b"f", digest_of(LARGE), -1, len(LARGE))
    assert cutting is not None
    cutting.end(None)


def test_what_changes_while_it_is_read_is_not_kept(scans: Scans) -> None:
    for old, held in ((EMPTY, BLOCKS), (digest_of(MOVED), RECIPES)):
        scans.path.write_bytes(LARGE)
        fd = os.open(scans.path, os.O_RDONLY)
        one = Comparisons(scans.caches).beside(b"f", old, fd, len(LARGE))
        os.close(fd)
        assert one is not None
        one.begin(memoryview(LARGE))
        one.finish()
        one.end(None)
        assert not (scans.caches / held).exists()
