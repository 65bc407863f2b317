"""Runs one ExecOp: from the op's words to a container, and the root clean again after it."""

import dataclasses
import os
import resource
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from filesync.disk.removing import remove_path
from filesync.transfer.threads import acquired, in_thread
from worker.exec.agents import Agents
from worker.exec.check import check_op, clean_target, environment, secret_environment
from worker.exec.errors import AgentMissing, SecretMissing
from worker.exec.output import OnOutput
from worker.exec.policy import DEFAULT_PATH, OPEN_FILES
from worker.exec.prepare import Given, Preparation, depth
from worker.exec.run import run_exec
from worker.exec.spec import Bind, ContainerSpec, Shown, Throwaway
from worker.exec.state import ExecState
from worker.exec.throwaway import is_overlay_possible, without_overlay
from worker.wire.ops import CacheMount, ExecOp, Mount, SecretMount, Sharing, SshMount
from worker.wire.secrets import Secret

PIPES: Final = "/dev/pipes"

_STRICTEST: Final = (Sharing.LOCKED, Sharing.PRIVATE, Sharing.SHARED)


async def execute(
    op: ExecOp,
    *,
    root: Path,
    inputs: Mapping[int, Path],
    state: ExecState,
    on_output: OnOutput,
    secrets: Sequence[Secret] = (),
    agents: Agents | None = None,
) -> int:
    """Run ``op`` in the directory ``root`` and return the command's exit status.

    Afterwards ``root`` holds what the command left there and the working directory, and no
    mount-point that was not there before. ``root`` must be nobody else's meanwhile.

    Args:
        op: what to run.
        root: the tree of input 0, writable, or an empty directory for ``op.scratch``.
        inputs: the directories of the other inputs, by number; never written to.
        state: the worker's.
        on_output: takes (1 or 2, bytes) as the command prints them; must not raise.
        secrets: what its secret mounts show, as files or variables; kept in memory only.
        agents: who answers at its ssh mounts; None is nobody.

    Raises:
        BadExec: the op asks for what no container may have.
        SecretMissing, AgentMissing: the op requires one that was not given.
        BadSecret: one cannot be the variable that the op has it be.
        UserUnknown: the op's user is not in the root's account files.
        PathMissing: an input does not have a bind mount's source.
        CommandNotFound: the root has no such command.
        RuntimeFailed: this machine could not set the container up.
    """
    check_op(op)
    known = {one.id: one.data for one in secrets}
    agents = agents or Agents()
    secret_env = secret_environment(op, known)
    op = _with_known(op, known, agents)
    async with AsyncExitStack() as stack:
        caches = await _lease_caches(op, state, stack)
        scratch = await stack.enter_async_context(_scratch(state))
        mounts = [mount for mount in op.mounts if isinstance(mount, SshMount)]
        listening = agents.listening(mounts, _directory(scratch / "agents"))
        given = Given(caches, known, await stack.enter_async_context(listening))
        prepared = await stack.enter_async_context(_prepared(root, inputs))
        spec = await in_thread(_spec, op, prepared, given, scratch)
        settled = [
            await _settled(item, scratch, index) for index, item in enumerate(spec.shown)
        ]
        return await run_exec(
            dataclasses.replace(spec, shown=tuple(settled), secret_env=secret_env),
            bundle_dir=scratch / "bundle",
            runtime=state.runtime,
            on_output=on_output,
        )


def network_files(hostname: str, resolv_conf: bytes) -> dict[str, bytes]:
    """Return the files below /etc that a container is shown. Pure.

    One without a network has them too: it has a loopback, and looks for ``localhost`` there.
    """
    names = f"localhost {hostname}"
    hosts = f"127.0.0.1\t{names}\n::1\t{names} ip6-localhost ip6-loopback\n"
    return {
        "hostname": f"{hostname}\n".encode(),
        "hosts": hosts.encode(),
        "resolv.conf": resolv_conf,
    }


