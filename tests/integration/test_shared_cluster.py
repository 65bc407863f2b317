"""The cluster of `filesync up`, which a user's builds share; and builds that wait for each other."""

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.processes import run
from tests.integration.test_interrupted import processes_of, read_until, start, wait_until

ContextMaker = Callable[..., Path]
SLOW = "FROM base\nRUN echo started; sleep 3\n"

pytestmark = pytest.mark.needs("root", "crun")


@contextmanager
def up(cache: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `filesync up`; give it, and its manager's address."""
    with start("up", *options, cache=cache) as process:
        address = read_until(process, "stops all").splitlines()[0]
        yield process, address
        process.send_signal(signal.SIGINT)
    wait_until(lambda: not processes_of(str(cache)), "the children did not end")


@contextmanager
def building(cache: Path, root: Path, base: str) -> Iterator[subprocess.Popen[str]]:
    """Build ``root``, whose step says that it has started and takes a while; give who builds it, then."""
    given = ("build", "--progress", "plain", "--build-context", base, str(root))
    with start(*given, cache=cache) as process:
        read_until(process, " started")
        yield process


def build(cache: Path, root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run("build", *options, str(root), env={"XDG_CACHE_HOME": str(cache)})


@pytest.mark.parametrize("listen", [(), ("--listen", "tcp://127.0.0.1:0")])
def test_a_build_without_a_manager_uses_the_cluster_that_is_up(
    context: ContextMaker, tmp_path: Path, listen: tuple[str, ...]
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    root = context("FROM scratch\nCOPY file /file\n", file="one")
    with up(cache, "--workers", "3", *listen) as (_, address):
        assert address.startswith("tcp://127.0.0.1:" if listen else "ipc:///")
        assert build(cache, root, "-o", str(out)).returncode == 0
        assert (out / "file").read_text() == "one"
        rows = run("workers", env={"XDG_CACHE_HOME": str(cache)}).stdout
        assert [name for name in ("w1", "w2", "w3", "w4") if name in rows] == ["w1", "w2", "w3"]
    done = build(cache, root, "--progress", "plain")
    assert "CACHED" in done.stderr  # by a cluster of its own, which has what that one made


def test_builds_that_share_a_cluster_run_side_by_side(
    context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    root = context("FROM base\nRUN echo started; sleep 60\n")
    quick = tmp_path / "quick"
    quick.mkdir()
    (quick / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with up(cache), building(cache, root, base) as slow:
        assert build(cache, quick).returncode == 0
        assert slow.poll() is None
        slow.send_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_cluster_that_was_up_a_build_starts_its_own(
    context: ContextMaker, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    root = context("FROM scratch\nCOPY Dockerfile /\n")
    with up(cache) as (process, _):
        process.send_signal(number)
        process.wait(20)
    assert (cache / "filesync/cluster/address").exists() == (number == signal.SIGKILL)
    assert build(cache, root).returncode == 0
    with up(cache):
        assert build(cache, root).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_ends_with_the_cluster_that_it_shares(
    context: ContextMaker, base: str, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    root = context("FROM base\nRUN echo started; sleep 60\n")
    with up(cache) as (process, _), building(cache, root, base) as shared:
        process.send_signal(number)
        said, _ = shared.communicate(timeout=20)
    assert shared.returncode == 1
    assert said.splitlines()[-1].startswith("filesync: error: the cluster of `filesync up` has")


def test_a_second_cluster_of_the_same_state_says_where_the_first_one_is(tmp_path: Path) -> None:
    with up(tmp_path) as (_, address):
        done = run("up", env={"XDG_CACHE_HOME": str(tmp_path)})
        assert done.returncode == 2
        assert re.search(f"runs already.* {re.escape(address)}$", done.stderr.strip())


def test_a_build_waits_for_one_that_has_the_cluster_and_says_so(
    context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    root = context(SLOW)
    with building(cache, root, base) as first:
        done = build(cache, root, "--progress", "plain", "--build-context", base)
        assert done.returncode == 0
        assert f"waiting for another build, which has {cache}" in done.stderr
        assert "CACHED" in done.stderr
        assert first.wait(20) == 0


def test_who_waits_for_a_build_uses_a_cluster_that_comes_up_meanwhile(
    context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    root = context(SLOW)
    with building(cache, root, base) as first, up(cache):
        assert first.wait(20) == 0
        assert build(cache, root, "--build-context", base).returncode == 0
