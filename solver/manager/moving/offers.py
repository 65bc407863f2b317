"""What workers are asked to open to each other, and how it is closed again."""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from filesync.digest import Digest
from filesync.errors import FilesyncError
from filesync.transfer.threads import until_done
from solver.errors import OrderFailed, WorkerLost
from solver.manager.moving.links import blob_replicas, links_of
from solver.manager.shared import Shared
from solver.manager.workers import WorkerLink
from worker.wire import orders
from worker.wire.images import MAX_LAYERS
from worker.wire.leases import AskLacking, Lacking
from worker.wire.orders import FromLayers, Offered, OfferLayers, PassOn, RefInfo, Replica

log = logging.getLogger(__name__)

MAX_HOLDERS: Final = 3
"""Workers that one target takes the same from at the same time."""
SHARED_BYTES: Final = 16 << 20
"""What is smaller comes from one holder: to ask others takes as long."""
PASSED_BYTES: Final = 4 << 20
"""What is smaller is not passed on: to ask for that is a round trip."""
REF_MISSING: Final = "ref-missing"
"""How a worker says that it does not hold what we believed it did."""
Errands = list[Callable[[], Awaitable[None]]]
"""What is to be done once a transfer has ended, well or not."""


async def open_chain(
    shared: Shared,
    holders: Sequence[WorkerLink],
    worker: WorkerLink,
    lacking: Sequence[RefInfo],
    errands: Errands,
) -> tuple[FromLayers, tuple[str, ...]]:
    """Have holders open the layers of ``lacking`` (parents first) to ``worker``.

    Returns the order to pull them, and who opened them. The first holder makes those that
    never were made, and they are known from then on. Where the layers are large they come
    from a worker that takes the same now, if one does, and else from other holders too; and
    ``worker`` passes them on. What closes all that again is in ``errands``.

    Raises:
        OrderFailed, WorkerLost: the first does not hold them, or is gone.
    """
    holder = holders[0]
    others = [one for one in holders if one is not holder]
    request = OfferLayers(tuple(info.ref for info in lacking))
    offers = [(holder, await open_offer(shared, holder, request, errands))]
    first = offers[0][1]
    if len(first.layers) != len(lacking):
        detail = f"offered {len(first.layers)} of {len(lacking)} layers"
        raise OrderFailed(holder.name, "protocol", detail)
    size = sum(layer.size for layer in first.layers)
    await worker.send_tree(shared.nodes, first.tree)
    passing = None
    if size >= PASSED_BYTES:
        order = PassOn(first.tree, are_blobs=True)
        passing = await join_row(shared, worker, order, errands)
    if size >= SHARED_BYTES and passing is None:
        # The first has made what was not made; these have only to open it.
        for other in others[: MAX_HOLDERS - 1]:
            with contextlib.suppress(OrderFailed, WorkerLost):
                offers.append((other, await open_offer(shared, other, request, errands)))
    chain = links_of(lacking, offers)
    for link in chain:
        shared.records.add(link.ref)
    givers = [one.name for one, _ in offers] if passing is None else [passing.worker]
    return FromLayers(chain, first.tree, blob_replicas(offers), passing), tuple(givers)


async def join_row(
    shared: Shared, worker: WorkerLink, order: PassOn, errands: Errands
) -> Replica | None:
    """Have ``worker`` pass on what it is about to take; return who does so for it, if anybody.

    It has the nodes of that tree. It is passed on to who takes it then until an errand ends that.
    """
    place = shared.passers.join(order.tree, worker.name)
    if place is None:
        return None
    errands.append(partial(shared.passers.leave, order.tree, place))
    closing: Errands = []
    try:
        offered = await open_offer(shared, worker, order, closing)
    except (OrderFailed, WorkerLost):
        await place.close()
    else:
        place.open(Replica(worker.name, worker.address, offered.token), closing[0])
    return None if place.before is None else await place.before.opened()


async def open_subset(
    shared: Shared,
    holders: Sequence[WorkerLink],
    request: orders.Offer,
    tree: Digest,
    errands: Errands,
) -> tuple[Replica, ...]:
    """Have holders open ``tree``, a subset of what they hold; return where it may be had.

    The first must, up to MAX_HOLDERS others may. What closes it again is in ``errands``.

    Raises:
        OrderFailed, WorkerLost: the first does not hold it, or is gone.
    """
    first, *others = holders
    replicas = [await _open_one(shared, first, request, tree, errands)]
    for other in [one for one in others if one is not first][: MAX_HOLDERS - 1]:
        with contextlib.suppress(OrderFailed, WorkerLost):
            replicas.append(await _open_one(shared, other, request, tree, errands))
    return tuple(replicas)


async def _open_one(
    shared: Shared, holder: WorkerLink, request: orders.Offer, tree: Digest, errands: Errands
) -> Replica:
    offered = await open_offer(shared, holder, request, errands)
    if offered.tree != tree:
        raise OrderFailed(holder.name, "stale", "selected another subset than the manager")
    return Replica(holder.name, holder.address, offered.token)


async def open_offer(
    shared: Shared,
    holder: WorkerLink,
    request: orders.Offer | OfferLayers | PassOn,
    errands: Errands,
) -> Offered:
    """Have ``holder`` open what is asked for, to be closed by an errand."""
    try:
        offered = await holder.call(request)
    except OrderFailed as exc:
        if exc.reason == REF_MISSING and not isinstance(request, PassOn):
            asked = (request.ref,) if isinstance(request, orders.Offer) else request.refs
            await forget_lacking(shared, holder, asked)
        raise
    if not isinstance(offered, Offered):
        raise OrderFailed(holder.name, "protocol", "answered an offer with something else")
    errands.append(_closing(holder, offered.token))
    return offered


async def forget_lacking(
    shared: Shared, worker: WorkerLink, refs: Sequence[Digest]
) -> Sequence[Digest]:
    """Return which of ``refs`` a worker lacks; it is thought to hold them no longer.

    Raises:
        OrderFailed, WorkerLost: it does not say.
    """
    lacking: list[Digest] = []
    for at in range(0, len(refs), MAX_LAYERS):
        answer = await worker.call(AskLacking(tuple(refs[at : at + MAX_LAYERS])))
        if not isinstance(answer, Lacking):
            raise OrderFailed(worker.name, "protocol", "answered with something else")
        lacking.extend(answer.refs)
    if wrong := worker.refs.intersection(lacking):
        shared.cluster.forget(worker, wrong)
    return lacking


async def run_errands(errands: Errands) -> None:
    """Do all of them, even where who waits for that is cancelled: once, or again and again."""

    async def one_by_one() -> None:
        for errand in errands:
            await errand()

    await until_done(one_by_one())


def _closing(holder: WorkerLink, token: bytes) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        await quietly(holder.call(orders.Release(tokens=(token,))))

    return close


async def quietly(call: Awaitable[object]) -> None:
    """Await a call whose failure costs nothing but a line in the log."""
    try:
        await call
    except FilesyncError as exc:
        log.debug("left undone reason=%s", exc)
