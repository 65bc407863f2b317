"""Runs one container in an OCI runtime and streams what it prints."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import secrets
import shlex
import shutil
import stat
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filesync.disk.removing import remove_path
from filesync.disk.scanning.readfile import read_xattrs
from filesync.transfer.threads import in_thread, until_done
from worker.exec.errors import CommandNotFound, NoRuntime, RuntimeFailed
from worker.exec.launch import (
    LOG,
    InMemory,
    command_line,
    in_memory_of,
    mortal,
    overlay_directories,
    staging_of,
)
from worker.exec.output import OnOutput
from worker.exec.spec import (
    CONFIG,
    ROOTFS,
    SECRETS,
    Bind,
    ContainerSpec,
    Throwaway,
    config_of,
    staged_name,
)

log = logging.getLogger(__name__)

READ_BYTES: Final = 64 << 10
STDOUT: Final = 1
STDERR: Final = 2
KILL_RETRY_S: Final = 0.1
KILL_ATTEMPTS: Final = 50
MAX_LOG_BYTES: Final = 64 << 10

TOOLS: Final = (
    "unshare",
    "mount",
    "umount",
    "stat",
    "sh",
    "cp",
    "sleep",
    "dd",
    "chown",
    "chmod",
)
"""What running a container takes of a machine, beside an OCI runtime."""
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
_NOT_FOUND: Final = ("executable file", "open executable", "exec: ", "exec format error")


Ending = Callable[[int], list[str]]
"""The words that end a container, by the process that was launched to run it."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime: its program, and the directory where it keeps its containers' state."""

    program: Path
    run_root: Path

    @property
    def copies_config(self) -> bool:
        """Does a container's state have a copy of its configuration, the environment and all?"""
        return self.program.name != "runc"

    def words(self, *words: str) -> list[str]:
        """Return the command line of one of the runtime's commands."""
        options = ["--root", str(self.run_root)]
        if self.program.name == "crun":
            # Ops are not limited, and a worker may itself be where no cgroup can be made.
            options.append("--cgroup-manager=disabled")
        return [str(self.program), *options, *words]


def find_runtime(run_root: Path) -> Runtime:
    """Return crun, or else runc, keeping its state in ``run_root``.

    Raises:
        NoRuntime: this machine or this user cannot run containers; says what to do.
    """
    if os.geteuid() != 0:
        raise NoRuntime("RUN needs root: start the worker as root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise NoRuntime(f"RUN needs {missing[0]}: install util-linux and coreutils")
    found = shutil.which("crun") or shutil.which("runc")
    if found is None:
        raise NoRuntime("RUN needs an OCI runtime: install crun or runc")
    return Runtime(Path(found), run_root)


async def run_exec(
    spec: ContainerSpec, *, bundle_dir: Path, runtime: Runtime, on_output: OnOutput
) -> int:
    """Run a container to its end and return its command's exit status (128 + n for signal n).

    Makes ``bundle_dir``, whose parent must be there, and removes it. Output is passed on as
    it comes, in pieces of at most 64 KiB; while ``on_output`` runs the command is held back.
    When this returns, raises or is cancelled the container and all its processes are gone,
    and no mount, bundle or runtime state is left.

    Raises:
        CommandNotFound: the root has no such command, or it cannot be executed.
        RuntimeFailed: the container could not be set up.
    """
    try:
        await in_thread(_write_bundle, spec, bundle_dir)
        container = f"filesync-{secrets.token_hex(8)}"
        status = await _run(container, bundle_dir, spec, runtime, on_output)
        if status:
            _raise_runtime_error(spec, bundle_dir / LOG)
        return status
    finally:
        await in_thread(remove_path, bundle_dir)


async def sweep(runtime: Runtime) -> None:
    """Kill and delete every container in the runtime's state, as a killed worker left them.

    Raises:
        RuntimeFailed: a container cannot be deleted.
    """
    for container in await _containers(runtime):
        log.warning("container left behind, deleting container=%s", container)
        await _call(_deletion(runtime, container))
    left = await _containers(runtime)
    if left:
        raise RuntimeFailed(f"container {left[0]} of an earlier worker cannot be deleted")


def _write_bundle(spec: ContainerSpec, bundle: Path) -> None:
    bundle.mkdir(mode=0o700)
    (bundle / ROOTFS).mkdir()
    (bundle / "mounts").mkdir()
    (bundle / SECRETS).mkdir()
    for index, item in enumerate(spec.shown):
        staged = bundle / staged_name(index)
        match item:
            case Bind(directory=False):
                staged.touch()
            case Bind():
                staged.mkdir()
            case Throwaway():
                staged.mkdir()
                for name in overlay_directories(index):
                    (bundle / name).mkdir(parents=True)
                _dress(bundle / overlay_directories(index)[1], item.source)
            case _:
                pass
    if not spec.secret_env:
        (bundle / CONFIG).write_text(json.dumps(config_of(spec, bundle)))


def _dress(upper: Path, source: Path) -> None:
    """Give an overlay's upper directory the attributes of what it is laid over: the merged one has them."""
    status = source.lstat()
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, stat.S_IMODE(status.st_mode))
    # What overlayfs keeps there for itself is another overlay's.
    for name, value in read_xattrs(os.fsencode(source), os.fsencode(source)):
        os.setxattr(upper, name, value)
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))


