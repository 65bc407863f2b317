"""What workers keep and let go of: du, prune, and bounds that a worker keeps by itself."""

import re
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bench.processes import Cluster, run

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("root", "crun")

MEGABYTE = b"m" * (1 << 20)
WAIT = "RUN --mount=type=cache,target=/c until [ -e /c/go ]; do sleep 0.02; done"
"""A step that ends when it is let go."""


def asked(cluster: Cluster, *command: str) -> str:
    done = run(*command, "--manager", cluster.manager)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(table: str, kind: str) -> list[list[str]]:
    """Return the cells of a table's rows about ``kind``, the worker's name first."""
    lines = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in table.splitlines()]
    return [cells for cells in lines if cells[1:2] == [kind]]


def count(table: str, kind: str) -> int:
    return sum(int(cells[2]) for cells in rows(table, kind))


def until_results(cluster: Cluster, number: int) -> None:
    deadline_s = time.monotonic() + 30
    while count(asked(cluster, "du"), "results") < number:
        assert time.monotonic() < deadline_s


def let_go(cluster: Cluster, name: str) -> None:
    """Have a step that waits on a worker, or soon will, go on."""
    deadline_s = time.monotonic() + 30
    while not (found := list((cluster.root / name / "exec/caches").glob("*/0"))):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    (found[0] / "go").touch()


def test_prune_says_what_went_and_a_build_makes_it_again(
    cluster: Cluster, context: ContextMaker
) -> None:
    root = context("FROM scratch\nCOPY big /big\n", big=MEGABYTE)
    cluster.build(root)
    before = asked(cluster, "du")
    assert count(before, "results") == 1
    assert count(before, "idle-sources") == 1
    # Directories take a block on ext4 and none on tmpfs.
    assert {cells[4] for cells in rows(before, "results")} <= {"1.0 MB", "1.1 MB"}
    pruned = asked(cluster, "prune", "--force")
    assert [cells[-1] for cells in rows(pruned, "results")] == ["removed"]
    assert "nothing" in asked(cluster, "du")
    assert count(asked(cluster, "du"), "results") == 0
    assert cluster.build(root).totals["steps_run"] == 2  # the context and the copy


def test_manifests_are_shown_and_go_with_what_they_are_of(
    cluster: Cluster, context: ContextMaker
) -> None:
    many = {f"src__d{n}__f": str(n) for n in range(40)}
    root = context("FROM scratch AS one\nCOPY src /a\nFROM scratch\nCOPY src/d1 /b\n", **many)
    place = ("--place", "one=name=w1", "--place", "1=name=w1")
    cluster.build(root, *place, "--target", "one")
    before = count(asked(cluster, "du"), "manifests")
    assert before > 40
    cluster.build(root, *place)
    pruned = asked(cluster, "prune", "--keep-storage", "0", "--filter", "type=regular")
    assert count(pruned, "manifests") > 0
    asked(cluster, "prune", "--all")
    assert rows(asked(cluster, "du"), "manifests") == []
    # The manager finds out that what it had sent is there no more.
    assert cluster.build(root, *place, "--target", "one").totals["steps_run"] == 2
    assert cluster.build(root, *place).status == 0


def manifests_of_the_manager(cluster: Cluster) -> int:
    with closing(sqlite3.connect(cluster.root / "manager/nodes.db")) as db:
        (count,) = db.execute("SELECT count(*) FROM nodes").fetchone()
        assert isinstance(count, int)
        return count


def test_what_is_pruned_goes_from_the_manager_too_and_is_built_again(
    cluster: Cluster, context: ContextMaker, base: str
) -> None:
    text = "FROM base\nCOPY src /src\nRUN echo {0} > /src/d1/out\n"
    options = ("--build-context", base, "--place", "0=name=w1")
    for number in range(3):
        many = {f"src__d{n}__f": f"{number}" for n in range(40)}
        cluster.build(context(text.format(number), **many), *options)
    asked(cluster, "prune", "--all")
    assert manifests_of_the_manager(cluster) == 0
    # The worker sends again what it had sent, and all that the client had is asked for.
    root = context(text.format(3), **{f"src__d{n}__f": "2" for n in range(40)})
    assert cluster.build(root, *options).status == 0
    out = cluster.root / "out"
    assert cluster.build(root, *options, "-o", f"type=local,dest={out}").status == 0
    assert (out / "src/d1/out").read_text() == "3\n"
    assert len(list((out / "src").iterdir())) == 40


