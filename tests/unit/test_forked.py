"""Forks of the program, of which most tests are made: they are what an executed one is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(forked.__file__).parents[1]
OUTSIDE = {name: value for name, value in os.environ.items() if name != "FILESYNC_LOG"}


def started(program: str, *, as_forks: bool) -> object:
    """Run ``program`` in a process of its own, with ``subprocess`` as it is or as forks; return its result."""
    install = "forked.install()" if as_forks else "pass"
    lines = (
        "import json, os, subprocess, sys; from pathlib import Path; from tests import forked",
        install,
        "PROGRAM = forked.PROGRAM",
        program,
        "print(json.dumps(result))",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=OUTSIDE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "program",
    [
        "done = subprocess.run([*PROGRAM, '--version'], capture_output=True, text=True)\n"
        "result = done.stdout, done.stderr, done.returncode",
        "done = subprocess.run([*PROGRAM, 'sink'], capture_output=True, text=True)\n"
        "result = done.stdout, done.stderr, done.returncode",
        "done = subprocess.run([*PROGRAM, 'manifest', '-'], input=b'x', capture_output=True)\n"
        "result = done.stderr.decode(), done.returncode",
        "env = {**os.environ, 'FILESYNC_LOG': 'loud'}\n"
        "done = subprocess.run([*PROGRAM, 'sync', 'a', 'b'], env=env, stderr=subprocess.PIPE, text=True)\n"
        "result = done.stderr, done.returncode",
        "with open(os.devnull) as nothing:\n"
        "    result = subprocess.call([*PROGRAM, 'workers', '--help'], stdout=2, stdin=nothing)",
    ],
    ids=["version", "no such command", "standard input", "environment", "descriptors"],
)
def test_what_a_fork_says_is_what_an_executed_one_says(program: str) -> None:
    assert started(program, as_forks=True) == started(program, as_forks=False)


def test_a_fork_has_the_directory_and_the_umask_that_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/file").touch()
    program = (
        f"done = subprocess.run([*PROGRAM, 'manifest', 'from', '-o', 'made'], cwd={str(tmp_path)!r}, umask=0o77, stdout=subprocess.DEVNULL)\n"
        "result = done.returncode"
    )
    assert started(program, as_forks=True) == 0
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600


def test_a_fork_is_a_child_that_can_be_killed(tmp_path: Path) -> None:
    program = (
        f"command = [*PROGRAM, 'serve', {str(tmp_path)!r}, '--listen', 'tcp://127.0.0.1:0']\n"
        "with subprocess.Popen(command, stdout=subprocess.PIPE) as process:\n"
        "    process.stdout.readline()\n"
        "    words = Path(f'/proc/{process.pid}/stat').read_text().rsplit(')')[-1].split()\n"
        "    line = Path(f'/proc/{process.pid}/cmdline').read_text()\n"
        "    process.kill()\n"
        "result = int(words[1]) == os.getpid(), 'tests.forked' in line, process.returncode"
    )
    assert started(program, as_forks=True) == [True, True, -signal.SIGKILL]


def test_what_a_fork_cannot_be_given_is_executed() -> None:
    program = (
        "done = subprocess.run([*PROGRAM, '--version'], preexec_fn=lambda: os.close(0), stdout=subprocess.PIPE)\n"
        "other = subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.modules) < 100)'], stdout=subprocess.PIPE)\n"
        "result = done.returncode, other.stdout.decode()"
    )
    assert started(program, as_forks=True) == [0, "True\n"]
