"""What a worker is told of the layers that it is to pull, from what their holders offer. Pure."""

from collections.abc import Sequence

from solver.manager.workers import WorkerLink
from worker.wire.orders import Layer, Link, LinkParts, Offered, RefInfo, Replica

Offers = Sequence[tuple[WorkerLink, Offered]]
"""What each holder has opened; the first holder's word on layers counts."""


def links_of(lacking: Sequence[RefInfo], offers: Offers) -> tuple[Link, ...]:
    """Return the links for ``lacking``, with all the places where their contents are."""
    first = offers[0][1]
    return tuple(
        Link(_with_layer(info, layer), layer, _parts(number, offers))
        for number, (info, layer) in enumerate(zip(lacking, first.layers, strict=True))
    )


def blob_replicas(offers: Offers) -> tuple[Replica, ...]:
    """Return where the blobs are that the first holder offers: where the same ones are."""
    tree = offers[0][1].tree
    return tuple(
        Replica(holder.name, holder.address, offered.token)
        for holder, offered in offers
        if offered.tree == tree
    )


def _parts(number: int, offers: Offers) -> LinkParts | None:
    first = offers[0][1].parts
    if number >= len(first) or (chosen := first[number]) is None:
        return None
    replicas = [
        Replica(holder.name, holder.address, parts.token)
        for holder, offered in offers
        if number < len(offered.parts) and (parts := offered.parts[number]) is not None
    ]
    return LinkParts(chosen.skeleton, tuple(replicas))


def _with_layer(info: RefInfo, layer: Layer) -> RefInfo:
    return RefInfo(
        info.ref, info.tree, info.parent, (), info.created_s, layer, False, info.tar_size
    )
