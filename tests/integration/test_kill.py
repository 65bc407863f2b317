"""Processes that are interrupted or killed at any moment: what they leave, and what comes after."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import Cluster
from filesync.disk.scan import scan
from filesync.manifest import MemoryNodes

ContextMaker = Callable[..., Path]
SLOW = "FROM base\nRUN echo started; sleep 60\n"
DELAYS_S = (0.15, 0.4, 0.7, 1.0, 1.3, 1.7)

pytestmark = pytest.mark.needs("root", "crun")


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def processes_of(text: str) -> list[str]:
    """Return the command lines of the processes that name ``text``, but for this one."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found


def mounts_below(path: Path) -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in mounts if str(path) in line]


def start(*arguments: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "filesync", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
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
        status = build.wait(20)
        said = build.stdout.read() if build.stdout is not None else ""
    if number == signal.SIGINT:
        assert status == 130
    assert "Traceback" not in said
    wait_until(lambda: not processes_of(str(cache)), "the children did not end")
    assert mounts_below(cache) == []
    worker = cache / "filesync/cluster/w1"
    assert list((worker / "work").iterdir()) == []
    assert list((worker / "exec/scratch").iterdir()) == []


def test_ctrl_c_of_up_ends_its_children(tmp_path: Path) -> None:
    with start("up", "--listen", "tcp://127.0.0.1:0", cache=tmp_path) as up:
        read_until(up, "stops all")
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0
        assert up.stdout is not None
        assert "Traceback" not in up.stdout.read()
    assert processes_of(str(tmp_path)) == []


def content_of(root: Path) -> bytes:
    return scan(root, MemoryNodes()).content


LAYERED = """\
FROM base AS make
RUN mkdir /made && head -c 3000000 /dev/zero > /made/zero && sleep 0.2
RUN rm /made/zero && echo two > /made/two && ln -s two /made/link && sleep 0.2
COPY data /data
FROM make
COPY --from=make /made /taken
RUN cat /made/two /data > /sum && sleep 0.2
"""


def test_a_worker_killed_at_any_moment_leaves_nothing_and_loses_nothing_finished(
    cluster: Cluster, context: ContextMaker, base: str, tmp_path: Path
) -> None:
    root = context(LAYERED, data=os.urandom(400_000))
    given = ("--build-context", base)
    clean, after = tmp_path / "clean", tmp_path / "after"
    cluster.build(root, *given, "-o", f"type=local,dest={clean}")
    for number, delay_s in enumerate(DELAYS_S):
        # Another argument makes every RUN another step.
        changed = LAYERED.replace("sleep 0.2", f"sleep 0.2{number}")
        (root / "Dockerfile").write_text(changed)
        build = start(
            *("build", "--manager", cluster.manager, "--progress", "plain", *given, str(root)),
            cache=tmp_path / "cache",
        )
        with build:
            time.sleep(delay_s)
            for name in cluster.names:
                cluster.kill(name)
            build.kill()
        for name in cluster.names:
            cluster.start_worker(name)
            state = cluster.root / name
            assert mounts_below(state) == []
            assert list((state / "work").iterdir()) == []
            assert list((state / "exec/scratch").iterdir()) == []
        cluster.build(root, *given, "-o", f"type=local,dest={after}")
        assert content_of(after) == content_of(clean)
        assert cluster.build(root, *given).totals["steps_run"] == 0


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


def test_a_client_that_is_killed_frees_its_worker(
    clusters: Callable[..., Cluster], context: ContextMaker, base: str, tmp_path: Path
) -> None:
    cluster = clusters("one", workers=1)
    command = ("build", "--manager", cluster.manager, "--progress", "plain")
    root = context(SLOW)
    with start(*command, "--build-context", base, str(root), cache=tmp_path) as build:
        read_until(build, " started")
        build.kill()
    scratch = cluster.root / "w1/exec/scratch"
    wait_until(lambda: not list(scratch.iterdir()), "the step still runs", 45)
