"""A manager and its workers as child processes of this one.

The children are forks: this process has loaded most of what they need, and started anew they would
load it for longer than a small build takes. Each has a pipe as standard input and ends when that
closes (``--until-eof``), so that whatever ends this process, a kill -9 too, ends them. Their state
outlives them.
"""

import asyncio
import contextlib
import gc
import io
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from filesync.command import cli
from filesync.errors import UsageError
from filesync.transfer.connection.unix import remove_sockets, socket_directory
from solver.client.contexts import cache_home
from solver.client.link_zmq import ManagerLink
from solver.client.occupant import occupied, sharer
from solver.errors import ManagerLost, NoWorker
from solver.wire import ListWorkers, Workers

READY_S: Final = 60.0
"""A worker that cleans up after a kill may need a while to come up."""
STOP_S: Final = 10.0
LOOK_S: Final = 0.2
AGAIN: Final = "what was built is kept: start it again"


@contextlib.contextmanager
def embedded_cluster(state: Path, *, workers: int, listen: str | None = None) -> Iterator[str]:
    """Run a cluster below ``state``, which this process has; give its manager's address once all have joined.

    The workers are called ``w1``, ``w2``, … Leaving stops all of them and waits. Both block: call it
    before there is an event loop, or a thread, for none of them comes along into a fork.

    Args:
        state: where what they keep is.
        workers: how many.
        listen: where the manager listens, and workers on loopback. None is a socket that no other
            user can reach, and no step, though that is on the same network.

    Raises:
        UsageError: a child cannot start; its own sentence is on standard error.
    """
    with _sockets(state) as sockets, _children() as children:

        def start(command: str, name: str, *words: str) -> _Child:
            child = _Child(command, name, words, children)
            children.append(child)
            return child

        at = listen or f"ipc://{sockets}/manager"
        first = start("manager", "manager", "--listen", at, "--state", str(state / "manager"))
        # A socket's address is known before it is there: all come up at the same time.
        manager = first.address() if listen else at
        for number in range(1, workers + 1):
            name = f"w{number}"
            at = "tcp://127.0.0.1:0" if listen else f"ipc://{sockets}/{name}"
            where = ["--manager", manager, "--listen", at]
            start("worker", name, *where, "--state", str(state / name), "--name", name)
        for child in children[1 if listen else 0 :]:
            child.address()
        asyncio.run(_wait_for_workers(manager, workers))
        lost = "the manager of the cluster on this machine has ended, or was killed"
        with _while(lambda: not first.has_ended(0), else_say=f"{lost}; {AGAIN}"):
            yield manager


@contextlib.contextmanager
def _children() -> Iterator[list["_Child"]]:
    """Give a list for children; all that are in it by the end are stopped."""
    children: list[_Child] = []
    try:
        yield children
    finally:
        # Workers first, so that they can say that they leave; all at once, as each may be coming up.
        for is_manager in (False, True):
            ending = [child for child in children if (child.command == "manager") == is_manager]
            for child in ending:
                child.end()
            for child in ending:
                child.wait()


