"""Which of a worker's blobs nobody else has, though their results live elsewhere too. Pure.

A result's layer was published under its digest, here or in an image that went out, and may not
come out the same if it is made again. So while a result lives, some worker keeps its blob.
"""

from collections.abc import Iterable, Mapping, Set

import msgspec

from filesync.digest import Digest
from worker.wire.disk import Holdings, Holds


class Holder(msgspec.Struct, frozen=True):
    """One worker: its blobs, and the results that it holds."""

    holdings: Holdings
    refs: Set[Digest]


def holds_of(name: str, holders: Mapping[str, Holder], leased: Iterable[Digest]) -> Holds:
    """Return what worker ``name`` must know of the others before it removes anything."""
    own = holders[name].holdings
    others = [holder for other, holder in holders.items() if other != name]
    elsewhere = {blob for holder in others for blob in holder.holdings.blobs}
    living = _layers_of(set().union(*(holder.refs for holder in others)), holders.values())
    alone = [blob for blob in own.blobs if blob not in elsewhere]
    return Holds(
        tuple(sorted(leased)),
        tuple(blob for blob in alone if blob in living),
        tuple(blob for blob in own.blobs if blob in elsewhere),
    )


def _layers_of(refs: Set[Digest], holders: Iterable[Holder]) -> set[str]:
    """Return the blobs that were published of ``refs``, whoever knows of it."""
    layers = {
        layer for holder in holders for ref, layer in holder.holdings.layers if ref in refs
    }
    variants = {
        variant
        for holder in holders
        for layer, variant in holder.holdings.variants
        if layer in layers
    }
    return layers | variants
