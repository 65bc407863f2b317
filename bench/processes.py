"""A cluster of real processes on loopback, for benchmarks and tests."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from filesync.keys.files import key_for
from solver.client.link_zmq import ManagerLink
from solver.wire import ListWorkers, Workers

STOP_S = 20.0


class Machine(NamedTuple):
    """Where a process runs: by which address it is reached, and the words that run a command there."""

    host: str
    through: tuple[str, ...] = ()


class Cluster:
    """A manager and workers ``w1``, ``w2``, … below ``root``; each can be killed and started again."""

    def __init__(
        self,
        root: Path,
        *,
        workers: int = 2,
        arguments: Mapping[str, Sequence[str]] | None = None,
        host: str = "127.0.0.1",
        machines: Mapping[str, Machine] | None = None,
    ) -> None:
        """``machines`` are where workers, or the manager, run that do not run here."""
        self.root = root
        self.names = [f"w{number}" for number in range(1, workers + 1)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.manager = ""
        self.ports: set[int] = set()
        self._here = Machine(host)
        self._machines = machines or {}
        self._trust = () if host.startswith("127.") else ("--allow-insecure",)
        self._arguments = arguments or {}

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self.start_manager()
            for name in self.names:
                self.start_worker(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_manager(self) -> None:
        """Start the manager, at the address that it had before if it had one."""
        machine = self._machines.get("manager", self._here)
        listen = self.manager or _any_port(machine)
        words = ("--listen", listen, "--state", str(self.root / "manager"))
        more = self._arguments.get("manager", ())
        self.manager = self._start("manager", *words, *more, through=machine.through)

    def start_worker(self, name: str) -> None:
        """Start a worker on the state that it had before."""
        state = str(self.root / name)
        machine = self._machines.get(name, self._here)
        where = ("--manager", self.manager, "--listen", _any_port(machine))
        words = ("--state", state, "--name", name, *self._arguments.get(name, ()))
        self._start("worker", *where, *words, name=name, through=machine.through)

    def joined(self) -> set[str]:
        """Return the names of the workers that the manager thinks are there."""
        return asyncio.run(_joined(self.manager))

    def wait_for_workers(self) -> None:
        """Wait until all workers have joined."""
        deadline_s = time.monotonic() + STOP_S
        while not self.joined().issuperset(self.names):
            if time.monotonic() > deadline_s:
                raise RuntimeError("not all workers joined")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """Kill -9 a process and reap it."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _close(process)

    def stop(self) -> None:
        """Stop every process as Ctrl-C would, workers first. Idempotent."""
        for name in sorted(self.processes, key=lambda name: name == "manager"):
            self.stop_one(name)

    def stop_one(self, name: str) -> None:
        """Stop a process as Ctrl-C would: a worker leaves, so nobody waits to see that it is gone."""
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process)

    def peak_bytes(self, name: str) -> int:
        """Return the most memory that a process has had resident."""
        return peak_bytes(self.processes[name].pid)

    def build(
        self,
        context: Path,
        *arguments: str,
        check: bool = True,
        through: Sequence[str] = (),
    ) -> "BuildRun":
        """Run ``filesync build`` against this cluster and return what came of it.

        ``through`` are words in front of the command: what runs it elsewhere.
        """
        metadata = self.root / "metadata.json"
        metadata.unlink(missing_ok=True)
        command = ["build", "--manager", self.manager, "--progress", "plain"]
        done = run(
            *command,
            "--metadata-file",
            str(metadata),
            *arguments,
            str(context),
            through=through,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"the build failed:\n{done.stderr}")
        value = json.loads(metadata.read_text()) if metadata.exists() else {}
        return BuildRun(done.returncode, done.stdout, done.stderr, value)

    def _start(
        self,
        command: str,
        *arguments: str,
        name: str = "manager",
        through: Sequence[str],
    ) -> str:
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", "filesync", command, *arguments, *self._trust],
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.processes[name] = process
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        if not line:
            said = (self.root / f"{name}.log").read_text()
            raise RuntimeError(f"{name} did not start:\n{said}")
        self.ports.add(int(line.rpartition(":")[2]))
        return line


def _any_port(machine: Machine) -> str:
    return f"tcp://{machine.host}:0"


class BuildRun:
    """One run of ``filesync build``."""

    def __init__(self, status: int, stdout: str, stderr: str, metadata: dict[str, Any]) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.metadata = metadata

    @property
    def totals(self) -> dict[str, Any]:
        """The metadata's totals."""
        totals: dict[str, Any] = self.metadata["filesync"]["totals"]
        return totals

    def step(self, text: str) -> dict[str, Any]:
        """Return the one step whose name contains ``text``."""
        steps = [s for s in self.metadata["filesync"]["steps"] if text in s["name"]]
        if len(steps) != 1:
            raise LookupError(f"{len(steps)} steps are called {text!r}")
        found: dict[str, Any] = steps[0]
        return found


def run(
    *arguments: str, env: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the ``filesync`` command, behind the words of ``through``; return what came of it."""
    return subprocess.run(
        [*through, sys.executable, "-m", "filesync", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


async def _joined(manager: str) -> set[str]:
    async with ManagerLink(manager, key_for(manager, None)) as link:
        return {row.name for row in (await link.ask(ListWorkers(), Workers)).rows}


def peak_bytes(pid: int) -> int:
    """Return the most memory that a running process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