def _with_known(op: ExecOp, secrets: Mapping[str, bytes], agents: Agents) -> ExecOp:
    """Return ``op`` with the mounts that have a target, and without those of what may be missing and is."""
    kept: list[Mount] = []
    for mount in op.mounts:
        match mount:
            case SecretMount(id=name) if name not in secrets:
                if mount.required:
                    raise SecretMissing(name)
            case SshMount(id=name) if name not in agents.ids:
                if mount.required:
                    raise AgentMissing(name)
            case SecretMount(target=""):
                pass  # a variable and no file
            case _:
                kept.append(mount)
    return msgspec.structs.replace(op, mounts=tuple(kept))


async def _lease_caches(op: ExecOp, state: ExecState, stack: AsyncExitStack) -> dict[str, Path]:
    """Acquire each cache once, in the order of ids: two ops never wait for each other."""
    wanted: dict[str, CacheMount] = {}
    for mount in op.mounts:
        if isinstance(mount, CacheMount):
            known = wanted.setdefault(mount.id, mount)
            sharing = min(known.sharing, mount.sharing, key=_STRICTEST.index)
            wanted[mount.id] = msgspec.structs.replace(known, sharing=sharing)
    leased = {}
    for name, mount in sorted(wanted.items()):
        leased[name] = await stack.enter_async_context(state.caches.acquire(mount))
    return leased


@asynccontextmanager
async def _scratch(state: ExecState) -> AsyncIterator[Path]:
    path = state.new_scratch()
    try:
        yield path
    finally:
        await in_thread(remove_path, path)


@asynccontextmanager
async def _prepared(root: Path, inputs: Mapping[int, Path]) -> AsyncIterator[Preparation]:
    prepared = await acquired(partial(Preparation, root, inputs), Preparation.close)
    try:
        yield prepared
    finally:
        await in_thread(prepared.close)


def _spec(
    op: ExecOp,
    prepared: Preparation,
    given: Given,
    scratch: Path,
) -> ContainerSpec:
    user = prepared.user(op.user)
    prepared.make_cwd(op.cwd, op.mounts)
    prepared.place_standard()
    mounts = sorted(op.mounts, key=lambda mount: depth(clean_target(mount.target)))
    shown = [prepared.show(mount, given) for mount in mounts]
    if op.files:
        shown.append(_pipes(op, scratch))
    shown += _network(op, prepared, scratch)
    return ContainerSpec(
        args=op.args,
        root=prepared.root,
        root_identity=prepared.identity,
        env=environment(op, home=user.home, path=DEFAULT_PATH),
        cwd=clean_target(op.cwd),
        user=user,
        hostname=op.hostname,
        network=op.network,
        shown=tuple(shown),
        max_open_files=_max_open_files(),
        machine=os.uname().machine,
    )


def _max_open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES[1] if hard == resource.RLIM_INFINITY else hard


def _pipes(op: ExecOp, scratch: Path) -> Bind:
    directory = _directory(scratch / "pipes")
    for name, text in op.files:
        file = directory / name
        file.write_text(text, newline="")
        file.chmod(0o755)
    return _bind(directory, PIPES, directory=True)


def _network(op: ExecOp, prepared: Preparation, scratch: Path) -> list[Shown]:
    directory = _directory(scratch / "etc")
    try:
        resolv_conf = Path("/etc/resolv.conf").read_bytes()
    except OSError:
        resolv_conf = b""
    shown: list[Shown] = []
    for name, data in network_files(op.hostname, resolv_conf).items():
        # What the op itself mounts there, or above it, is what it wants to see.
        if prepared.covering(f"/etc/{name}") is None:
            file = directory / name
            file.write_bytes(data)
            file.chmod(0o644)
            target = prepared.place(f"/etc/{name}", directory=False)
            shown.append(_bind(file, target, directory=False))
    return shown


def _directory(path: Path) -> Path:
    path.mkdir()
    path.chmod(0o755)
    return path


def _bind(path: Path, target: str, *, directory: bool) -> Bind:
    status = path.stat()
    return Bind(path, target, (status.st_dev, status.st_ino), directory=directory)


async def _settled(item: Shown, scratch: Path, index: int) -> Shown:
    if not isinstance(item, Throwaway):
        return item
    if item.directory and await is_overlay_possible(item, scratch):
        return item
    return await without_overlay(item, scratch / f"copy-{index}")
