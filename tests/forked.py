"""The program as a fork: `python -m filesync …` of a test, without importing it anew each time.

The tests start some 3,500 of these processes, and a third of the time they took was imports. So a
*nursery*, one process for each of pytest's, imports all of the program once, and forks. What it
forks is given to the test's process as a child, and is told from one that was executed by its
memory and its command line alone. What is started in another way than by these three words, or
with what a fork cannot be given, is executed as ever; so is all where pytest runs in one process.
"""

import ctypes
import gc
import inspect
import json
import os
import pkgutil
import resource
import runpy
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = [sys.executable, "-m", "filesync"]
_PACKAGES: Final = ("filesync", "worker", "solver")
_PR_SET_CHILD_SUBREAPER: Final = 36
_LENGTH: Final = struct.Struct("<I")
_NOT_GIVEN: Final = ("executable", "shell", "preexec_fn", "pass_fds")
_LIMITS: Final = [n for name, n in vars(resource).items() if name.startswith("RLIMIT_")]


def install() -> None:
    """Have `subprocess` fork what it can, in this process, from now on."""
    nursery = _Nursery()
    signature = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        """A process, executed or forked."""

        def _execute_child(self, *args: object) -> None:
            given = signature.bind(self, *args).arguments
            if not nursery.can(given):
                super()._execute_child(*args)  # type: ignore[misc]
                return
            ends = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
            # What is not redirected is this process's own.
            standard = [own if end == -1 else end for own, end in enumerate(ends)]
            self.pid = nursery.fork(given, standard)
            self._child_created = True
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(given[name] for name in pipes))  # type: ignore[attr-defined]

    subprocess.Popen = Popen  # type: ignore[misc]


def load(package: str) -> None:
    """Import all modules of ``package``, but for programs."""
    for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


class _Nursery:
    """The process that forks, as seen from the one whose children they become."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._running: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def can(self, given: Mapping[str, Any]) -> bool:
        """Say whether a fork can be what these arguments of `Popen._execute_child` ask for."""
        args = given["args"]
        return (
            isinstance(args, list | tuple)
            and list(args[:3]) == PROGRAM
            and not any(given[name] for name in _NOT_GIVEN)
            and (given["gid"], given["gids"], given["uid"]) == (None, None, None)
            and given["process_group"] == -1
            and _python_variables(_environment(given)) == _python_variables(os.environ)
            and _limits() == _LIMITS_AT_FIRST
            and os.getpid() == self._owner
        )

    def fork(self, given: Mapping[str, Any], standard: Sequence[int]) -> int:
        """Return the process id of a new child, which has the descriptors ``standard`` as 0, 1, 2."""
        umask = given["umask"]
        request = {
            "arguments": [os.fsdecode(one) for one in given["args"][2:]],
            "cwd": os.fsdecode(given["cwd"] or os.getcwd()),
            "env": _environment(given),
            "umask": umask if umask >= 0 else _umask(),
            "session": given["start_new_session"],
        }
        data = json.dumps(request).encode()
        with self._lock, _subreaper():
            if self._running is None:
                self._running = _start()
            asking = self._running[1]
            socket.send_fds(asking, [_LENGTH.pack(len(data))], standard)
            asking.sendall(data)
            pid: int = _LENGTH.unpack(asking.recv(_LENGTH.size, socket.MSG_WAITALL))[0]
        return pid


def _environment(given: Mapping[str, Any]) -> dict[str, str]:
    env = os.environ if given["env"] is None else given["env"]
    return {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}


def _python_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Return what the interpreter reads when it starts."""
    names = [name for name in env if name.startswith(("PYTHON", "LC_", "LANG"))]
    return {name: env[name] for name in names}


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(number) for number in _LIMITS]


_LIMITS_AT_FIRST: Final = _limits()


def _umask() -> int:
    umask = os.umask(0o22)
    os.umask(umask)
    return umask


@contextmanager
def _subreaper() -> Iterator[None]:
    """Be whom an orphan below this process becomes a child of."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the nursery, and connect to it. It ends when the connection is closed."""
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, "-m", "tests.forked", str(its.fileno())]
        root = Path(__file__).parents[1]
        return subprocess.Popen(command, pass_fds=[its.fileno()], cwd=root), ours


def _serve(asking: socket.socket) -> dict[str, Any] | None:
    """Fork for each request; return it in the child, and None when nobody asks any more."""
    while True:
        head, standard, _, _ = socket.recv_fds(asking, _LENGTH.size, 3)
        if not head:
            return None
        data = asking.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)
        go, gone = os.pipe()
        middle = os.fork()
        if not middle:
            # An orphan: whoever asked for it adopts it.
            if os.fork():
                os._exit(0)
            os.close(gone)
            os.read(go, 1)
            os.close(go)
            asking.sendall(_LENGTH.pack(os.getpid()))
            for own, fd in enumerate(standard):
                os.dup2(fd, own)
                os.close(fd)
            request: dict[str, Any] = json.loads(data)
            return request
        os.waitpid(middle, 0)
        for fd in (go, gone, *standard):
            os.close(fd)


def _become(request: Mapping[str, Any]) -> None:
    """Be what ``request`` asks for, up to where the program begins."""
    if request["session"]:
        os.setsid()
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["arguments"]
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(fd, mode, closefd=False) for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
    )


def main() -> None:
    """Import the program, and fork until the connection of this descriptor is closed."""
    for package in _PACKAGES:
        load(package)
    gc.collect()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a fork has one thread"
    with socket.socket(fileno=int(sys.argv[1])) as asking:
        request = _serve(asking)
    if request is not None:
        _become(request)
        sys.modules.pop("__main__")
        runpy.run_module("filesync", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
