"""Builds that are interrupted, or whose worker is killed: what they leave behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster, run
from solver.manager.server_zmq import CLIENT_SILENCE_S

ContextMaker = Callable[..., Path]
SLOW = "FROM base\nRUN echo started; sleep 60\n"

pytestmark = pytest.mark.needs("root", "crun")


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def processes_of(text: str) -> list[str]:
    """Return the command lines of the processes to which, or to whose variables, ``text`` was given.

    This one is not among them.
    """
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line, given = [
                (process / name).read_bytes().replace(b"\0", b" ").decode(errors="replace")
                for name in ("cmdline", "environ")
            ]
        except OSError:
            continue
        if text in line + given and process.name != str(os.getpid()):
            found.append(line)
    return found


def mounts_below(path: Path) -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in mounts if str(path) in line]


def start(*arguments: str, cache: Path, **more: str) -> subprocess.Popen[str]:
    """Start a command; ``more`` are variables of its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "filesync", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **more},
        # A shell that starts a job in the background has it ignore SIGINT, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read a process's lines to the first that ``text`` ends."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if line.rstrip().endswith(text):
            return seen
    raise AssertionError(f"{text!r} was not said:\n{seen}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_embedded_build_that_is_ended_leaves_no_process_and_no_mount(
    context: ContextMaker, base: str, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    root = context(SLOW)
    arguments = ("build", "--progress", "plain", "--build-context", base, str(root))
    with start(*arguments, cache=cache) as build:
        read_until(build, " started")
        build.send_signal(number)
        # Its output stays open as long as a child lives, so it is not read before they ended.
        status = build.wait(20)
        wait_until(lambda: not processes_of(str(cache)), "the children did not end")
        assert build.stdout is not None
        assert "Traceback" not in build.stdout.read()
    if number == signal.SIGINT:
        assert status == 130
    assert mounts_below(cache) == []
    worker = cache / "filesync/cluster/w1"
    assert list((worker / "work").iterdir()) == []
    assert list((worker / "exec/scratch").iterdir()) == []
    sockets = (cache / "filesync/cluster/sockets").readlink()
    assert sockets.exists() == (number == signal.SIGKILL)
    assert run("workers", env={"XDG_CACHE_HOME": str(cache)}).returncode == 0
    assert not sockets.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_of_standard_input_that_is_ended_leaves_no_temporary_file(
    base: str, tmp_path: Path, number: signal.Signals
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    arguments = ("build", "--progress", "plain", "--build-context", base, "-")
    with start(*arguments, cache=tmp_path, TMPDIR=str(scratch)) as build:
        assert build.stdin is not None
        build.stdin.write(SLOW)
        build.stdin.close()
        read_until(build, " started")
        assert list(scratch.iterdir())
        build.send_signal(number)
        assert build.wait(20) in (130, -signal.SIGTERM)
    assert list(scratch.iterdir()) == []


def test_ctrl_c_of_up_ends_its_children(tmp_path: Path) -> None:
    with start("up", "--listen", "tcp://127.0.0.1:0", cache=tmp_path) as up:
        read_until(up, "stops all")
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0
        assert up.stdout is not None
        assert "Traceback" not in up.stdout.read()
    assert processes_of(str(tmp_path)) == []


def test_a_step_ends_with_its_client_though_nobody_says_that_it_was_killed(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cluster = clusters("one", workers=1)
    given = ("--progress", "plain", "--build-context", base)
    root = context(SLOW)
    arguments = ("build", "--manager", cluster.manager, *given, str(root))
    containers = str(cluster.root / "w1" / "exec")
    with start(*arguments, cache=tmp_path) as build:
        read_until(build, " started")
        assert processes_of(containers)
        build.kill()
        # For its silence it is missed only after half a minute.
        wait_until(
            lambda: not processes_of(containers), "the step goes on", CLIENT_SILENCE_S / 2
        )


def test_a_step_that_was_finished_when_its_worker_was_killed_is_cached(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cluster = clusters("one", workers=1)
    root = context("FROM base\nRUN echo first > /first\nRUN echo started; sleep 60\n")
    given = ("--build-context", base)
    arguments = (
        "build",
        "--manager",
        cluster.manager,
        "--progress",
        "plain",
        *given,
        str(root),
    )
    with start(*arguments, cache=tmp_path) as build:
        read_until(build, " started")
        cluster.kill("w1")
        build.kill()
    cluster.start_worker("w1")
    (root / "Dockerfile").write_text("FROM base\nRUN echo first > /first\nRUN echo last\n")
    built = cluster.build(root, *given)
    assert built.step("RUN echo first")["cached"]
    assert not built.step("RUN echo last")["cached"]


def test_a_build_goes_on_and_is_told_of_whole_while_nobody_reads_what_it_says(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    printing = (
        "i=0; while [ $i -lt 5000 ]; do echo a line of some length, the $i.; i=$((i+1)); done"
    )
    root = context(
        f"FROM base AS prints\nRUN {printing}\nFROM prints\nCOPY f /f\nRUN touch /done\n"
        "FROM scratch\nCOPY --from=1 /f /done /\n",
        f="f" * 1_000_000,
    )
    cluster.wait_for_workers()
    out = tmp_path / "out"
    words = ("build", "--manager", cluster.manager, "--build-context", base)
    more = ("--progress", "plain", "-o", f"type=local,dest={out}", str(root))
    building = start(*words, *more, cache=tmp_path / "cache")
    wait_until((out / "done").exists, "it waits for its reader")
    said, _ = building.communicate(timeout=60)
    assert building.returncode == 0
    assert [line for line in said.splitlines() if line.endswith(", the 4999.")]
    assert said.count("a line of some length, the ") >= 5000
    assert said.splitlines()[-1] == f"wrote {out}"