@contextlib.contextmanager
def _while(lives: Callable[[], bool], *, else_say: str) -> Iterator[None]:
    """Have this process end, as by SIGTERM, when its manager does not live any more.

    A build waits for a manager that is gone, and nobody would start this one again.

    Raises:
        ManagerLost: that was in the way; with the sentence ``else_say``.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            if not lives():
                os.kill(os.getpid(), signal.SIGTERM)  # a job in the background ignores SIGINT
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        try:
            yield
        finally:
            over.set()
            watching.join()
    except BaseException as exc:
        if lives():
            raise
        raise ManagerLost(else_say) from exc


class _Child:
    """A fork of this process that runs ``filesync COMMAND WORDS``.

    It prints its address as its first line once it is ready.

    Attributes:
        alive: a descriptor; the child ends when no process has it any more.
    """

    def __init__(
        self, command: str, name: str, words: Sequence[str], others: Sequence["_Child"]
    ) -> None:
        self.command = command
        stdin, self.alive = os.pipe()
        self._said, stdout = os.pipe()
        sys.stdout.flush()
        gc.freeze()  # or it would write to what both share, to look through it
        # A child that is interrupted here would unwind what the parent has under way.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._pid = os.fork()
            if not self._pid:
                for other in others:
                    os.close(other.alive)
                os.close(self.alive)
                _become(name, [command, *words, "--until-eof"], stdin, stdout, mask)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(stdin)
        os.close(stdout)
        self._ended = os.pidfd_open(self._pid)

    def address(self) -> str:
        """Wait until it is ready and return the address that it prints, once.

        Raises:
            UsageError: it ended before, or takes for ever.
        """
        line, until_s = b"", time.monotonic() + READY_S
        while not line.endswith(b"\n"):
            left_s = max(until_s - time.monotonic(), 0)
            is_heard, _, _ = select.select([self._said], [], [], left_s)
            if not is_heard or not (more := os.read(self._said, 4096)):
                raise UsageError(
                    f"the {self.command} of the embedded cluster did not start; see above"
                )
            line += more
        return line.decode().strip()

    def end(self) -> None:
        """Have it end; what it prints from now on is for nobody."""
        os.close(self.alive)

    def has_ended(self, timeout_s: float) -> bool:
        """Wait until it has ended, no longer than that; say whether it has."""
        ready, _, _ = select.select([self._ended], [], [], timeout_s)
        return bool(ready)

    def wait(self) -> None:
        """Wait until it has ended, and kill it where that takes too long."""
        if not self.has_ended(STOP_S):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._ended)
        os.close(self._said)


def _become(
    name: str, words: list[str], stdin: int, stdout: int, mask: set[int | signal.Signals]
) -> NoReturn:
    """Run the command line ``words`` in a process that was forked for it, and end.

    ``mask`` are the signals that it blocks then.
    """
    code: object = 1
    try:
        os.setsid()  # Ctrl-C is for the parent, which then stops its children in order.
        _forget_interrupt()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        Path("/proc/self/comm").write_text(f"filesync {name}")
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.close(stdin)
        os.close(stdout)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        cli.main(words)
    except SystemExit as exc:
        code = exc.code
    except BaseException:  # the top of a process
        traceback.print_exc()
    finally:
        # Not the parent's way out, whose blocks and files are none of its business.
        os._exit(code if isinstance(code, int) else 1)


def _forget_interrupt() -> None:
    """Have an interrupt that is held back never come; others come as before."""
    signal.signal(signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))


async def _wait_for_workers(manager: str, count: int) -> None:
    async with ManagerLink(manager) as link:
        rows = (await link.ask(ListWorkers(count), Workers)).rows
    if len(rows) < count:
        raise NoWorker(f"only {len(rows)} of {count} workers joined; see what they print above")


@contextlib.contextmanager
def _sockets(state: Path) -> Iterator[Path]:
    """Give a directory for the cluster's sockets, and remove the one that a killed build has left."""
    note = state / "sockets"
    with contextlib.suppress(OSError):
        remove_sockets(note.readlink())
    with socket_directory() as made:
        with contextlib.suppress(OSError):  # a disk may be full
            note.unlink(missing_ok=True)
            note.symlink_to(made)
        yield made


def default_state() -> Path:
    """Return where the embedded cluster keeps its state between builds."""
    return cache_home() / "cluster"


@contextlib.contextmanager
def cluster_here(*, workers: int) -> Iterator[str]:
    """Give the manager that builds of this user share, or else start the embedded cluster; give its.

    Blocks while another build has that cluster.
    """
    state = default_state()
    with occupied(state) as address:
        if address is not None:
            with _while_shared(state, address):
                yield address
        else:
            with embedded_cluster(state, workers=workers) as address:
                yield address


@contextlib.contextmanager
def _while_shared(state: Path, address: str) -> Iterator[None]:
    """Have this process end when ``filesync up`` does, which shares the manager at ``address``."""
    if not address.startswith("ipc:"):
        yield  # the next one may be there again
        return
    with sharer(state) as lives:
        lost = "the cluster of `filesync up` has ended"
        with _while(lives, else_say=f"{lost}; {AGAIN}"):
            yield


@contextlib.contextmanager
def given_or_built_here(manager: str | None) -> Iterator[str]:
    """Give ``manager``, or that of the cluster here, with all the workers that it ever had.

    Raises:
        UsageError: it never had one.
    """
    if manager is not None:
        yield manager
        return
    count = sum(1 for path in default_state().glob("w[0-9]*") if path.is_dir())
    if not count:
        raise UsageError("nothing was built here yet; or give --manager ADDR")
    with cluster_here(workers=count) as address:
        yield address
