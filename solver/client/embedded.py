"""A manager and its workers as child processes of this one.

The children are started with a pipe as standard input and end when it closes (``--until-eof``), so
that whatever ends this process, a kill -9 too, ends them. Their state outlives them.
"""

import asyncio
import contextlib
import fcntl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from filesync.errors import StoreError, UsageError
from filesync.transfer.connection.unix import remove_sockets, socket_directory
from solver.client.contexts import cache_home
from solver.client.link_zmq import ManagerLink
from solver.errors import NoWorker
from solver.wire import ListWorkers, Workers

READY_S: Final = 60.0
"""A worker that cleans up after a kill may need a while to come up."""
STOP_S: Final = 10.0


@contextlib.asynccontextmanager
async def embedded_cluster(
    state: Path, *, workers: int, listen: str | None = None
) -> AsyncIterator[str]:
    """Run a cluster below ``state`` and give its manager's address once all have joined.

    The workers are called ``w1``, ``w2``, … Leaving stops all of them and waits.

    Args:
        state: where what they keep is.
        workers: how many.
        listen: where the manager listens, and workers on loopback. None is for this process
            alone: no other user can reach it, and no step, though that is on the same network.

    Raises:
        UsageError: another process uses ``state``, or a child cannot start; its own
            sentence is in the error.
    """
    with _only_user(state), _sockets(state) as sockets:
        async with _Children() as children:
            at = listen or f"ipc://{sockets}/manager"
            words = ["--listen", at, "--state", str(state / "manager")]
            started = [await children.start("manager", *words)]
            # A socket's address is known before it is there: all come up at the same time.
            manager = await children.address(started.pop()) if listen else at
            for number in range(1, workers + 1):
                name = f"w{number}"
                at = "tcp://127.0.0.1:0" if listen else f"ipc://{sockets}/{name}"
                where = ["--manager", manager, "--listen", at]
                place = ["--state", str(state / name), "--name", name]
                started.append(await children.start("worker", *where, *place))
            for child in started:
                await children.address(child)
            await _wait_for_workers(manager, workers)
            yield manager


class _Children:
    """Child processes; each prints its address as its first line once it is ready."""

    def __init__(self) -> None:
        self._children: list[_Child] = []

    async def __aenter__(self) -> "_Children":
        return self

    async def __aexit__(self, *_: object) -> None:
        # Workers first, so that they can say that they leave; all at once, as each may be coming up.
        for command in ("worker", "manager"):
            ending = [child.process for child in self._children if child.command == command]
            await asyncio.gather(*map(_stop, ending))

    async def start(self, command: str, *words: str) -> "_Child":
        """Start ``filesync COMMAND WORDS``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "filesync",
            command,
            *words,
            "--until-eof",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None,
            # Ctrl-C is for the parent, which then stops its children in order.
            start_new_session=True,
        )
        child = _Child(command, process)
        self._children.append(child)
        return child

    async def address(self, child: "_Child") -> str:
        """Wait until a child is ready and return the address that it prints, once for each."""
        assert child.process.stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                line = await child.process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line.strip():
            raise UsageError(
                f"the {child.command} of the embedded cluster did not start; see above"
            )
        return line.decode().strip()


class _Child(NamedTuple):
    command: str
    process: asyncio.subprocess.Process


async def _stop(child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    child.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


async def _wait_for_workers(manager: str, count: int) -> None:
    async with ManagerLink(manager) as link:
        rows = (await link.ask(ListWorkers(count), Workers)).rows
    if len(rows) < count:
        raise NoWorker(f"only {len(rows)} of {count} workers joined; see what they print above")


@contextlib.contextmanager
def _only_user(state: Path) -> Iterator[None]:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state / "lock").open("ab")
    except OSError as exc:
        raise StoreError(
            f"cannot keep state in {state}: {exc.strerror}; make it writable, or set XDG_CACHE_HOME"
        ) from exc
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"a build or `filesync up` uses {state}: wait for the build, or give"
                " --manager the address that `filesync up` prints"
            ) from None
        yield


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


@contextlib.asynccontextmanager
async def cluster_built_here() -> AsyncIterator[str]:
    """Start the embedded cluster with all the workers that it ever had; give its address.

    Raises:
        UsageError: it never had one.
    """
    state = default_state()
    count = sum(1 for path in state.glob("w[0-9]*") if path.is_dir())
    if not count:
        raise UsageError("nothing was built here yet; or give --manager ADDR")
    async with embedded_cluster(state, workers=count) as address:
        yield address
