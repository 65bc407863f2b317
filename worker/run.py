"""Runs one op on a snapshot and keeps the result as a ref."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from filesync.digest import Digest, digest_of
from filesync.errors import FilesyncError, LocalError
from filesync.manifest import File
from filesync.transfer.threads import acquired, in_thread, while_wanted
from worker.earlier import find_earlier
from worker.exec import Agents, ExecState, OnOutput, OutputTail, execute
from worker.files import InputTree, copy_of, perform, perform_again
from worker.inputs import Input
from worker.layers import tar_size
from worker.moving import imports
from worker.moving.errors import ImageMalformed
from worker.snapshots import Hints
from worker.store import Store
from worker.store.refs import HeldRef
from worker.store.results import keep
from worker.wire import orders
from worker.wire.ops import Copy, ExecOp, FileOp, GitOp, HttpOp, ImageOp, LocalOp
from worker.wire.orders import RefInfo
from worker.wire.secrets import Secret

log = logging.getLogger(__name__)


class OpFailed(FilesyncError):
    """The command of an exec ended with another status than 0."""

    code = "command-failed"

    def __init__(self, command: str, exit_status: int, tail: str) -> None:
        super().__init__(command, exit_status, tail)
        self.command = command
        self.exit_status = exit_status
        self.tail = tail

    def __str__(self) -> str:
        return f"{self.command!r} did not complete: exit status {self.exit_status}"


class CannotExec(FilesyncError):
    """This worker runs no commands: it is not root, or has no runtime."""

    code = "no-runtime"


async def run_op(
    order: orders.Run,
    inputs: Sequence[Input],
    store: Store,
    exec_state: ExecState | None,
    exec_missing: str,
    on_output: OnOutput,
    agents: Agents | None = None,
) -> RefInfo:
    """Run ``order.op`` on its inputs, which are in place, and return the new ref.

    After an error nothing of it is left; after a cancellation nothing either, or the whole ref.

    Raises:
        OpFailed: a command's exit status was not 0.
        FilesyncError: the op cannot be done; the sentence says why.
    """
    op = order.op
    match op:
        case LocalOp():
            return await _keep_source(inputs, store)
        case ImageOp() if not inputs:
            raise ImageMalformed("an image that is neither in a registry nor in a layout")
        case ImageOp() if inputs[0].source is not None:
            return await _keep_source(inputs, store)
        case ImageOp():
            return await while_wanted(
                imports.import_image, store, op, inputs[0].tree, order.keys
            )
        case HttpOp() | GitOp():
            return await _keep_remote(op, inputs, store, order.keys)
        case FileOp():
            return await _run_files(op, inputs, store, order.keys)
        case ExecOp():
            pass

    async def change(root: Path) -> Hints:
        if exec_state is None:
            raise CannotExec(exec_missing)
        return await _do_exec(op, root, inputs, exec_state, on_output, order.secrets, agents)

    base = None if op.scratch else _base(inputs)
    return await _kept(store, base, order.keys, change)


async def _run_files(
    op: FileOp, inputs: Sequence[Input], store: Store, keys: Sequence[Digest]
) -> RefInfo:
    base = None if op.scratch else _base(inputs)
    if (made := await _copied_again(op, inputs, store, base, keys)) is not None:
        return made

    async def change(root: Path) -> Hints:
        return await while_wanted(_do_files, op, root, inputs, time.time_ns())

    return await _kept(store, base, keys, change)


async def _copied_again(
    op: FileOp,
    inputs: Sequence[Input],
    store: Store,
    base: Digest | None,
    keys: Sequence[Digest],
) -> RefInfo | None:
    """Make the result of a copy out of that of an earlier one; None if there is none, or it fails.

    Whatever is wrong is found again, and said, where all is copied.
    """
    copy = copy_of(op)
    if copy is None or copy.input >= len(inputs):
        return None
    given = inputs[copy.input].tree
    try:
        earlier = await while_wanted(find_earlier, store, base, copy, given.manifest)
        if earlier is None:
            return None

        async def change(root: Path) -> Hints:
            do = partial(perform_again, root=root, source=given.root, now_ns=time.time_ns())
            return (await while_wanted(do, copy, earlier.plan)).hints

        return await _kept(store, base, keys, change, on=earlier.held)
    except FilesyncError as exc:
        log.info("not copied again: dest=%s reason=%s", copy.dest, exc)
        return None


async def _kept(
    store: Store,
    base: Digest | None,
    keys: Sequence[Digest],
    change: Callable[[Path], Awaitable[Hints]],
    on: HeldRef | None = None,
) -> RefInfo:
    """Keep what ``change`` makes of the tree of ``base``, or of an empty one; or of that of ``on``."""
    if on is None and base is not None:
        on = store.refs.get(base)
    prepare = partial(store.prepare_on, on)
    active = await acquired(prepare, store.snapshots.discard)
    try:
        hints = await change(active.path)
    except BaseException:
        await in_thread(store.snapshots.discard, active)
        raise
    return await while_wanted(keep, store, active, hints, base, keys)


def _base(inputs: Sequence[Input]) -> Digest:
    base = inputs[0].ref if inputs else None
    if base is None:
        raise LocalError("a partial source cannot be what an op is run on")
    return base


def _do_files(op: FileOp, root: Path, inputs: Sequence[Input], now_ns: int) -> Hints:
    trees = {i: InputTree(one.tree.root, one.tree.manifest) for i, one in enumerate(inputs)}
    return perform(op, root=root, inputs=trees, now_ns=now_ns).hints


async def _keep_remote(
    op: HttpOp | GitOp, inputs: Sequence[Input], store: Store, keys: Sequence[Digest]
) -> RefInfo:
    """Make what has just come from a URL the op's result, the same one on every worker."""
    (given,) = inputs
    root = given.tree.manifest.root
    copy, at_ns = Copy(0, "/", "/"), root.mtime_ns
    if isinstance(op, HttpOp):
        if given.file is None:
            raise LocalError("the input of such an op is always a download")
        (entry,) = root.entries
        if not isinstance(entry, File):
            raise LocalError("a download is always a file")
        path = f"/{op.name}"
        copy, at_ns = Copy(0, path, path, mode="0600"), entry.mtime_ns
    made = FileOp((copy,), scratch=True)

    async def change(root: Path) -> Hints:
        return await while_wanted(_do_files, made, root, inputs, at_ns)

    info = await _kept(store, None, keys, change)
    return info if given.file is None else store.refs.set_file(info.ref, given.file)


async def _do_exec(
    op: ExecOp,
    root: Path,
    inputs: Sequence[Input],
    state: ExecState,
    on_output: OnOutput,
    secrets: Sequence[Secret],
    agents: Agents | None,
) -> Hints:
    tail = OutputTail(on_output)
    paths = {i: one.tree.root for i, one in enumerate(inputs)}
    status = await execute(
        op,
        root=root,
        inputs=paths,
        state=state,
        on_output=tail,
        secrets=secrets,
        agents=agents,
    )
    if status != 0:
        raise OpFailed(" ".join(op.args), status, tail.text())
    return {}


async def _keep_source(inputs: Sequence[Input], store: Store) -> RefInfo:
    """Make a client's tree, or a part of an image, which has just come, the op's result.

    It is that for the time of the build.
    """
    tree = inputs[0].tree
    size = await in_thread(tar_size, None, tree.manifest)
    lease, inputs[0].source = inputs[0].source, None
    if lease is None:
        raise LocalError("the input of such an op is always a source")
    ref = digest_of(b"source\0" + secrets.token_bytes(16))
    store.hold_source(ref, lease, tree.manifest)
    return RefInfo(ref, tree.manifest.tree, created_s=time.time(), source=True, tar_size=size)
