"""Runs one container in an OCI runtime and streams what it prints."""

import asyncio
import json
import os
import secrets
import stat
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from filesync.disk.removing import remove_path
from filesync.disk.scanning.readfile import read_xattrs
from filesync.transfer.threads import in_thread
from worker.exec.ending import Ending, deletion, guard, killing, launched
from worker.exec.errors import CommandNotFound, RuntimeFailed
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
from worker.exec.runtime import Runtime, environment
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

READ_BYTES: Final = 64 << 10
STDOUT: Final = 1
STDERR: Final = 2
MAX_LOG_BYTES: Final = 64 << 10

_decoder: Final = json.JSONDecoder()
_NOT_FOUND: Final = (
    "executable file",
    "open executable",
    "is not executable",
    "exec: ",
    "exec format error",
)


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
    async with launched(_launch(words, bundle, in_memory), ending) as process:
        async with guard(process.pid, ending(process.pid)), asyncio.TaskGroup() as group:
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

    def delete(_: int) -> list[str]:
        return deletion(runtime, container)

    if not spec.secret_env:
        return words(runtime, bundle), delete
    in_memory = bundle / SECRETS
    if not runtime.copies_config:
        return words(runtime, in_memory), delete
    hidden = msgspec.structs.replace(runtime, run_root=in_memory / "runtime")
    return mortal(words(hidden, in_memory)), killing


async def _launch(words: Sequence[str], bundle: Path, in_memory: Sequence[InMemory]) -> Process:
    given = _input_of(in_memory)
    try:
        return await asyncio.create_subprocess_exec(
            *words,
            cwd=bundle,
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
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


async def _pump(reader: asyncio.StreamReader | None, stream: int, on_output: OnOutput) -> None:
    assert reader is not None
    while data := await reader.read(READ_BYTES):
        on_output(stream, data)


def _raise_runtime_error(spec: ContainerSpec, path: Path) -> None:
    errors = list(_errors_in(path))
    if not errors:
        return
    message = errors[-1]
    if any(mark in message.lower() for mark in _NOT_FOUND):
        raise CommandNotFound(spec.args[0], message)
    raise RuntimeFailed(f"the container could not be started: {message}")


def _errors_in(path: Path) -> Iterator[str]:
    """Yield the error messages of the log: JSON of the runtime, lines of text of the launcher.

    crun 1.28 writes an object over several lines, and earlier ones, as runc does, in one.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LOG_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return
    while text := text.lstrip():
        try:
            record, end = _decoder.raw_decode(text) if text[0] == "{" else (None, 0)
        except ValueError:
            record, end = None, 0
        if record is None:
            line, _, text = text.partition("\n")
            yield line
            continue
        if record.get("level") in ("error", "fatal"):
            yield str(record.get("msg", text[:end]))
        text = text[end:]
