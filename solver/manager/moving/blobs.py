"""Having a worker hold the very blobs of a result, where it came by its layers without them."""

import logging
from collections.abc import Sequence
from typing import Final

from filesync.digest import Digest
from filesync.errors import ContentCorrupt, FilesyncError, Unavailable
from solver.errors import OrderFailed
from solver.manager.moving.offers import REF_MISSING, forget_lacking, quietly
from solver.manager.shared import Shared
from solver.manager.workers import OnEvent, WorkerLink
from worker.wire import orders
from worker.wire.orders import Offered, Replica, Result

log = logging.getLogger(__name__)

BLOB_MISSING: Final = "blob-missing"
"""How a worker says that it has a layer, and not its blob, and cannot make that again."""
GIVERS_OWN: Final = frozenset({Unavailable.code, ContentCorrupt.code})
"""How it says that who gave it a blob was lost, or has a damaged one."""


async def call_with_blobs(
    shared: Shared,
    worker: WorkerLink,
    refs: Sequence[Digest],
    order: orders.OrderBody,
    on_event: OnEvent | None = None,
) -> Result:
    """Give an order that needs the blobs of ``refs``; bring those that turn out to be missing.

    Raises:
        OrderFailed, WorkerLost: as ``WorkerLink.call``; or nobody has a blob any more. Of ``refs``
            that the worker does not hold it is known then.
    """
    try:
        return await worker.call(order, on_event)
    except OrderFailed as exc:
        if exc.reason == REF_MISSING:
            await forget_lacking(shared, worker, refs)
        if exc.reason != BLOB_MISSING:
            raise
    for ref in refs:
        await _bring_blob(shared, worker, ref)
    return await worker.call(order, on_event)


async def _bring_blob(shared: Shared, worker: WorkerLink, ref: Digest) -> None:
    """Have ``worker`` hold the blob of one ref's own layer."""
    order = orders.OfferLayers((ref,), blobs_only=True)
    try:
        await _close(worker, await worker.call(order))
        return
    except OrderFailed as exc:
        if exc.reason != BLOB_MISSING:
            raise
        failure = exc
    for holder in shared.cluster.holders(ref):
        if holder is worker:
            continue
        try:
            offered = await holder.call(order)
        except FilesyncError as exc:
            log.info("no blob from worker=%s reason=%s", holder.name, exc)
            continue
        try:
            if not isinstance(offered, Offered):
                continue
            await worker.send_tree(shared.nodes, offered.tree)
            replica = Replica(holder.name, holder.address, offered.token)
            await worker.call(orders.PullBlobs(offered.layers, offered.tree, (replica,)))
            return
        except OrderFailed as exc:
            # Others may have it, or an image's comes again.
            if exc.reason not in GIVERS_OWN:
                raise
            log.info("no blob from worker=%s reason=%s", holder.name, exc)
        finally:
            await _close(holder, offered)
    raise failure


async def _close(holder: WorkerLink, offered: Result) -> None:
    if isinstance(offered, Offered):
        await quietly(holder.call(orders.Release(tokens=(offered.token,))))
