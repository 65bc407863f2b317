"""One order to bring layers here."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from filesync.errors import Unavailable
from filesync.manifest import File, Manifest
from filesync.transfer.replica import Replica
from filesync.transfer.stats import Progress, PullStats
from worker.blobs import Blob
from worker.store import Store
from worker.wire import orders
from worker.wire.orders import Layer

AT_ONCE: Final = 3
"""Layers of one chain that come at the same time: small ones do not wait for each other's round trips."""


class Move(msgspec.Struct):
    """One order: what it is told to do, and how far it is.

    Attributes:
        uses_nearby: contents may be read from other trees here.
        uses_passing: blobs may be taken from who passes them on; not once that failed.
    """

    order: orders.FromLayers | orders.PullBlobs
    on_progress: Callable[[Progress], None]
    stats: PullStats = msgspec.field(default_factory=lambda: PullStats(replicas=[]))
    uses_nearby: bool = True
    uses_passing: bool = True
    slots: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _offered: dict[bytes, File] = msgspec.field(default_factory=dict)
    _under_way: list[Progress] = msgspec.field(default_factory=list)

    @property
    def passing(self) -> orders.Replica | None:
        """Who passes them on, as they come there."""
        if isinstance(self.order, orders.PullBlobs) or not self.uses_passing:
            return None
        return self.order.passing

    def learn(self, store: Store) -> None:
        """Look up which blobs are on offer."""
        tree = Manifest(self.order.blobs, store.nodes)
        self._offered = {one.name: one for one in tree.root.entries if isinstance(one, File)}

    def offers(self, layer: Layer) -> bool:
        """Say whether a layer's blob is on offer."""
        return _name(layer) in self._offered

    def entry(self, layer: Layer) -> File:
        """Return the entry of a blob on offer.

        Raises:
            Unavailable: it is not.
        """
        found = self._offered.get(_name(layer))
        if found is None or found.size != layer.size:
            raise Unavailable(f"nobody offers the blob {layer.digest}")
        return found

    def blob(self, layer: Layer) -> Blob:
        """Return the blob of a layer that is on offer.

        Raises:
            Unavailable: it is not.
        """
        return Blob(layer.digest, layer.size, self.entry(layer).digest)

    def add(self, done: PullStats) -> None:
        """Count what one transfer has moved."""
        self.stats.files += done.files
        self.stats.content_bytes += done.content_bytes
        self.stats.copied_bytes += done.copied_bytes
        self.stats.replicas.extend(done.replicas)

    def progress(self) -> Callable[[Progress], None]:
        """Return what takes the progress of one transfer and tells that of all."""
        number = len(self._under_way)
        self._under_way.append(Progress(0, 0, 0))

        def tell(progress: Progress) -> None:
            self._under_way[number] = progress
            self.on_progress(Progress(*map(sum, zip(*self._under_way, strict=True))))

        return tell


def in_turn(
    replicas: Sequence[orders.Replica], passing: orders.Replica | None
) -> tuple[list[Replica], list[Replica]]:
    """Return whom to ask first, and who stands by: where somebody passes it on, all who hold it."""
    if passing is None:
        return replicas_of(replicas), []
    return replicas_of([passing]), replicas_of(replicas)


def replicas_of(replicas: Sequence[orders.Replica]) -> list[Replica]:
    """Return where an order says that something is to be had."""
    return [Replica(one.address or None, one.token) for one in replicas]


def _name(layer: Layer) -> bytes:
    return layer.digest.removeprefix("sha256:").encode()
