"""How containers, and other programs, end before their time: who runs them has been cancelled, or killed."""

import asyncio
import contextlib
import itertools
import logging
import shlex
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from filesync.transfer.threads import until_done
from worker.exec.errors import RuntimeFailed
from worker.exec.launch import command_line
from worker.exec.runtime import Runtime, environment

log = logging.getLogger(__name__)

KILL_RETRY_S: Final = 0.1
KILL_ATTEMPTS: Final = 50
_READ_BYTES: Final = 64 << 10

# The runtime may not have made the container yet: deleting is repeated until what runs it ends.
_GUARD: Final = """
read -r _
n=0
while [ $n -lt 50 ] && kill -0 "$1"; do
    eval "$0"
    n=$((n + 1))
    sleep 0.1
done
"""
# Its child alone, which it then waits for: the end of both is that of all. There may be none for
# a moment. Where the kernel does not tell of children, it is the process group.
_KILLING: Final = """
children=/proc/$0/task/$0/children
child=-$0
if [ -e "$children" ]; then read -r child _ <"$children"; fi
kill -KILL "$child"
"""

Ending = Callable[[int], list[str]]
"""The words that end a container, by the process that was launched to run it."""


def deletion(runtime: Runtime, container: str) -> list[str]:
    """Return the words that end a container whose state is in the runtime's."""
    return command_line(runtime.words("delete", "--force", container))


def killing(pid: int) -> list[str]:
    """Return the words that end what is ``mortal`` and runs as ``pid``."""
    return ["sh", "-c", _KILLING, str(pid)]


@contextlib.asynccontextmanager
async def guard(pid: int, ending: Sequence[str]) -> AsyncIterator[None]:
    """Keep a process that ends the container, which ``pid`` runs, if this process is killed.

    A container outlives who started it. The guard is told of a death by the end of its input, of
    which this process alone has the other side, and is a child, as an orphan would be nobody's
    to reap where a worker is the first process of its machine.
    """
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", _GUARD, shlex.join(ending), str(pid)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await until_done(process.wait())


@contextlib.asynccontextmanager
async def launched(
    launch: Coroutine[Any, Any, Process], ending: Ending
) -> AsyncIterator[Process]:
    """Begin a process for the block, and end it after that with all that it runs.

    Cancelled while it begins it is ended in the same way: asyncio would kill it alone.
    """
    launching = asyncio.ensure_future(launch)
    try:
        yield await until_done(launching)
    finally:
        if not launching.cancelled() and launching.exception() is None:
            process = launching.result()
            if process.returncode is None:
                await until_done(_end(process, ending(process.pid)))


async def _end(process: Process, ending: Sequence[str]) -> None:
    """Have a container end by the words ``ending``, and the ``process`` that runs it with it."""
    # The runtime may not have registered the container yet, or be about to start it: deleting
    # is repeated until the process that runs it has ended, which it does with the container.
    # A process that is stuck is killed at last, and the container deleted without it.
    for attempt in itertools.count():
        if attempt >= KILL_ATTEMPTS:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await _call(ending)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_RETRY_S):
                await _drain(process)
            return


async def sweep(runtime: Runtime, scratch: Path) -> None:
    """Kill and delete every container that a killed worker left, whose guard was killed as well.

    They are in the runtime's state, or what is ``mortal`` runs them from a bundle in ``scratch``.

    Raises:
        RuntimeFailed: a container cannot be deleted.
    """
    left = await _containers(runtime)
    for container in left:
        log.warning("container left behind, deleting container=%s", container)
        await _call(deletion(runtime, container))
    if left and (left := await _containers(runtime)):
        raise RuntimeFailed(f"container {left[0]} of an earlier worker cannot be deleted")
    for pid in _mortals(scratch):
        log.warning("container left behind, killing pid=%d", pid)
        await _call(killing(pid))


async def _drain(process: Process) -> None:
    # asyncio reports the end of a process only when its pipes have ended too, and a paused
    # reader never sees that: what is still in the pipes is read and dropped.
    for reader in (process.stdout, process.stderr):
        while reader is not None and await reader.read(_READ_BYTES):
            pass
    await process.wait()


async def _containers(runtime: Runtime) -> list[str]:
    # crun and runc have a directory for each; to ask them takes a tenth of a worker's start.
    # What crun keeps there for itself, as 1.28 does, is hidden.
    if not any(runtime.run_root.glob("[!.]*")):
        return []
    process = await asyncio.create_subprocess_exec(
        *command_line(runtime.words("list", "--quiet")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace").split()


def _mortals(scratch: Path) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            is_below = (process / "cwd").readlink().is_relative_to(scratch)
            if is_below and (process / "cmdline").read_bytes().startswith(b"unshare\0"):
                yield int(process.name)


async def _call(words: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(),
    )
    await process.wait()
