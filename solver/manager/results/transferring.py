"""A cached result moved because somebody said so: ``filesync transfer-cache``."""

import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from filesync.digest import Digest
from filesync.errors import FilesyncError
from solver.manager.results.replicas import Replicas, WorkerRef
from solver.wire import CacheTransferred, TransferCache, TransferProgress
from worker.wire.orders import Event, Progress

Tell = Callable[[TransferProgress], None]
_HEX: Final = re.compile(r"[0-9a-f]{8,64}")


class NotTransferable(FilesyncError):
    """There is no such result to be moved, or not there; the sentence says what to do."""

    code = "not-transferable"


async def transfer_cache(
    replicas: Replicas, asked: TransferCache, tell: Tell
) -> CacheTransferred:
    """Have the target fetch the result from the source, unless it is a dry run.

    ``tell`` is told how far it has come, if that was asked for.

    Raises:
        UsageError, NotTransferable: a worker or result is not there.
        Unavailable, OrderFailed: it could not be moved.
    """
    key = _key(replicas, asked.key)
    replicas.worker(asked.source)
    target = replicas.worker(asked.target)
    began_s = time.monotonic()
    held = await replicas.has_cache(asked.source, key)
    if held is None:
        raise NotTransferable(_not_there(replicas, asked.source, key))
    try:
        lacking_bytes = await replicas.bytes_to_pull(target.name, held)
        layers = len(replicas.shared.records.chain(held.ref))
        begun = TransferProgress(key, asked.source, target.name, 0, lacking_bytes)
        moved = 0
        if not asked.dry_run:
            moved = await _move(replicas, held, begun, tell if asked.progress else _untold)
        seconds = time.monotonic() - began_s
        return CacheTransferred(key, layers, lacking_bytes, moved, seconds)
    finally:
        await held.release()


async def _move(
    replicas: Replicas, held: WorkerRef, begun: TransferProgress, tell: Tell
) -> int:
    def progress(event: Event) -> None:
        if isinstance(event, Progress):
            come = {"done_bytes": event.done_bytes, "total_bytes": event.total_bytes}
            tell(msgspec.structs.replace(begun, **come))

    tell(begun)
    copy, report = await replicas.pull_reported(begun.target, await held.transfer(), progress)
    await copy.release()
    return 0 if report is None else report.bytes_moved


def _untold(_: TransferProgress) -> None:
    pass


def _key(replicas: Replicas, prefix: str) -> Digest:
    keys = replicas.shared.records.keys_like(prefix) if _HEX.fullmatch(prefix) else []
    if not keys:
        raise NotTransferable(
            f"no result is known under the key {prefix}; `filesync build --explain` ends with"
            " the keys of a build's steps"
        )
    if len(keys) > 1:
        some = ", ".join(key.hex()[:20] for key in keys[:3])
        raise NotTransferable(f"{prefix} begins several keys ({some}, …); give more of it")
    return keys[0]


def _not_there(replicas: Replicas, source: str, key: Digest) -> str:
    others = replicas.find_workers_with_cache(key)
    if others:
        return f"{source} does not hold {key.hex()[:16]}; {', '.join(others)} should: name it instead"
    return f"nobody holds {key.hex()[:16]} any more; build it again"
