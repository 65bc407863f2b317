"""Files that are sent: what one peer asks for changes nothing of what others are told."""

import os
import random
from pathlib import Path

import pytest

from filesync.digest import digest_of
from filesync.disk.scanning.scan import scan
from filesync.manifest import Manifest, MemoryNodes
from filesync.process import descriptors
from filesync.process.descriptors import Quota
from filesync.transfer.coding import recipe
from filesync.transfer.coding.chunking import cut
from filesync.transfer.coding.recipecache import RecipeCache
from filesync.transfer.send import source_disk
from filesync.transfer.send.contents import Contents, directories_of
from filesync.transfer.send.source_disk import SourceTree
from filesync.transfer.wire import Level
from tests.unit.made import reader

DATA = random.Random(7).randbytes(1 << 20)
CONTENT = digest_of(DATA)
WHOLE = cut(reader(DATA), 0, len(DATA))


def source_of(root: Path, recipes: RecipeCache) -> SourceTree:
    nodes = MemoryNodes()
    (root / "file").write_bytes(DATA)
    manifest = Manifest(scan(root, nodes).tree, nodes)
    return SourceTree(root, lambda: Contents(nodes, directories_of(manifest)), recipes=recipes)


def asked(source: SourceTree, offset: int, end: int, level: Level) -> recipe.Recipe:
    payload = source.recipes([(CONTENT, offset, end, level)])
    return recipe.unpack(payload, [(offset, end, level)])[0]


@pytest.mark.parametrize("level", Level)
def test_who_asks_for_less_than_a_chunk_does_not_move_the_cuts_of_others(
    tmp_path: Path, level: Level
) -> None:
    source = source_of(tmp_path, RecipeCache())
    for offset, end in ((0, 100), (100, 20_000), (20_000, len(DATA))):
        source.recipes([(CONTENT, offset, end, level)])
    found = asked(source, 0, len(DATA), Level.CHUNKS)
    assert list(found) == list(WHOLE)
    source.close()


def test_what_was_cut_to_the_end_is_not_cut_again(tmp_path: Path) -> None:
    recipes = RecipeCache()
    source = source_of(tmp_path, recipes)
    first = WHOLE.beginning(9, len(DATA)).end
    asked(source, 0, len(DATA), Level.SEGMENTS)
    asked(source, 0, first, Level.CHUNKS)
    (tmp_path / "file").unlink()
    assert list(asked(source, 0, first, Level.CHUNKS)) == list(WHOLE)[:9]
    assert recipes.find(CONTENT, 0, len(DATA)) is not None
    source.close()


def test_trees_that_nobody_reads_any_more_do_not_hold_all_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "may_open", lambda: 1024)
    room = Quota(source_disk._IDLE_SHARE * (source_disk._HELD + 1))
    monkeypatch.setattr(source_disk, "_ROOM", room)
    for number in range(40):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/file").write_bytes(b"%d" % number)
    nodes = MemoryNodes()
    manifest = Manifest(scan(tmp_path, nodes).tree, nodes)
    ranges = [(digest_of(b"%d" % n), 0, len(b"%d" % n)) for n in range(40)]
    before = len(os.listdir("/proc/self/fd"))
    sources: list[SourceTree] = []
    for _ in range(30):
        sources.append(SourceTree(tmp_path, lambda: Contents(nodes, directories_of(manifest))))
        sources[-1].read(ranges)
        sources[-1].read(ranges)
    assert len(os.listdir("/proc/self/fd")) - before <= 256
    for source in sources:
        source.close()
    assert len(os.listdir("/proc/self/fd")) == before
    # Their room is there again.
    one = SourceTree(tmp_path, lambda: Contents(nodes, directories_of(manifest)))
    one.read(ranges)
    assert len(os.listdir("/proc/self/fd")) > before
    one.close()
