"""A copy of a context in which little has changed: made on the result of the last one."""

import json
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from worker.earlier import LOOKED_AT, MAX_STACKED

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root")

TEXT = "FROM scratch\nWORKDIR /app\nCOPY src .\n"
FILES = {f"src__d{n % 10}__f{n}": os.urandom(20_000) for n in range(100)}
"""Two megabytes."""


@pytest.fixture
def one(clusters: Callable[..., Cluster]) -> Cluster:
    return clusters("one", workers=1)


def results_bytes(cluster: Cluster) -> float:
    """Return what all results take, as `du` has it."""
    done = run("du", "--manager", cluster.manager)
    found = re.search(r"│ results +│ +\d+ │ +([\d.]+) ([kMG]?)B", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) * {"": 1, "k": 1e3, "M": 1e6}[found[2]]


def most_stacked(cluster: Cluster) -> int:
    """Return how many snapshots the deepest one stands on, itself among them."""
    with closing(sqlite3.connect(cluster.root / "w1/snapshots/snapshots.db")) as db:
        rows = dict(db.execute("SELECT number, parent FROM snapshots").fetchall())
    depths = {0: 0}
    for number in sorted(rows):
        depths[number] = depths[rows[number] or 0] + 1
    return max(depths.values())


def exported(cluster: Cluster, root: Path, out: Path) -> dict[str, tuple[bytes, int, int]]:
    """Build, and return content, mode and mtime of each file of the result."""
    assert cluster.build(root, "-o", f"type=local,dest={out}").status == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    stats = [path.stat() for path in files]
    return {
        str(path.relative_to(out)): (path.read_bytes(), status.st_mode, status.st_mtime_ns)
        for path, status in zip(files, stats, strict=True)
    }


def test_a_copy_in_which_little_has_changed_takes_little_and_is_the_same_as_elsewhere(
    one: Cluster, clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, **FILES)
    one.build(root)
    before = results_bytes(one)
    assert before >= 2e6
    (root / "src/d7/f7").write_text("edited")
    (root / "src/d3/f3").unlink()
    (root / "src/d10").mkdir()
    (root / "src/d10/new").write_text("new")
    shutil.rmtree(root / "src/d5")
    (root / "src/d5").write_text("a file now")
    (root / "src/d6/f6").unlink()
    (root / "src/d6/f6/below").mkdir(parents=True)
    (root / "src/d6/f6/below/f").write_text("below a directory now")
    again = exported(one, root, tmp_path / "again")
    assert results_bytes(one) - before < 2e5
    assert again == exported(clusters("fresh", workers=1), root, tmp_path / "whole")
    assert again["app/d7/f7"][0] == b"edited"
    assert "app/d3/f3" not in again


def test_its_layer_is_the_one_that_it_is_elsewhere_and_makes_the_same_tree_there(
    clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    text = "FROM scratch AS make\nCOPY src /app\nFROM make AS take\nCOPY Dockerfile /more\n"
    root = context(text, **FILES)
    two = clusters("two")
    places = ("--place", "make=name=w1", "--place", "take=name=w2")
    two.build(root, *places)
    (root / "src/d7/f7").write_text("edited")
    shutil.rmtree(root / "src/d5")
    images = []
    for cluster in (two, clusters("fresh")):
        epoch = ("--build-arg", "SOURCE_DATE_EPOCH=1000000")
        metadata = tmp_path / "metadata.json"
        output = f"type=oci,rewrite-timestamp=true,dest={tmp_path / 'image.tar'}"
        done = cluster.build(
            root, *places, *epoch, "-o", output, "--metadata-file", str(metadata)
        )
        assert done.status == 0
        images.append(json.loads(metadata.read_text())["containerimage.digest"])
    assert most_stacked(two) == 2
    assert images[0] == images[1]


def test_the_owner_is_looked_up_in_what_is_copied_onto(
    one: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    text = "FROM scratch\nCOPY passwd /etc/passwd\nCOPY --chown=me src /app\n"
    root = context(text, passwd="me:x:7:8::/:\n", **FILES)
    one.build(root)
    before = results_bytes(one)
    (root / "src/d7/f7").write_text("edited")
    out = tmp_path / "out.tar"
    assert one.build(root, "-o", f"type=tar,dest={out}").status == 0
    assert results_bytes(one) - before < 2e5
    with tarfile.open(out) as tar:
        owners = {(one.uid, one.gid) for one in tar if one.name.startswith("app/d")}
    assert owners == {(7, 8)}


def test_results_are_pruned_though_one_stands_on_the_other(
    one: Cluster, context: ContextMaker
) -> None:
    root = context(TEXT, **FILES)
    one.build(root)
    (root / "src/d7/f7").write_text("edited")
    one.build(root)
    assert most_stacked(one) == 3
    done = run("prune", "--force", "--manager", one.manager)
    assert done.returncode == 0
    assert "kept" not in done.stdout
    assert not list((one.root / "w1/snapshots/trees").glob("[1-9]*"))
    assert one.build(root).totals["steps_run"] == 3


def test_copies_do_not_stack_up_without_end(one: Cluster, context: ContextMaker) -> None:
    root = context(TEXT, **FILES)
    for number in range(MAX_STACKED + LOOKED_AT + 1):
        (root / "src/d7/f7").write_text(str(number))
        assert one.build(root).step("COPY src")["cached"] is False
    # All is there twice: from the first time, and from the last, when so many stood on that.
    assert most_stacked(one) == MAX_STACKED + 2
    assert 4e6 < results_bytes(one) < 5e6


def test_a_worker_that_starts_again_goes_on_with_what_it_has(
    one: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(TEXT, **FILES)
    one.build(root)
    (root / "src/d7/f7").write_text("edited")
    one.build(root)
    one.kill("w1")
    one.start_worker("w1")
    one.wait_for_workers()
    before = results_bytes(one)
    (root / "src/d7/f7").write_text("edited again")
    assert exported(one, root, tmp_path / "out")["app/d7/f7"][0] == b"edited again"
    assert results_bytes(one) - before < 2e5
