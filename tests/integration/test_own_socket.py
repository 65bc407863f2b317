"""A manager that is not told where to listen: a socket in its state directory, for its user alone."""

import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.processes import run
from filesync.transfer.connection.unix import socket_directory
from tests.integration.test_interrupted import start, wait_until

ContextMaker = Callable[..., Path]


@contextmanager
def running(*arguments: str, cache: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a manager or worker; give it, and the address that it says first."""
    with start(*arguments, "--state", str(cache / arguments[0]), cache=cache) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)


@pytest.fixture
def short() -> Iterator[Path]:
    """Where a socket has room for its path, wherever temporary files are."""
    with socket_directory() as made:
        yield made


def test_a_manager_by_itself_is_found_by_its_socket_which_nobody_else_can_open(
    context: ContextMaker, short: Path
) -> None:
    state, out = short / "manager", short / "out"
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    with running("manager", cache=short) as (first, address):
        assert address == f"ipc://{state}/socket"
        assert stat.S_IMODE((state / "socket").stat().st_mode) & 0o077 == 0
        given = ("--name", "one", "--manager", address)
        with running("worker", *given, cache=short) as (_, worker):
            assert worker == f"ipc://{short}/worker/socket"
            assert stat.S_IMODE((short / "worker/socket").stat().st_mode) & 0o077 == 0
            wait_until(
                lambda: "one" in run("workers", "--manager", address).stdout, "no worker"
            )
            first.kill()  # it leaves its socket
            first.wait()
            with running("manager", cache=short) as (_, again):
                assert again == address
                root = context("FROM scratch\nCOPY file /file\n", file="one")
                built = run("build", "--manager", address, "-o", str(out), str(root))
                assert built.returncode == 0, built.stderr
    assert (out / "file").read_text() == "one"


def test_nobody_takes_the_socket_of_another_who_runs(short: Path) -> None:
    with running("manager", cache=short) as (_, address):
        for what in (("manager",), ("worker", "--manager", address), ("serve", str(short))):
            state = () if what[0] == "serve" else ("--state", str(short / f"other-{what[0]}"))
            done = run(*what, "--listen", address, *state)
            assert done.returncode == 2
            assert f"cannot listen on {address}: another process does" in done.stderr
        assert run("workers", "--manager", address).returncode == 0


def test_a_state_directory_with_too_long_a_path_is_said_to_be_so(tmp_path: Path) -> None:
    done = run("manager", "--state", str(tmp_path / ("long" * 30)))
    assert done.returncode == 2
    assert (
        "too long for a socket: give a shorter --state, or say where to --listen" in done.stderr
    )
