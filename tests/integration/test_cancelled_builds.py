"""Builds that end in the middle of a step: their workers hold nothing of it afterwards."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.integration.leftovers import nothing_is_left

ContextMaker = Callable[..., Path]
DOCKERFILE = """\
FROM base AS given
COPY data /data
FROM given AS waits
COPY --from=given /data/one /one
RUN --mount=from=given,source=/data,target=/d --mount=type=cache,target=/c \\
    cat /d/two && echo begun && touch /c/begun && while [ ! -e /c/over ]; do sleep 0.05; done
FROM base AS fails
RUN --mount=type=cache,target=/c while [ ! -e /c/begun ]; do sleep 0.05; done; exit 3
FROM scratch AS both
COPY --from=waits /one /one
COPY --from=fails /bin /bin
"""
PLACES = ("--place", "given=name=w1", "--place", "waits=name=w2", "--place", "fails=name=w2")
pytestmark = pytest.mark.needs("root", "crun")


@pytest.fixture
def root(context: ContextMaker) -> Path:
    return context(DOCKERFILE, data__one="1" * 100_000, data__two="two\n")


def test_a_step_that_fails_ends_those_beside_it_and_nothing_is_left(
    cluster: Cluster, root: Path, base: str
) -> None:
    cluster.wait_for_workers()
    words = ("--build-context", base, *PLACES)
    failed = cluster.build(root, *words, check=False)
    assert "exit status 3" in failed.stderr
    assert nothing_is_left(cluster) == {}


@pytest.mark.parametrize("presses", [1, 2])
def test_a_build_that_is_interrupted_leaves_nothing(
    cluster: Cluster, root: Path, base: str, presses: int
) -> None:
    cluster.wait_for_workers()
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    words = ("--progress", "plain", "--build-context", base, *PLACES, "--target", "waits")
    with subprocess.Popen([*command, *words, str(root)], stderr=subprocess.PIPE) as building:
        assert building.stderr is not None
        for line in building.stderr:
            if line.endswith(b" begun\n"):
                break
        for _ in range(presses):
            building.send_signal(signal.SIGINT)
        building.stderr.read()
    assert building.returncode not in (0, None)
    assert nothing_is_left(cluster) == {}
