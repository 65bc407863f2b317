"""Where a pull's bytes come down."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from filesync.disk.updating.update import TreeUpdate
from filesync.errors import MalformedMessage
from filesync.transfer.coding import delta, edit
from filesync.transfer.coding.recipe import Part, name_of
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.receive.gaps import Old
from filesync.transfer.receive.landing_disk import Landing
from filesync.transfer.receive.units import Gap, Piece, Work
from tests.unit.update_driver import file, scanned, tree_of

SIZE = 100_000
NOISE = random.Random(1).randbytes(3 * SIZE)
DATA = NOISE[: 2 * SIZE] + bytes(SIZE) + NOISE[2 * SIZE :]


def test_of_an_answer_with_a_delta_that_is_none_nothing_is_written(tmp_path: Path) -> None:
    # A peer may make up what a gap has to be: written first, it would stay where zeros, which
    # come from elsewhere when this peer is left, are not written.
    tree = tree_of(file(b"a", DATA))
    update = TreeUpdate(tmp_path, basis=scanned(tmp_path), target=tree)
    update.prepare()
    (wanted,) = update.wanted()
    landing = Landing(update, RecipeCache())
    work = Work(wanted, is_delta=True)
    lie = random.Random(2).randbytes(SIZE)
    gaps = [
        Gap(
            wanted,
            work,
            at,
            SIZE,
            [Part(SIZE, name_of(lie))],
            (Old(0, 0, 1000),),
            delta.cut(bytes(1000), key=1),
        )
        for at in (SIZE, 2 * SIZE, 3 * SIZE)
    ]
    right = delta.encode(lie, b"", key=1)
    with pytest.raises(MalformedMessage):
        landing.rebuild(gaps, delta.join([right, right, b"?"]))
    for at in (SIZE, 0, 2 * SIZE, 3 * SIZE):
        landing.store_pieces([(Piece(work, at, SIZE), DATA[at : at + SIZE])])
    landing.finish(work)
    update.finish()
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_delta_that_makes_other_chunks_than_were_named_is_asked_for_again_alone(
    tmp_path: Path,
) -> None:
    tree = tree_of(file(b"a", NOISE))
    update = TreeUpdate(tmp_path, basis=scanned(tmp_path), target=tree)
    update.prepare()
    (wanted,) = update.wanted()
    landing = Landing(update, RecipeCache())
    work = Work(wanted, is_delta=True)
    parts = [NOISE[at : at + SIZE] for at in range(0, 3 * SIZE, SIZE)]
    gaps = [
        Gap(
            wanted,
            work,
            number * SIZE,
            SIZE,
            [Part(1000, name_of(part[:1000])), Part(SIZE - 1000, name_of(part[1000:]))],
            (Old(0, 0, 1000),),
            delta.cut(bytes(1000), key=1),
        )
        for number, part in enumerate(parts)
    ]
    lie = parts[1][:-1] + bytes([parts[1][-1] ^ 1])
    said = [delta.encode(part, b"", key=1) for part in (parts[0], lie, parts[2])]
    assert landing.rebuild(gaps, delta.join(said)) == [gaps[1]]
    landing.store_pieces([(Piece(work, SIZE, SIZE), parts[1])])
    landing.finish(work)
    update.finish()
    assert (tmp_path / "a").read_bytes() == NOISE


def test_an_edit_of_another_size_than_the_tree_says_is_left_alone(tmp_path: Path) -> None:
    content = b"x"
    tree = tree_of(replace(file(b"a", content), size=5), file(b"b", b"right"))
    update = TreeUpdate(tmp_path, basis=scanned(tmp_path), target=tree)
    update.prepare()
    lied, right = update.wanted()
    edits = {
        digest: edit.whole(digest, told)
        for digest, told in ((lied.digest, content), (right.digest, b"right"))
    }
    assert Landing(update, RecipeCache()).edit([lied, right], edits) == {right}
    update.abort()
    assert (tmp_path / "b").read_bytes() == b"right"