def test_manifests_that_a_worker_cannot_remove_while_it_works_go_when_it_has_done_that(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str
) -> None:
    one = clusters("one", workers=1)
    root = context("FROM scratch\nCOPY src /\n", **{f"src__d{n}__f": str(n) for n in range(40)})
    one.build(root)
    root = context(f"FROM base\n{WAIT}\n")
    building = threading.Thread(target=lambda: one.build(root, "--build-context", base))
    building.start()
    until_results(one, 2)
    pruned = asked(one, "prune", "--all")
    assert rows(pruned, "manifests") == []
    assert count(asked(one, "du"), "manifests") > 40
    let_go(one, "w1")
    building.join()
    deadline_s = time.monotonic() + 10
    while count(asked(one, "du"), "manifests") > 40:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_what_was_used_within_the_time_stays(cluster: Cluster, context: ContextMaker) -> None:
    cluster.build(context("FROM scratch\nCOPY Dockerfile /\n"))
    assert rows(asked(cluster, "prune", "-a", "--filter", "until=1h"), "results") == []
    time.sleep(1.1)
    assert count(asked(cluster, "prune", "--filter", "until=1s"), "results") == 1


def test_a_kind_is_pruned_alone_and_cache_mounts_only_when_they_are_meant(
    cluster: Cluster, context: ContextMaker, base: str
) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c echo much > /c/file\n"
    cluster.build(context(text), "--build-context", base)
    asked(cluster, "prune", "--filter", "type=result")
    left = asked(cluster, "du")
    assert count(left, "results") == 0
    assert count(left, "cache-mounts") == 1
    assert count(asked(cluster, "prune"), "cache-mounts") == 0
    assert count(asked(cluster, "prune", "--all"), "cache-mounts") == 1
    assert not list((cluster.root / "w1/exec/caches").iterdir())


def test_the_space_that_is_kept_holds_what_was_used_last(
    clusters: Callable[..., Cluster], context: ContextMaker
) -> None:
    one = clusters("one", workers=1)
    text = "FROM scratch AS {0}\nCOPY {0} /big\n"
    stages = "".join(text.format(name) for name in ("old", "new"))
    root = context(stages, old=b"o" * (1 << 20), new=b"n" * (1 << 20))
    one.build(root, "--target", "old")
    one.build(root, "--target", "new")
    asked(one, "prune", "--keep-storage", "1200k")
    assert count(asked(one, "du"), "results") == 1
    assert count(asked(one, "du"), "idle-sources") == 0
    assert one.build(root, "--target", "new").totals["steps_run"] == 0
    assert one.build(root, "--target", "old").totals["steps_run"] > 0


def test_what_a_running_build_holds_is_kept_and_told(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str
) -> None:
    one = clusters("one", workers=1)
    text = f"FROM base AS done\nRUN echo a > /a\nFROM base\n{WAIT}\nCOPY --from=done /a /a\n"
    root = context(text)
    built = []
    building = threading.Thread(
        target=lambda: built.append(one.build(root, "--build-context", base))
    )
    building.start()
    until_results(one, 2)
    pruned = asked(one, "prune", "--all")
    let_go(one, "w1")
    building.join()
    why = {cells[-1] for cells in rows(pruned, "results")}
    assert "kept: a build holds it" in why
    assert built[0].status == 0
    assert built[0].step("RUN echo a")["cached"] is False
    assert count(asked(one, "prune"), "results") == 4


def test_what_a_build_holds_is_held_though_its_worker_is_killed_and_comes_back(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str
) -> None:
    cluster = clusters("two")
    text = (
        "FROM base AS done\nRUN echo a > /a\n"
        f"FROM base AS slow\n{WAIT}\nCOPY --from=done /a /a\n"
    )
    root = context(text)
    built = []
    where = ("--place", "done=name=w1", "--place", "slow=name=w2", "--build-context", base)
    building = threading.Thread(target=lambda: built.append(cluster.build(root, *where)))
    building.start()
    until_results(cluster, 3)
    cluster.kill("w1")
    cluster.start_worker("w1")
    cluster.wait_for_workers()
    kept = rows(asked(cluster, "prune", "--all"), "results")
    let_go(cluster, "w2")
    building.join()
    assert "w1" in {cells[0] for cells in kept if cells[-1] == "kept: a build holds it"}
    assert built[0].step("RUN echo")["worker"] == "w1"
    # The lease has ended with the build.
    assert not [c for c in rows(asked(cluster, "prune"), "results") if "kept" in c[-1]]


