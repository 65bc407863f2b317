"""Builds over real managers and workers, as a user runs them."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from filesync.disk.scanning.scan import scan
from filesync.manifest import MemoryNodes
from solver.manager.process import open_manager

ContextMaker = Callable[..., Path]
ON_TWO = ("--place", "make=name=w1", "--place", "take=name=w2")

pytestmark = pytest.mark.needs("root")


def content_of(root: Path) -> bytes:
    return scan(root, MemoryNodes()).content


SPREAD = """\
FROM scratch AS make
COPY big /data/big
COPY small /data/small
FROM scratch AS take
COPY --from=make /data/small /small
"""


def test_a_copy_from_another_worker_moves_only_the_path_that_it_names(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    rng = random.Random(1)
    root = context(SPREAD, big=rng.randbytes(8_000_000), small=rng.randbytes(100_000))
    out = tmp_path / "out"
    built = cluster.build(root, *ON_TWO, "-o", f"type=local,dest={out}")
    step = built.step("COPY --from=make")
    assert step["worker"] == "w2"
    (use,) = step["inputs"]
    assert use["mode"] == "paths"
    assert use["from"] == ["w1"]
    assert use["files_moved"] == 1
    assert 100_000 <= use["bytes_moved"] < 110_000
    assert use["bytes_if_layers"] > 8_000_000
    assert (out / "small").read_bytes() == (root / "small").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["small"]


REPLICATED = """\
FROM scratch AS make
COPY big small /data/
FROM make AS copy
COPY small /another
FROM scratch AS take
COPY --from=copy /another /
COPY --from=make /data/big /big
"""


def test_a_large_path_comes_from_all_workers_that_hold_it(
    clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    root = context(REPLICATED, big=random.Random(1).randbytes(20_000_000), small="small")
    places = [
        f"--place={stage}=name=w{n}" for n, stage in enumerate(("make", "copy", "take"), 1)
    ]
    out = tmp_path / "out"
    built = clusters("three", workers=3).build(root, *places, "-o", f"type=local,dest={out}")
    use = built.step("COPY --from=make")["inputs"][-1]
    assert sorted(use["from"]) == ["w1", "w2"]
    assert 20_000_000 < use["bytes_moved"] < 20_100_000
    assert (out / "big").read_bytes() == (root / "big").read_bytes()


VENDORED = """\
FROM scratch AS make
COPY vendor /vendor
FROM scratch AS take
COPY src /src
FROM scratch
COPY --from=make /vendor /vendor
COPY --from=take /src /src
"""


def test_of_a_context_a_worker_gets_what_steps_read_that_are_not_cached(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    large = random.Random(1).randbytes(20_000_000)
    root = context(VENDORED, vendor__large=large, src__main="one")
    cluster.build(root, "--place", "make=name=w1", "--place", "take=name=w1")
    context(VENDORED, src__main="two")
    out = tmp_path / "out"
    built = cluster.build(root, *ON_TWO, "-o", f"type=local,dest={out}")
    sent = built.step("load build context")
    assert sent["worker"] == "w2"
    assert sent["inputs"][0]["bytes_moved"] < 2_000
    assert (out / "src/main").read_text() == "two"
    assert (out / "vendor/large").read_bytes() == large
    context(VENDORED, src__main="three", vendor__small="new")
    again = cluster.build(root, *ON_TWO, "-o", f"type=local,dest={out}")
    assert again.step("load build context")["inputs"][0]["bytes_moved"] < 4_000
    assert (out / "src/main").read_text() == "three"
    assert (out / "vendor/small").read_text() == "new"


AFTER_ANOTHER = """\
FROM scratch AS take
COPY src /src
FROM scratch AS make
COPY --from=take /src /src
COPY vendor /vendor
"""


def test_a_context_goes_first_to_the_worker_that_lacks_much_less_of_it(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    large = random.Random(1).randbytes(20_000_000)
    root = context(AFTER_ANOTHER, vendor__large=large, src__main="one")
    cluster.build(root, "--place", "make=name=w1", "--place", "take=name=w1")
    context(AFTER_ANOTHER, vendor__small="new", src__main="two")
    out = tmp_path / "out"
    built = cluster.build(root, *ON_TWO, "-o", f"type=local,dest={out}")
    sent = built.step("load build context")
    assert (sent["worker"], sent["inputs"][0]["from"]) == ("w1", ["client"])
    assert sent["inputs"][0]["bytes_moved"] < 4_000
    taken = built.step("COPY src")
    assert (taken["worker"], taken["inputs"][-1]["from"]) == ("w2", ["w1"])
    assert taken["inputs"][-1]["bytes_moved"] < 2_000
    assert (out / "src/main").read_text() == "two"
    assert (out / "vendor/small").read_text() == "new"
    assert (out / "vendor/large").read_bytes() == large


def test_the_manager_moves_no_file_data(cluster: Cluster, context: ContextMaker) -> None:
    rng = random.Random(1)
    root = context(SPREAD, big=rng.randbytes(8_000_000), small=rng.randbytes(100_000))
    totals = cluster.build(root, *ON_TWO).totals
    assert totals["bytes_moved"] > 8_000_000
    assert totals["manager_bytes_received"] + totals["manager_bytes_sent"] < 50_000


def test_a_rebuild_with_nothing_changed_runs_no_step_and_moves_no_file(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context(SPREAD, big="b" * 100_000, small="s" * 1000)
    cluster.build(root, *ON_TWO)
    totals = cluster.build(root, *ON_TWO).totals
    assert totals["steps_run"] == 0
    assert totals["files_moved"] == totals["bytes_moved"] == 0
    assert totals["manager_bytes_received"] + totals["manager_bytes_sent"] < 10_000


def test_no_cache_runs_every_step_again(cluster: Cluster, context: ContextMaker) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    first = cluster.build(root, *ON_TWO).totals
    again = cluster.build(root, *ON_TWO, "--no-cache").totals
    assert again["steps_run"] == first["steps_run"]


def test_a_changed_file_runs_only_what_reads_it(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    cluster.build(root, *ON_TWO)
    (root / "big").write_text("c" * 1000)
    built = cluster.build(root, *ON_TWO)
    assert not built.step("COPY big")["cached"]
    assert built.step("COPY --from=make")["cached"]


def test_a_touched_file_changes_nothing(cluster: Cluster, context: ContextMaker) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    cluster.build(root, *ON_TWO)
    os.utime(root / "small", (1, 1))
    assert cluster.build(root, *ON_TWO).totals["steps_run"] == 0


def test_a_changed_context_moves_about_the_changed_files(
    cluster: Cluster, context: ContextMaker
) -> None:
    rng = random.Random(2)
    files = {f"tree__f{number}": rng.randbytes(20_000) for number in range(200)}
    root = context("FROM scratch\nCOPY tree /tree\n", **files)
    first = cluster.build(root).totals
    assert first["bytes_moved"] > 4_000_000
    (root / "tree/f7").write_bytes(rng.randbytes(20_000))
    (root / "tree/f9").write_bytes(rng.randbytes(20_000))
    totals = cluster.build(root).totals
    assert totals["files_moved"] == 2
    assert totals["bytes_moved"] < 50_000


@pytest.mark.needs("crun")
def test_run_executes_in_the_base_and_its_result_is_exported(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(
        "FROM base\nARG WHO=world\nENV GREETING=hello\nWORKDIR /work\n"
        'RUN echo "$GREETING $WHO" > said && mkdir -p deep/er && ln -s ../said deep/link\n',
    )
    out = tmp_path / "out"
    arguments = ("--build-context", base, "--build-arg", "WHO=you")
    cluster.build(root, *arguments, "-o", f"type=local,dest={out}")
    assert (out / "work/said").read_text() == "hello you\n"
    assert (out / "work/deep/link").readlink() == Path("../said")
    assert (out / "bin/sh").exists()
    assert not (out / "proc").exists() or not list((out / "proc").iterdir())


@pytest.mark.needs("crun")
def test_a_root_that_another_worker_has_comes_as_layers(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(
        "FROM base AS make\nRUN echo one > /one\n"
        "FROM make AS take\nRUN cat /one /one > /two && rm /one\n"
    )
    out = tmp_path / "out"
    arguments = ("--build-context", base, *ON_TWO, "-o", f"type=local,dest={out}")
    built = cluster.build(root, *arguments)
    step = built.step("RUN cat")
    assert step["worker"] == "w2"
    (use,) = step["inputs"]
    assert use["mode"] == "layers"
    assert use["bytes_moved"] > 0
    assert (out / "two").read_text() == "one\none\n"
    assert not (out / "one").exists()


@pytest.mark.needs("crun")
def test_a_run_whose_output_is_the_same_bytes_stops_what_follows_it(
    cluster: Cluster, context: ContextMaker, base: str
) -> None:
    dockerfile = (
        "FROM base AS make\nCOPY in /in\nRUN head -c 3 /in > /out\n"
        "FROM base AS take\nCOPY --from=make /out /out\nRUN cat /out > /seen\n"
    )
    root = context(dockerfile, **{"in": "abc one"})
    cluster.build(root, "--build-context", base)
    (root / "in").write_text("abc two")
    built = cluster.build(root, "--build-context", base)
    assert not built.step("RUN head")["cached"]
    assert built.step("COPY --from=make")["cached"]
    assert built.step("RUN cat")["cached"]


@pytest.mark.needs("crun")
def test_a_bind_mount_from_a_stage_is_partial_and_read_only(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(
        "FROM scratch AS make\nCOPY big /x/big\nCOPY small /x/y/small\n"
        "FROM base AS take\n"
        "RUN --mount=type=bind,from=make,source=/x/y,target=/m "
        "cat /m/small > /copy; touch /m/new && exit 1; ls /m > /list\n",
        big=random.Random(1).randbytes(3_000_000),
        small="small",
    )
    out = tmp_path / "out"
    arguments = ("--build-context", base, *ON_TWO, "-o", f"type=local,dest={out}")
    built = cluster.build(root, *arguments)
    partial = [use for use in built.step("RUN --mount")["inputs"] if use["mode"] == "paths"]
    assert [use["files_moved"] for use in partial] == [1]
    assert (out / "copy").read_text() == "small"
    assert (out / "list").read_text() == "small\n"
    assert not (out / "m").exists()


@pytest.mark.needs("crun")
def test_a_command_that_fails_ends_the_build_with_its_output(
    cluster: Cluster, context: ContextMaker, base: str
) -> None:
    root = context("FROM base\nRUN echo before the end; exit 7\n")
    built = cluster.build(root, "--build-context", base, check=False)
    assert built.status == 1
    assert "exit status 7" in built.stderr
    assert "before the end" in built.stderr
    assert "Traceback" not in built.stderr


@pytest.mark.needs("crun")
def test_a_worker_that_dies_in_mid_run_does_not_fail_the_build(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context("FROM base\nRUN echo started; sleep 4; echo done > /done\n")
    out = tmp_path / "out"
    command = ["build", "--manager", cluster.manager, "--progress", "plain"]
    arguments = ["--build-context", base, "-o", f"type=local,dest={out}", str(root)]
    with subprocess.Popen(
        [sys.executable, "-m", "filesync", *command, *arguments],
        stderr=subprocess.PIPE,
        text=True,
    ) as build:
        assert build.stderr is not None
        seen: list[str] = []
        for line in build.stderr:
            seen.append(line)
            if "started" in line and "echo" not in line:
                break
        worker = next(line.split()[-1] for line in reversed(seen) if " on w" in line)
        cluster.kill(worker)
        rest = build.stderr.read()
        assert build.wait() == 0, "".join(seen) + rest
    assert f"runs again: worker {worker} is gone" in rest
    assert (out / "done").read_text() == "done\n"
    cluster.start_worker(worker)


def test_a_killed_manager_learns_everything_again_from_the_workers(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    cluster.build(root, *ON_TWO)
    cluster.kill("manager")
    for path in (cluster.root / "manager").glob("*.db*"):
        path.unlink()
    cluster.start_manager()
    cluster.wait_for_workers()
    assert cluster.build(root, *ON_TWO).totals["steps_run"] == 0


def test_a_killed_worker_comes_back_with_what_it_had(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    cluster.build(root, *ON_TWO)
    for name in ("w1", "w2"):
        cluster.kill(name)
        cluster.start_worker(name)
    cluster.wait_for_workers()
    assert cluster.build(root, *ON_TWO).totals["steps_run"] == 0


@pytest.mark.needs("crun", "skopeo", "umoci")
def test_the_image_is_one_that_skopeo_and_umoci_accept(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(
        "FROM base\nRUN echo one > /one && mkdir /gone && chmod 700 /root\n"
        'RUN rm -r /gone && echo two > /two\nCMD ["/bin/sh"]\nLABEL a=b\n'
    )
    layout, out = tmp_path / "image", tmp_path / "out"
    cluster.build(
        root,
        *("--build-context", base, "-t", "app:1"),
        *("-o", f"type=oci,tar=false,dest={layout}", "-o", f"type=local,dest={out}"),
    )
    shown = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci:{layout}:1"], capture_output=True, check=True
    )
    assert json.loads(shown.stdout)["config"]["Labels"] == {"a": "b"}
    copied = tmp_path / "copied"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:1", f"oci:{copied}:1"], check=True)
    bundle = tmp_path / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:1", str(bundle)],
        check=True,
        capture_output=True,
    )
    assert content_of(bundle / "rootfs") == content_of(out)


def test_the_result_equals_what_one_worker_gives(
    cluster: Cluster, clusters: Callable[..., Cluster], context: ContextMaker, tmp_path: Path
) -> None:
    root = context(SPREAD, big="b" * 100_000, small="s" * 1000)
    many, one = tmp_path / "many", tmp_path / "one"
    cluster.build(root, *ON_TWO, "-o", f"type=local,dest={many}")
    single = clusters("single", workers=1)
    single.build(root, "-o", f"type=local,dest={one}")
    assert content_of(many) == content_of(one)


def test_a_tar_holds_the_same_files_as_the_directory(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    archive = tmp_path / "out.tar"
    cluster.build(root, "-o", f"type=tar,dest={archive}")
    with tarfile.open(archive) as tar:
        assert [member.name for member in tar if member.isfile()] == ["small"]


async def test_place_with_a_label_that_no_worker_has_is_one_clear_sentence(
    context: ContextMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solver.manager.build.WAIT_FOR_WORKER_S", 0.2)
    root = context(SPREAD, big="b", small="s")
    async with open_manager("tcp://127.0.0.1:0", tmp_path / "manager") as manager:
        cluster = Cluster(tmp_path, workers=1)
        cluster.manager = manager.address
        await asyncio.to_thread(cluster.start_worker, "w1")
        try:
            await asyncio.to_thread(cluster.wait_for_workers)
            place = ("--place", "take=gpu=true")
            built = await asyncio.to_thread(cluster.build, root, *place, check=False)
        finally:
            await asyncio.to_thread(cluster.stop)
    assert built.status == 1
    assert "no worker has gpu=true" in built.stderr
    assert "Traceback" not in built.stderr


def test_workers_are_listed_a_line_each_with_nothing_left_out(cluster: Cluster) -> None:
    lines = run("workers", "--manager", cluster.manager).stdout.splitlines()
    for name in ("w1", "w2"):
        row = re.compile(rf"{name} .* tcp://127\.0\.0\.1:\d+ .* name={name} ")
        assert any(map(row.search, lines))


def test_explain_says_why_a_step_runs_where_it_runs(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    built = cluster.build(root, "--explain")
    assert "chosen w" in built.stderr


def test_without_a_manager_an_embedded_cluster_builds_and_remembers(
    context: ContextMaker, tmp_path: Path
) -> None:
    root = context(SPREAD, big="b" * 1000, small="s" * 1000)
    metadata = tmp_path / "metadata.json"
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ("build", "--workers", "2", "--metadata-file", str(metadata), str(root))
    for expected in (3, 0):
        done = run(*command, env=env)
        assert done.returncode == 0, done.stderr
        totals = json.loads(metadata.read_text())["filesync"]["totals"]
        assert totals["steps_run"] >= expected
        skipped = "not looked at, as what is made of them is CACHED: 2 of 3 steps"
        assert (skipped in done.stderr) == (not expected)
        if not expected:
            assert totals["steps_run"] == 0
