"""From an order that names paths of an image in a registry to a source that has them."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from filesync.digest import digest_of
from filesync.errors import LocalError
from filesync.manifest import Manifest
from filesync.sources import Filling, SourceLease
from filesync.transfer.threads import acquired, in_thread
from worker.parts.part import ImagePart
from worker.parts.reading_http import ImageReader
from worker.parts.source import fill
from worker.parts.spool import Spool
from worker.registry.client_http import RegistryClient
from worker.registry.images_http import Pulls
from worker.registry.manifest import ImageManifest
from worker.registry.repository_http import Repository, places
from worker.store import Store, TreeView
from worker.wire.images import FromRegistry, Reference

if TYPE_CHECKING:
    from worker.registry.meter import Meter


async def import_part(
    store: Store,
    pulls: Pulls,
    client: RegistryClient,
    image: Reference,
    order: FromRegistry,
    meter: "Meter",
) -> ImagePart:
    """Have what ``order.selector`` names of ``image`` in a source.

    A source that was made for the same before is taken as it is.

    Raises:
        NotInParts, RegistryError, BadLayer, StoreError: see ``ImageReader.read``.
    """
    where = places(client, image)
    take = partial(store.sources.take, _key(order))
    filling = await acquired(take, store.sources.abandon)
    files = 0
    try:
        manifest = await pulls.manifest(where, image)
        if filling.tree is not None:
            tree = Manifest(filling.tree, store.nodes)
        else:
            tree, files = await _read(store, where, manifest, order, filling, meter)
        seal = partial(store.sources.seal, filling, tree.tree)
        lease = await acquired(seal, SourceLease.release)
    except BaseException:
        await in_thread(store.sources.abandon, filling)
        raise
    bytes_whole = sum(layer.size for layer in manifest.layers)
    return ImagePart(TreeView(tree, lease.path), lease, meter.done, files, bytes_whole)


async def _read(
    store: Store,
    where: Sequence[Repository],
    image: ImageManifest,
    order: FromRegistry,
    filling: Filling,
    meter: "Meter",
) -> tuple[Manifest, int]:
    """Read a part of ``image`` into ``filling``; return its tree, and how many contents came."""
    if order.selector is None:
        raise LocalError("nothing says what to read of an image")
    directory = await acquired(partial(store.make_work, "parts"), store.drop_work)
    try:
        spool = Spool(directory)
        reader = ImageReader(
            where, image, store.blobs, spool, expect=meter.expect, on_bytes=meter.add
        )
        found = await reader.read(order.selector)
        tree = await in_thread(fill, store, filling, found, spool)
        return tree, len(found.files())
    finally:
        await in_thread(store.drop_work, directory)


def _key(order: FromRegistry) -> str:
    """Return what a source is for that has this part of this image, and nothing else ever has.

    No source that a sync fills is for a text that begins with NUL.
    """
    asked = digest_of(msgspec.msgpack.encode(order.selector))
    return f"\0{order.manifest} {asked.hex()}"
