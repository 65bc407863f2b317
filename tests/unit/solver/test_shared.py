"""What the parts of a manager hold in common."""

from contextlib import closing
from pathlib import Path

from filesync.manifest import LayeredNodes, MemoryNodes
from filesync.trees.select import Pick, Selector, select
from solver.manager.cluster import Cluster
from solver.manager.records import Records
from solver.manager.shared import Shared
from tests.unit.solver.fakes import plant


def test_a_part_that_is_sent_to_a_worker_is_kept_and_nothing_else_of_it(tmp_path: Path) -> None:
    nodes = MemoryNodes()
    whole = plant(nodes, {"a/b/file": "x", "a/other": "y"})
    before = len(nodes)
    scratch = LayeredNodes(MemoryNodes(), nodes)
    part = select(whole, Selector((Pick("a/b/file"),)), scratch)
    assert part.tree not in nodes
    with closing(Records(tmp_path / "records.db")) as records:
        kept = Shared(Cluster(), records, nodes).keep(part)
    assert kept.tree == part.tree
    assert part.tree in nodes
    assert [path for path, _ in kept.walk()] == [b"a", b"a/b", b"a/b/file"]
    assert len(nodes) == before + 2  # the root and a, of which less is read
