"""Whatever is killed, at whatever moment: what was finished is kept, what was begun is gone."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import BuildRun, Cluster
from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes

ContextMaker = Callable[..., Path]
DOCKERFILE = """\
FROM base AS make
COPY in /in
RUN for i in $(seq 200); do echo $i > /out-$i; done; rm /out-7; sleep 0.2
FROM make AS take
RUN cat /out-* /in > /all && rm /out-1
"""
PLACES = ("--place", "make=name=w1", "--place", "take=name=w2")

pytestmark = pytest.mark.needs("root", "crun")


@pytest.fixture(scope="module")
def expected(base: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The digest of what a build gives that nothing happens to."""
    place = tmp_path_factory.mktemp("expected")
    root = place / "context"
    root.mkdir()
    (root / "Dockerfile").write_text(DOCKERFILE)
    (root / "in").write_text("in\n")
    with Cluster(place / "cluster") as cluster:
        finish(cluster, root, ("--build-context", base, *PLACES), place / "out")
    return scan(place / "out", MemoryNodes()).content


@pytest.mark.parametrize("victim", ["w1", "w2", "manager"])
def test_a_process_killed_at_any_moment_of_a_build_leaves_nothing_wrong(
    context: ContextMaker, base: str, tmp_path: Path, expected: bytes, victim: str
) -> None:
    root = context(DOCKERFILE, **{"in": "in\n"})
    arguments = ("--build-context", base, *PLACES)
    with Cluster(tmp_path / "cluster") as cluster:
        for number, delay_s in enumerate((0.5, 0.7, 0.9, 1.1, 1.3)):
            (root / "in").write_text(f"in {number}\n")
            begin_and_kill(cluster, root, arguments, victim, delay_s)
            revive(cluster, victim)
            for name in ("w1", "w2"):
                wait_until_empty(tmp_path / "cluster" / name / "work")
        (root / "in").write_text("in\n")
        out = tmp_path / "out"
        built = finish(cluster, root, arguments, out)
        assert scan(out, MemoryNodes()).content == expected
        assert not built.step("RUN cat")["cached"]
        again = finish(cluster, root, arguments, tmp_path / "again")
        assert again.totals["steps_run"] == 0
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def wait_until_empty(directory: Path) -> None:
    """Wait for a worker that was not killed to notice that its build's other half was."""
    deadline_s = time.monotonic() + 40
    while left := list(directory.iterdir()):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def finish(cluster: Cluster, root: Path, arguments: tuple[str, ...], out: Path) -> BuildRun:
    return cluster.build(root, *arguments, "-o", f"type=local,dest={out}")


def begin_and_kill(
    cluster: Cluster, root: Path, arguments: tuple[str, ...], victim: str, delay_s: float
) -> None:
    """Start a build, kill a process in the middle of it, and give the build up."""
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    with subprocess.Popen(
        [*command, *arguments, str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as build:
        time.sleep(delay_s)
        cluster.kill(victim)
        build.terminate()


def revive(cluster: Cluster, victim: str) -> None:
    if victim == "manager":
        # Its state is a copy of what the workers hold; a manager without any learns it again.
        shutil.rmtree(cluster.root / "manager")
        cluster.start_manager()
    else:
        cluster.start_worker(victim)
    cluster.wait_for_workers()
