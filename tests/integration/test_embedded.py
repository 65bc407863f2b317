"""The cluster that a build starts for itself, and who can reach it."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from filesync.process.ending import cleaned_up_when_ended
from solver.client.embedded import embedded_cluster
from solver.client.link_zmq import ManagerLink
from solver.wire import ListWorkers, Workers


def _listened_at_by_children() -> list[str]:
    """Return at which of this machine's TCP addresses, as the kernel writes them, children listen."""
    pids = Path("/proc/thread-self/children").read_text().split()
    held = {one for pid in pids for one in _opened_by(pid)}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held]


def _opened_by(pid: str) -> Iterator[str]:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            yield str(fd.readlink())


async def _workers_of(manager: str) -> list[str]:
    async with ManagerLink(manager) as link:
        rows = (await link.ask(ListWorkers(2), Workers)).rows
    return [row.address for row in rows]


def show(state: Path, listen: str | None) -> None:
    """Print what a cluster listens at: as its processes say, as the kernel does; and who may go there."""
    with embedded_cluster(state, workers=2, listen=listen) as manager:
        said = [manager, *asyncio.run(_workers_of(manager))]
        paths = [Path(one.removeprefix("ipc://")) for one in said if one.startswith("ipc:")]
        modes = [stat.S_IMODE(path.parent.stat().st_mode) for path in paths]
        sys.stdout.write(json.dumps([said, _listened_at_by_children(), modes]))


def interrupted_forks() -> None:
    """Have each fork be interrupted as soon as it is one, as by a Ctrl-C just then."""
    fork = os.fork

    def interrupted() -> int:
        if not (pid := fork()):
            os.kill(os.getpid(), signal.SIGINT)
        return pid

    os.fork = interrupted


def outlive_the_manager(state: Path) -> None:
    """Have the manager killed, and wait for ever."""
    with cleaned_up_when_ended(), embedded_cluster(state, workers=1):
        pids = Path("/proc/thread-self/children").read_text().split()
        (manager,) = (
            int(pid) for pid in pids if "manage" in Path(f"/proc/{pid}/comm").read_text()
        )
        os.kill(manager, signal.SIGKILL)
        threading.Event().wait()


def test_nobody_waits_for_a_manager_that_was_killed_and_comes_back_no_more(
    tmp_path: Path,
) -> None:
    program = f"from {__name__} import *; outlive_the_manager(Path({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "the manager of the cluster on this machine has ended" in done.stderr


def test_a_child_that_fails_of_a_bug_leaves_its_traceback(tmp_path: Path) -> None:
    program = (
        f"from {__name__} import *; from filesync.command import cli; cli.main = lambda words: 1 / 0;"
        f"show(Path({str(tmp_path)!r}), None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ZeroDivisionError" in done.stderr
    assert "the manager of the embedded cluster did not start" in done.stderr


@pytest.mark.parametrize("listen", [None, "tcp://127.0.0.1:0"])
def test_nobody_but_its_user_reaches_a_cluster_unless_it_shall_listen(
    tmp_path: Path, listen: str | None
) -> None:
    program = f"from {__name__} import *; show(Path({str(tmp_path)!r}), {listen!r})"
    # In a process of its own, which has no threads: it forks.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    said, listened, modes = json.loads(done.stdout)
    assert len(said) == 3
    if listen:
        assert all(one.startswith("tcp://127.0.0.1:") for one in said)
        assert listened
    else:
        assert all(one.startswith("ipc:///") for one in said)
        assert not listened  # a step of a build is on the same network
        assert modes == [0o700] * 3


def test_an_interrupt_that_children_get_as_well_is_for_their_parent_alone(
    tmp_path: Path,
) -> None:
    program = (
        f"from {__name__} import *; interrupted_forks(); show(Path({str(tmp_path)!r}), None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)[0]) == 3
