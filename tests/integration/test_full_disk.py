"""A disk without a byte left: what is there can be seen and removed, and then all goes on."""

import os
import secrets
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from tests.mounting import tmpfs

ContextMaker = Callable[..., Path]

pytestmark = pytest.mark.needs("mount")

BIG = 2_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", "size=16m") as disk:
        yield disk


def cluster_on(disk: Path, root: Path) -> Cluster:
    """Return a manager and the worker w1, not yet started, whose states are on ``disk``."""
    own = ("--state", str(disk / "w1"), "--gc-min-free", "0")
    more = {"w1": own, "manager": ("--state", str(disk / "manager"))}
    return Cluster(root / "cluster", workers=1, arguments=more)


def fill(disk: Path) -> None:
    """Leave no room for one byte more."""
    assert os.path.ismount(disk)
    for number, size in enumerate((1 << 16, 1)):
        with (disk / f"filler-{number}").open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(size)):
                pass


def use_up_inodes(disk: Path) -> None:
    """Leave none for one file more."""
    assert os.path.ismount(disk)
    with suppress(OSError):
        while True:
            (disk / f"filler-{secrets.token_hex(8)}").touch()


def clear(disk: Path) -> None:
    for path in disk.glob("filler-*"):
        path.unlink()


def test_the_embedded_cluster_is_looked_at_and_pruned_though_its_disk_is_full(
    context: ContextMaker, disk: Path
) -> None:
    env = {"XDG_CACHE_HOME": str(disk)}
    root = context("FROM scratch\nCOPY big /\n", big=os.urandom(BIG))
    assert run("build", str(root), env=env).returncode == 0
    fill(disk)
    (root / "big").write_bytes(os.urandom(BIG))
    failed = run("build", str(root), env=env)
    assert failed.returncode == 1
    assert "run `filesync prune`" in failed.stderr
    assert failed.stderr.count("filesync: error: ") == 1
    fill(disk)
    seen = run("du", env=env)
    assert (seen.returncode, seen.stderr) == (0, "")
    assert "2.0 MB" in seen.stdout
    fill(disk)
    pruned = run("prune", env=env)
    assert (pruned.returncode, pruned.stderr) == (0, "")
    assert "2.0 MB │ removed" in pruned.stdout
    clear(disk)
    assert run("build", str(root), env=env).returncode == 0


def test_the_embedded_cluster_is_pruned_though_there_are_no_inodes(
    context: ContextMaker, tmp_path: Path
) -> None:
    """A cache of many small files runs out of these first, and the disk seems to have room."""
    root = context("FROM scratch\nCOPY . /\n", **{f"f{number}": b"x" for number in range(200)})
    with tmpfs(tmp_path / "disk", "size=64m,nr_inodes=700") as disk:
        env = {"XDG_CACHE_HOME": str(disk)}
        assert run("build", str(root), env=env).returncode == 0
        use_up_inodes(disk)
        for number in range(200):
            (root / f"f{number}").write_bytes(b"another")
        failed = run("build", str(root), env=env)
        assert failed.returncode == 1
        assert "internal error" not in failed.stderr
        for words in (("du",), ("prune",)):
            use_up_inodes(disk)
            done = run(*words, env=env)
            assert (done.returncode, done.stderr) == (0, "")
        clear(disk)
        assert run("build", str(root), env=env).returncode == 0


def test_a_step_that_finds_no_room_leaves_nothing_mounted(
    context: ContextMaker, disk: Path, tmp_path: Path
) -> None:
    files = {f"f{number}": os.urandom(100_000) for number in range(10)}
    root = context("FROM scratch\nCOPY . /\n", **files)
    more = {"w1": ("--state", str(disk / "w1"), "--gc-min-free", "0")}
    with Cluster(tmp_path / "cluster", workers=1, arguments=more) as cluster:
        for room_bytes in range(0, 3_000_000, 250_000):
            (root / "f0").write_bytes(os.urandom(100_000))
            fill(disk)
            os.truncate(disk / "filler-0", (disk / "filler-0").stat().st_size - room_bytes)
            built = cluster.build(root, check=False)
            assert built.status == 0 or "free space" in built.stderr
            assert "internal error" not in built.stderr
        assert f"{disk}/w1/" not in Path("/proc/self/mountinfo").read_text()


def test_a_cluster_that_runs_is_pruned_though_its_disk_is_full(
    context: ContextMaker, disk: Path, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY big /\n", big=os.urandom(BIG))
    with cluster_on(disk, tmp_path) as cluster:
        cluster.build(root)
        fill(disk)
        pruned = run("prune", "--manager", cluster.manager)
        assert (pruned.returncode, pruned.stderr) == (0, "")
        clear(disk)
        (root / "big").write_bytes(os.urandom(BIG))
        cluster.build(root)


def test_a_manager_and_a_worker_start_though_their_disk_is_full(
    context: ContextMaker, disk: Path, tmp_path: Path
) -> None:
    root = context("FROM scratch\nCOPY big /\n", big=os.urandom(BIG))
    with cluster_on(disk, tmp_path) as cluster:
        cluster.build(root)
        cluster.kill("w1")
        cluster.kill("manager")
        fill(disk)
        cluster.start_manager()
        cluster.start_worker("w1")
        cluster.wait_for_workers()
        assert cluster.build(root).totals["steps_run"] <= 1  # what was finished is kept
        assert run("prune", "--manager", cluster.manager).returncode == 0


def test_a_manager_whose_disk_was_full_is_told_again_what_it_could_not_keep(
    context: ContextMaker, tmp_path: Path
) -> None:
    root = context("FROM scratch\nADD many.tar /\n")
    with tarfile.open(root / "many.tar", "w") as tar:
        for number in range(10_000):
            member = tarfile.TarInfo(f"d{number}-{secrets.token_hex(64)}")
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
            member = tarfile.TarInfo(f"{member.name}/{secrets.token_hex(64)}")
            tar.addfile(member)
    with tmpfs(tmp_path / "disk", "size=24m") as disk:
        more = {"manager": ("--state", str(disk / "manager"))}
        with Cluster(tmp_path / "cluster", workers=1, arguments=more) as cluster:
            fill(disk)
            # Room for the context's own tree.
            os.truncate(disk / "filler-0", (disk / "filler-0").stat().st_size - 300_000)
            failed = cluster.build(root, check=False)
            assert "ADD many.tar / on w1" in failed.stderr
            assert "free space if the disk is full" in failed.stderr
            clear(disk)
            cluster.build(root)
