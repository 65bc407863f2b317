"""What ``make soak`` copies after edits comes out as it says, and is made on what was copied before."""

import random
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.soak.builds import build
from tests.soak.edits import EditedProject, made_on_others
from tests.soak.left import left

PLACES = ("--place", "make=name=w1", "--place", "take=name=w2")


@pytest.mark.needs("root", "crun", "busybox")
def test_a_copy_after_an_edit_is_made_on_the_last_one_and_is_what_the_project_says(
    tmp_path: Path,
) -> None:
    project = EditedProject(tmp_path / "project", 0, random.Random(1))
    with Cluster(tmp_path / "cluster", workers=2) as cluster:
        for number in range(3):
            out = tmp_path / f"out-{number}"
            assert build(project, cluster.manager, out, None, *PLACES) == ""
            project.change()
            assert project.wrong(out) != ""
        assert made_on_others(cluster.root / "w1") >= 1
        assert made_on_others(cluster.root / "w2") == 0
    assert left(tmp_path / "cluster") == []
