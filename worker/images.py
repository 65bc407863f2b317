"""What a worker does with registries: looks names up, pulls images' blobs, and pushes results.

Bytes go straight between this worker and the registry. A user's credential is used for the one
order that brought it, and then forgotten.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from worker.registry import Platform, Registries
from worker.store import Store
from worker.wire.images import (
    Credential,
    FromRegistry,
    Resolved,
    ResolveImage,
    parse_reference,
)

if TYPE_CHECKING:
    from worker.registry.client_http import RegistryClient
    from worker.registry.images_http import Transfers
    from worker.registry.manifest import Descriptor

OnShare = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""
TELL_EVERY_S: Final = 0.2


class Images:
    """Images between registries and one worker's store."""

    def __init__(self, store: Store, registries: Registries) -> None:
        self._store = store
        self._registries = registries
        self._opened: Transfers | None = None

    async def resolve(self, order: ResolveImage) -> Resolved:
        """Return what a name means now.

        Raises:
            RegistryError: nothing, or nothing that can be known.
        """
        wanted = Platform(order.os, order.architecture, order.variant)
        async with self._client(order.credential) as client:
            reference = parse_reference(order.name)
            manifest, config = await self._transfers().resolve(client, reference, wanted)
            return Resolved(manifest, config)

    async def pull(self, order: FromRegistry, *, holds: ExitStack, on_share: OnShare) -> int:
        """Have all blobs of an image in the store, kept while ``holds`` is open.

        Returns the bytes that had to come.

        Raises:
            RegistryError: not all are to be had.
            StoreError: this disk cannot take them.
        """
        meter = Meter(on_share)

        def begin(blobs: Sequence["Descriptor"]) -> None:
            holds.enter_context(self._store.blobs.holding([one.digest for one in blobs]))
            lacking = {
                one.digest: one.size for one in blobs if one.digest not in self._store.blobs
            }
            meter.total = sum(lacking.values())

        image = parse_reference(f"{order.repository}@{order.manifest}")
        holds.enter_context(self._store.blobs.holding([order.manifest]))
        async with self._client(order.credential) as client:
            await self._transfers().pull(client, image, begin, meter.add)
        return meter.done

    def _client(self, *credentials: Credential | None) -> "RegistryClient":
        from worker.registry.client_http import RegistryClient

        return RegistryClient(self._registries, tuple(one for one in credentials if one))

    def _transfers(self) -> "Transfers":
        from worker.registry.images_http import Transfers

        if self._opened is None:
            self._opened = Transfers(self._store.blobs)
        return self._opened


class Meter:
    """Counts bytes and tells of them, now and then."""

    def __init__(self, on_share: OnShare) -> None:
        self.total = 0
        self.done = 0
        self._on_share = on_share
        self._told_s = 0.0

    def add(self, size: int) -> None:
        """Count ``size`` more bytes."""
        self.done += size
        now_s = time.monotonic()
        if now_s - self._told_s > TELL_EVERY_S:
            self._told_s = now_s
            self._on_share(min(self.done, self.total), self.total)