async def _run(
    container: str,
    bundle: Path,
    spec: ContainerSpec,
    runtime: Runtime,
    on_output: OnOutput,
) -> int:
    in_memory = in_memory_of(spec, bundle)
    program, ending = _program(container, bundle, spec, runtime)
    words = command_line(program, staging_of(spec, in_memory), log=LOG)
    async with _launched(words, bundle, in_memory, ending) as process:
        async with _guard(process.pid, ending(process.pid)), asyncio.TaskGroup() as group:
            group.create_task(_pump(process.stdout, STDOUT, on_output))
            group.create_task(_pump(process.stderr, STDERR, on_output))
        return await process.wait()


def _program(
    container: str, bundle: Path, spec: ContainerSpec, runtime: Runtime
) -> tuple[list[str], Ending]:
    """Return the words that run a container, and what ends it."""

    def words(runtime: Runtime, config_dir: Path) -> list[str]:
        # The runtime's errors go to a log too: on stderr they are mixed with the command's own.
        log_options = ("--log", str(bundle / LOG), "--log-format", "json")
        return runtime.words(*log_options, "run", "--bundle", str(config_dir), container)

    def deletion(_: int) -> list[str]:
        return _deletion(runtime, container)

    if not spec.secret_env:
        return words(runtime, bundle), deletion
    in_memory = bundle / SECRETS
    if not runtime.copies_config:
        return words(runtime, in_memory), deletion
    hidden = dataclasses.replace(runtime, run_root=in_memory / "runtime")
    return mortal(words(hidden, in_memory)), _killing


@contextlib.asynccontextmanager
async def _launched(
    words: Sequence[str], bundle: Path, in_memory: Sequence[InMemory], ending: Ending
) -> AsyncIterator[Process]:
    """Begin a process for the block, and end it after that with all that it runs.

    Cancelled while it begins it is ended in the same way: asyncio would kill it alone.
    """
    launching = asyncio.ensure_future(_launch(words, bundle, in_memory))
    try:
        yield await until_done(launching)
    finally:
        if not launching.cancelled() and launching.exception() is None:
            process = launching.result()
            if process.returncode is None:
                await until_done(_kill(process, ending(process.pid)))


async def _launch(words: Sequence[str], bundle: Path, in_memory: Sequence[InMemory]) -> Process:
    given = _input_of(in_memory)
    try:
        return await asyncio.create_subprocess_exec(
            *words,
            cwd=bundle,
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C in the terminal is the worker's to handle
            limit=READ_BYTES,
        )
    finally:
        if given != asyncio.subprocess.DEVNULL:
            os.close(given)


def _input_of(in_memory: Sequence[InMemory]) -> int:
    """Return the launcher's standard input: a file in memory with all of them, the caller's to close."""
    data = b"".join(file.data for file in in_memory)
    if not data:
        return asyncio.subprocess.DEVNULL
    fd = os.memfd_create("secrets")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.asynccontextmanager
async def _guard(pid: int, ending: Sequence[str]) -> AsyncIterator[None]:
    """Keep a process that ends the container, which ``pid`` runs, if this process is killed.

    A container outlives who started it. The guard is told of a death by the end of its input, of
    which this process alone has the other side, and is a child, as an orphan would be nobody's
    to reap where a worker is the first process of its machine.
    """
    guard = await asyncio.create_subprocess_exec(
        *("sh", "-c", _GUARD, shlex.join(ending), str(pid)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            guard.kill()
        await until_done(guard.wait())


async def _pump(reader: asyncio.StreamReader | None, stream: int, on_output: OnOutput) -> None:
    assert reader is not None
    while data := await reader.read(READ_BYTES):
        on_output(stream, data)


async def _kill(process: Process, ending: Sequence[str]) -> None:
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


async def _drain(process: Process) -> None:
    # asyncio reports the end of a process only when its pipes have ended too, and a paused
    # reader never sees that: what is still in the pipes is read and dropped.
    for reader in (process.stdout, process.stderr):
        while reader is not None and await reader.read(READ_BYTES):
            pass
    await process.wait()


async def _containers(runtime: Runtime) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *command_line(runtime.words("list", "--quiet")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace").split()


def _deletion(runtime: Runtime, container: str) -> list[str]:
    """Return the words that end a container whose state is in the runtime's."""
    return command_line(runtime.words("delete", "--force", container))


def _killing(pid: int) -> list[str]:
    """Return the words that end what is ``mortal`` and runs as ``pid``."""
    return ["sh", "-c", _KILLING, str(pid)]


async def _call(words: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=_environment(),
    )
    await process.wait()


def _environment() -> dict[str, str]:
    # Not ours: a runtime acts on variables such as NOTIFY_SOCKET.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _raise_runtime_error(spec: ContainerSpec, path: Path) -> None:
    errors = list(_errors_in(path))
    if not errors:
        return
    message = errors[-1]
    if any(mark in message.lower() for mark in _NOT_FOUND):
        raise CommandNotFound(spec.args[0], message)
    raise RuntimeFailed(f"the container could not be started: {message}")


def _errors_in(path: Path) -> Iterator[str]:
    """Yield the error messages of the log: JSON lines of the runtime, text of the launcher."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_LOG_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            yield line
            continue
        if isinstance(record, dict) and record.get("level") in ("error", "fatal"):
            yield str(record.get("msg", line))
