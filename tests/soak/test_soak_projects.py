"""What ``make soak`` builds again and again comes out as it says, with nobody in trouble."""

import random
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.soak.builds import build
from tests.soak.left import left
from tests.soak.projects import Project


@pytest.mark.needs("root", "crun", "busybox")
def test_a_project_gives_what_it_says_and_something_else_when_it_has_changed(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "project", 0, random.Random(1))
    told = set()
    with Cluster(tmp_path / "cluster", workers=1) as cluster:
        for number in range(2):
            assert build(project, cluster.manager, tmp_path / f"out-{number}", None) == ""
            told.add(project.result())
            project.change()
    assert len(told) == 2
    assert left(tmp_path / "cluster") == []
