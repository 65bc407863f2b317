"""Managers that come again, to workers and clients that have stayed."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster
from tests.integration.gateway import gateway
from tests.integration.leftovers import leftovers, nothing_is_left

ContextMaker = Callable[..., Path]

WAITS = """\
FROM base AS make
COPY in /in
RUN echo made > /made
FROM base
COPY in /in
RUN --mount=from=make,target=/m --mount=type=cache,target=/c cat /m/made; until [ -e /c/go ]; do sleep 0.05; done
"""
PLACES = ("--place", "make=name=w1", "--place", "1=name=w2")

pytestmark = pytest.mark.needs("root", "crun")


def until(what: Callable[[], object], patience_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_what_a_manager_that_is_gone_had_open_is_let_go_of(
    cluster: Cluster, context: ContextMaker, base: str
) -> None:
    root = context(WAITS, **{"in": "in\n"})
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    arguments = ["--build-context", base, *PLACES, str(root)]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL) as build:
        caches = cluster.root / "w2/exec/caches"
        until(lambda: list(caches.glob("*/0")))
        w1 = cluster.processes["w1"].pid
        until(lambda: leftovers(cluster.root / "w1", w1))
        cluster.kill("manager")
        build.kill()
    cluster.start_manager()
    cluster.wait_for_workers()
    assert nothing_is_left(cluster) == {}


def test_a_build_goes_on_where_its_manager_restarts(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(WAITS, **{"in": "in\n"})
    made = tmp_path / "metadata.json"
    command = [sys.executable, "-m", "filesync", "build", "--manager", cluster.manager]
    arguments = ["--build-context", base, *PLACES, "--metadata-file", str(made), str(root)]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as build:
        caches = cluster.root / "w2/exec/caches"
        until(lambda: list(caches.glob("*/0")))
        cluster.kill("manager")
        cluster.start_manager()
        (next(caches.glob("*/0")) / "go").touch()
        _, said = build.communicate(timeout=60)
    assert build.returncode == 0, said
    assert said.count("warning: the manager at") == 1
    assert "the build is begun again, with what is built" in said
    steps = json.loads(made.read_text())["filesync"]["steps"]
    (first,) = [step for step in steps if "echo made" in step["name"]]
    assert first["cached"], "though its worker had to be heard of first"


def test_a_build_goes_on_where_its_connection_to_the_manager_is_cut(
    cluster: Cluster, context: ContextMaker, base: str
) -> None:
    root = context(WAITS, **{"in": "in\n"})
    caches = cluster.root / "w2/exec/caches"

    async def main() -> tuple[int | None, str]:
        async with gateway(cluster.manager) as passing:
            build = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "filesync", "build", "--manager", passing.address),
                *("--build-context", base, *PLACES, str(root)),
                stderr=asyncio.subprocess.PIPE,
            )
            await asyncio.to_thread(until, lambda: list(caches.glob("*/0")))
            passing.cut()
            (next(caches.glob("*/0")) / "go").touch()
            _, said = await build.communicate()
        return build.returncode, said.decode()

    status, said = asyncio.run(main())
    assert status == 0, said
    assert said.count("the build is begun again, with what is built") == 1


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILESYNC_LOG", "info")


@pytest.mark.usefixtures("logged")
def test_a_worker_that_was_alone_for_long_registers_once(
    clusters: Callable[..., Cluster],
) -> None:
    cluster = clusters("one", workers=1)
    cluster.wait_for_workers()
    cluster.kill("manager")
    time.sleep(2.5)  # it goes on to say that it is there, once a second
    cluster.start_manager()
    cluster.wait_for_workers()
    time.sleep(1.5)
    said = (cluster.root / "manager.log").read_text()
    assert said.count("worker joined worker=w1") == 2


def test_a_worker_whose_state_was_lost_with_it_is_taken_in_again(
    clusters: Callable[..., Cluster], context: ContextMaker
) -> None:
    cluster = clusters("one", workers=1)
    cluster.wait_for_workers()
    cluster.kill("w1")
    shutil.rmtree(cluster.root / "w1")
    cluster.start_worker("w1")
    root = context("FROM scratch\nCOPY in /in\n", **{"in": "in\n"})
    # The manager thinks for a while that the first w1 is there.
    until(lambda: cluster.build(root, check=False).status == 0)
    assert cluster.processes["w1"].poll() is None


def test_a_worker_whose_state_is_removed_ends_and_says_so(
    clusters: Callable[..., Cluster],
) -> None:
    cluster = clusters("one", workers=1)
    cluster.wait_for_workers()
    shutil.rmtree(cluster.root / "w1")
    assert cluster.processes["w1"].wait(30) == 1
    said = (cluster.root / "w1.log").read_text()
    assert "w1 was removed while this worker had its state there; start it again" in said
    assert "Traceback" not in said


def test_an_image_whose_blobs_a_worker_has_lost_is_brought_again(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context("FROM base\nRUN echo made > /made\n")
    words = ("--build-context", base, "-o", f"type=oci,tar=false,dest={tmp_path / 'out'}")
    first = cluster.build(root, *words)
    (worker,) = {step["worker"] for step in first.metadata["filesync"]["steps"]}
    cluster.kill(worker)
    for path in Path(base.partition("://")[2], "blobs/sha256").iterdir():
        (cluster.root / worker / "blobs/blobs/sha256" / path.name).unlink(missing_ok=True)
    cluster.start_worker(worker)
    cluster.wait_for_workers()
    again = cluster.build(root, *words)
    assert again.step("RUN")["cached"], "its result is there"
    digests = [built.metadata["containerimage.digest"] for built in (first, again)]
    assert digests[0] == digests[1]