def test_verbose_names_each_thing_and_why_it_stays(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY Dockerfile /a\nCOPY Dockerfile /b\n")
    cluster.build(root, "-o", f"type=oci,dest={tmp_path / 'out.tar'}")
    shown = asked(cluster, "du", "--verbose")
    results = rows(shown, "result")
    assert len(results) == 2
    assert all(len(cells[2]) == 19 for cells in results)
    assert all(cells[-1] == "reclaimable" for cells in results)
    blobs = rows(shown, "blob")
    assert all(cells[2].startswith("sha256:") for cells in blobs)
    gone = rows(asked(cluster, "prune", "--verbose"), "result")
    assert {cells[2] for cells in gone} == {cells[2] for cells in results}


def test_who_reads_what_is_listed_gets_each_thing_whole_and_on_a_line(
    cluster: Cluster, context: ContextMaker
) -> None:
    cluster.build(context("FROM scratch\nCOPY Dockerfile /\n"))
    # A terminal is as wide as that; here is none.
    env = {"COLUMNS": "20"}
    for words, became in ((("du",), "reclaimable"), (("prune",), "removed")):
        done = run(*words, "--verbose", "--manager", cluster.manager, env=env)
        assert [(len(cells[2]), cells[-1]) for cells in rows(done.stdout, "idle-source")] == [
            (16, became)
        ]


def test_the_last_copy_of_an_exported_layer_stays_while_its_result_lives_elsewhere(
    cluster: Cluster, context: ContextMaker, tmp_path: Path
) -> None:
    text = "FROM scratch AS one\nCOPY big /big\nFROM one AS two\nCOPY Dockerfile /two\n"
    root = context(text, big=MEGABYTE)
    cluster.build(root, "--place", "one=name=w1", "--place", "two=name=w2")
    # As gzip, on the first of the workers that hold it; the other has the layer as it was built.
    out = ("-o", f"type=oci,dest={tmp_path / 'out.tar'}")
    cluster.build(root, "--target", "one", *out)
    blobs = rows(asked(cluster, "prune"), "blobs")
    kept = [cells for cells in blobs if "the last copy, and its result" in cells[-1]]
    assert {cells[0] for cells in kept} == {"w1"}
    # By now its result is nowhere any more.
    assert count(asked(cluster, "prune"), "blobs") == sum(int(cells[2]) for cells in kept)
    assert count(asked(cluster, "du"), "blobs") == 0


@pytest.mark.parametrize(
    ("bound", "left"), [(("--gc-keep-storage", "1200k"), 1), (("--gc-keep-duration", "1s"), 0)]
)
def test_a_worker_holds_itself_to_its_bounds(
    context: ContextMaker, tmp_path: Path, bound: tuple[str, str], left: int
) -> None:
    text = "FROM scratch AS {0}\nCOPY {0} /big\n"
    names = ("a", "b", "c")
    stages = "".join(text.format(name) for name in names)
    root = context(stages, **{name: name.encode() * (1 << 20) for name in names})
    arguments = {"w1": bound}
    with Cluster(tmp_path / "cluster", workers=1, arguments=arguments) as cluster:
        for name in names:
            cluster.build(root, "--target", name)
        deadline_s = time.monotonic() + 40
        while count(asked(cluster, "du"), "results") > left:
            assert time.monotonic() < deadline_s, asked(cluster, "du", "--verbose")
            time.sleep(0.5)
        if left:
            assert cluster.build(root, "--target", "c").totals["steps_run"] == 0
        assert cluster.build(root, "--target", "a").totals["steps_run"] > 0


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    where = ("--manager", "tcp://127.0.0.1:1", "--state", str(tmp_path / "w"))
    refused = run("worker", *where, "--gc-keep-storage", "lots")
    assert refused.returncode == 2
    assert "'lots' is not a size, such as 64m or 1g" in refused.stderr
